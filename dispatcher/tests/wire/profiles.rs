//! Runs that leave profiles, as a runner would report them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ntrace_profile::{FrameKind, Header, Profile, Symbol, pprof};
use ntrace_protocol::trace::TraceFile;
use serde_json::{Value, json};

use crate::support::{Run, Wire};

/// A commit of one digit.
pub(crate) fn commit(digit: char) -> String {
    digit.to_string().repeat(40)
}

/// Stacks below `main`, root first, `;` between frames, with their samples.
pub(crate) fn profile(stacks: &[(&str, u64)]) -> Vec<u8> {
    let header = Header {
        tracer: "sample".to_owned(),
        hz: 100,
        kernel: true,
        ..Header::default()
    };
    let mut profile = Profile::new(header);
    let process = profile.process("job");
    for (stack, samples) in stacks {
        let names = std::iter::once("main").chain(stack.split(';'));
        let frames: Vec<_> = names
            .map(|name| profile.frame(&Symbol::new(name, FrameKind::Native)))
            .collect();
        profile.add_samples(process, &frames, *samples);
    }
    pprof::write(&profile)
}

/// What a traced run is made of.
pub(crate) struct Traced<'a> {
    pub(crate) commit: char,
    pub(crate) parents: &'a [char],
    pub(crate) command: Option<&'a str>,
    pub(crate) profiles: Vec<Vec<u8>>,
}

impl Traced<'_> {
    /// Pushes it, runs it, ends it.
    pub(crate) async fn run(&self, wire: &mut Wire) -> Run {
        let (run, last) = self.begin(wire).await;
        let mut end = run.end("done", last);
        end["data"]["trace"] = json!({
            "state": "stored", "tracer": "sample", "hz": 100, "kernel": true,
            "profiles": self.profiles.len(),
        });
        wire.call("result", json!([end])).await;
        run
    }

    /// The same without its end.
    pub(crate) async fn begin(&self, wire: &mut Wire) -> (Run, Value) {
        let options = json!({"run": self.command});
        let args = json!(["o", "r", commit(self.commit), options]);
        wire.call("push", args).await;
        let run = wire.next().await;
        let parents: Vec<_> =
            self.parents.iter().copied().map(commit).collect();
        let source = json!({"event": "source", "parents": parents});
        wire.report(&run, "events", 1, source).await;
        for (at, bytes) in self.profiles.iter().enumerate() {
            let name = TraceFile::Profile.name(at as u32 + 1);
            put(wire, &run, &name, bytes).await;
        }
        (run, json!({"events": 1}))
    }
}

/// Leaves an artefact.
pub(crate) async fn put(wire: &mut Wire, run: &Run, name: &str, bytes: &[u8]) {
    let mut offset = 0;
    let mut pieces = bytes.chunks(500_000).peekable();
    while let Some(piece) = pieces.next() {
        let last = json!({"eof": pieces.peek().is_none()});
        let text = STANDARD.encode(piece);
        let args = json!([run.run, run.lease, name, offset, text, last]);
        wire.call("blob-put", args).await;
        offset += piece.len();
    }
}

/// A traced run with one profile.
pub(crate) async fn traced(
    wire: &mut Wire,
    commit: char,
    parents: &[char],
    stacks: &[(&str, u64)],
) -> Run {
    let profiles = vec![profile(stacks)];
    Traced { commit, parents, command: None, profiles }.run(wire).await
}

/// A document, fetched in pieces, with what is said of it.
pub(crate) async fn fetch(
    wire: &mut Wire,
    name: &str,
    mut args: Value,
    piece: u64,
) -> (Value, Vec<u8>) {
    let mut bytes = Vec::new();
    let at = args.as_array().unwrap().len() - 1;
    loop {
        args[at]["offset"] = json!(bytes.len());
        args[at]["length"] = json!(piece);
        let answer = wire.try_call(name, args.clone()).await;
        let answer = answer.unwrap_or_else(|e| panic!("{name} {args}: {e}"));
        let text = answer[1].as_str().unwrap();
        bytes.extend(STANDARD.decode(text).unwrap());
        if answer[2] == true {
            return (answer[0].clone(), bytes);
        }
        assert!(!text.is_empty(), "it goes on");
    }
}

//! The program on a terminal: a pseudo-terminal that we read.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use ntrace_protocol::JobState;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::json;
use tokio::process::Child;

use crate::fake::Fake;
use crate::program::{ended, ntrace, until};

/// A terminal, and what was shown on it so far.
struct Terminal {
    shown: Arc<Mutex<Vec<u8>>>,
    reader: std::thread::JoinHandle<()>,
}

impl Terminal {
    /// Starts the program with stdout and stderr on a new terminal.
    fn start(
        fake: &Fake,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> (Self, Child) {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        let slave: OwnedFd =
            rustix::fs::open(name, flags, Mode::empty()).unwrap();
        let mut command = ntrace(&fake.addr(), args);
        command.envs(env.iter().copied());
        command.stdout(Stdio::from(slave.try_clone().unwrap()));
        command.stderr(Stdio::from(slave));
        let child = command.spawn().unwrap();
        // The command holds our ends of the terminal until it is dropped.
        drop(command);
        let shown = Arc::<Mutex<Vec<u8>>>::default();
        let into = shown.clone();
        let reader = std::thread::spawn(move || {
            let mut master = File::from(master);
            let mut buffer = [0; 4096];
            // The read fails once the last program has let it go.
            while let Ok(n @ 1..) = master.read(&mut buffer) {
                into.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
        });
        (Self { shown, reader }, child)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// All that was shown, once the program has ended.
    async fn end(self, child: &mut Child) -> (Option<i32>, String) {
        let code = ended(child).await.code();
        until("the terminal is let go", || self.reader.is_finished()).await;
        (code, self.text())
    }
}

const HOSTILE: &str = "\u{1b}]0;title\u{7}\u{1b}[2Jx\r\u{1b}[31mred";

async fn show(args: &[&str], env: &[(&str, &str)]) -> String {
    let fake = Fake::start().await;
    let records = vec![
        ("events", json!({"event": "note", "text": "a \u{1b}[2J note"})),
        ("stdout", json!(HOSTILE)),
        ("stderr", json!({"base64": "m3s="})),
    ];
    let id = fake.job(1, JobState::Done, records).to_string();
    let args = [&["logs", &id][..], args].concat();
    let (terminal, mut child) = Terminal::start(&fake, &args, env);
    let (code, text) = terminal.end(&mut child).await;
    assert_eq!(code, Some(0), "{text:?}");
    text
}

#[tokio::test]
async fn what_a_job_wrote_is_harmless_on_a_terminal() {
    let text = show(&[], &[]).await;
    assert!(
        text.contains("\\x1b]0;title\\x07\\x1b[2Jx\\r\u{1b}[31mred"),
        "{text:?}"
    );
    assert!(text.contains("\\x9b{"), "{text:?}");
    assert!(!text.contains("\u{1b}]") && !text.contains("\u{1b}[2J"));
    assert!(text.contains("\u{1b}[2m# a \\x1b[2J note\u{1b}[0m"), "{text:?}");
    // The job's colour ends before our verdict, which has a line of its own.
    let (_, verdict) = text.trim_end().rsplit_once('\n').unwrap();
    assert!(verdict.starts_with("018bcfe5-6801 "), "{text:?}");
    let red = text.rfind("\u{1b}[31m").unwrap();
    assert!(text[red..].contains("\u{1b}[0m"), "{text:?}");
}

#[tokio::test]
async fn raw_switches_the_filter_off() {
    let text = show(&["--raw"], &[]).await;
    assert!(text.contains(HOSTILE), "{text:?}");
}

#[tokio::test]
async fn no_color_leaves_no_colour() {
    let text = show(&[], &[("NO_COLOR", "1")]).await;
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert!(text.contains("\\rred"), "{text:?}");
}

#[tokio::test]
async fn a_waiting_terminal_shows_progress_in_one_line() {
    let fake = Fake::start().await;
    let id = fake.job(1, JobState::Queued, vec![]);
    let args = ["logs", "-f", &id.to_string()];
    let (terminal, mut child) = Terminal::start(&fake, &args, &[]);
    until("the position is shown", || {
        terminal.text().contains("018bcfe5-6801 queued, position 4")
    })
    .await;
    fake.set(id, JobState::Running);
    until("the state is shown", || {
        terminal.text().contains("018bcfe5-6801 running")
    })
    .await;
    assert!(!terminal.text().contains('\n'), "{:?}", terminal.text());
    fake.change(|all| {
        all.records.insert(id, vec![("stdout", json!("out\n"))]);
    });
    fake.set(id, JobState::Done);
    let (code, text) = terminal.end(&mut child).await;
    assert_eq!(code, Some(0), "{text:?}");
    // The line is wiped before the job's own output.
    assert!(text.contains("\r\u{1b}[Kout\r\n"), "{text:?}");
}

#[tokio::test]
async fn a_table_has_colours_on_a_terminal_and_stays_aligned() {
    let fake = Fake::start().await;
    fake.job(1, JobState::Done, vec![]);
    fake.job(1 << 20, JobState::Failed, vec![]);
    let (terminal, mut child) = Terminal::start(&fake, &["list"], &[]);
    let (code, text) = terminal.end(&mut child).await;
    assert_eq!(code, Some(0), "{text:?}");
    assert!(text.contains("\u{1b}[32mdone\u{1b}[0m    "), "{text:?}");
    assert!(text.contains("\u{1b}[31mfailed\u{1b}[0m  "), "{text:?}");
}

//! Artefacts: `blob-put` for runners, `artefacts` and `blob-get` for people.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ntrace_protocol::id::ArtefactId;
use ntrace_protocol::runner::Held;
use ntrace_protocol::{Lease, RunId, WireError};
use ntrace_store::{ArtefactName, Piece};
use serde_json::{Value, json};

use super::Answer;
use super::job::{find, look};
use crate::args::{self, Options};
use crate::clock;
use crate::connection::Connection;
use crate::engine::Request;
use crate::refusal::{Refusal as _, fenced};

/// What a line needs besides a piece, in bytes.
const LINE_REST: usize = 1024;

/// `artefacts`.
pub(crate) async fn artefacts(conn: &Connection, args: &[Value]) -> Answer {
    let shared = &conn.shared;
    let id = look(shared, find(shared, args).await?).await?.id;
    let views = shared.store.artefacts(id).await.map_err(|e| e.wire())?;
    Ok(vec![json!(views)])
}

/// `blob-get`. A length that does not fit a line is cut: the answer says
/// whether that was the end.
pub(crate) async fn blob_get(conn: &Connection, args: &[Value]) -> Answer {
    let id: ArtefactId = args::parsed(args, 0, "artefact id")?;
    let offset = args::number(args, 1, "offset")?;
    let length = args::number(args, 2, "length")?;
    let most = conn.shared.max_line.saturating_sub(LINE_REST) / 4 * 3;
    let length = usize::try_from(length).unwrap_or(most).min(most);
    let piece = conn.shared.store.get_piece(id, offset, length).await;
    let (bytes, eof) = piece.map_err(|e| e.wire())?;
    Ok(vec![json!(STANDARD.encode(bytes)), json!(eof)])
}

/// `blob-put`.
pub(crate) async fn blob_put(conn: &Connection, args: &[Value]) -> Answer {
    let run: RunId = args::parsed(args, 0, "run_id")?;
    let lease = Lease(args::number(args, 1, "lease")?);
    let name: ArtefactName = args::parsed(args, 2, "name")?;
    let offset = args::number(args, 3, "offset")?;
    let bytes = STANDARD.decode(args::text(args, 4, "base64")?);
    let bytes = bytes
        .map_err(|e| WireError::invalid("base64", format!("base64: {e}")))?;
    let options = Options::read(args, 5, "options", &["eof", "sha256"])?;
    let is_last = options.typed("eof", "true or false")?.unwrap_or(false);
    let sha256 = sha256(&options)?;
    let shared = &conn.shared;
    let job = shared.store.output().job_of(run, lease);
    let job = job.ok_or_else(|| fenced(run))?;
    let runs = vec![Held { run_id: run, lease }];
    let from = conn.as_runner();
    shared.engine.tell(Request::Sign { from, runs }).await;
    let id = clock::artefact_id();
    let piece =
        Piece { job, run, lease, id, name, offset, bytes, is_last, sha256 };
    // Finished even if the asker leaves meanwhile, so that no file is left
    // without its row.
    let store = shared.store.clone();
    let put = shared.tasks.spawn(async move { store.put_piece(piece).await });
    let put = put.await.map_err(|error| {
        WireError::new(ntrace_protocol::Code::Einternal, error.to_string())
    })?;
    Ok(vec![json!(put.map_err(|e| e.wire())?)])
}

fn sha256(options: &Options<'_>) -> Result<Option<String>, WireError> {
    let hash: Option<String> = options.typed("sha256", "64 hex digits")?;
    let is_hash =
        |h: &String| h.len() == 64 && h.bytes().all(|b| b.is_ascii_hexdigit());
    match hash {
        Some(hash) if !is_hash(&hash) => {
            Err(WireError::invalid("sha256", "sha256 must be 64 hex digits"))
        }
        hash => Ok(hash.map(|hash| hash.to_ascii_lowercase())),
    }
}

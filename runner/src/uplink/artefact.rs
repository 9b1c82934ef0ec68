//! Sending a file that a job left, piece by piece.

use std::io;
use std::time::Duration;

use ntrace_client::{Backoff, CallError};
use ntrace_protocol::{Code, WireError};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::chain;
use super::out::Writer;

/// Bytes in one piece; as base64 it is a third more.
const PIECE: usize = 256 * 1024;

/// How often one piece is tried, and for how long each time a connection is
/// waited for.
const TRIES: u32 = 8;
const AWAY: Duration = Duration::from_secs(60);

/// Pauses between tries.
const PAUSE_LEAST: Duration = Duration::from_millis(250);
const PAUSE_MOST: Duration = Duration::from_secs(10);

/// Why a file is not kept.
#[derive(Debug, thiserror::Error)]
pub enum ArtefactError {
    /// It could not be read.
    #[error("cannot read it")]
    Read(#[source] io::Error),
    /// The dispatcher does not want it.
    #[error("the dispatcher refused it")]
    Refused(#[source] RefusedArtefact),
    /// The dispatcher was away for too long.
    #[error("it could not be sent in {TRIES} tries; the last: {last}")]
    Away {
        /// What the last try said.
        last: String,
    },
    /// The run is not ours any more.
    #[error("the run was dropped")]
    Dropped,
}

/// What the dispatcher said.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RefusedArtefact(WireError);

/// Sends a file; answers its length.
pub(super) async fn send(
    writer: &Writer,
    name: &str,
    mut reader: impl AsyncRead + Send + Unpin,
) -> Result<u64, ArtefactError> {
    let mut hash = Sha256::new();
    let mut offset = 0;
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        (&mut reader)
            .take(PIECE as u64)
            .read_to_end(&mut piece)
            .await
            .map_err(ArtefactError::Read)?;
        hash.update(&piece);
        // A short piece is the last one; it may be empty.
        let is_last = piece.len() < PIECE;
        let sum = is_last.then(|| hex(&hash.clone().finalize()));
        put(writer, name, offset, &piece, sum.as_deref()).await?;
        offset += piece.len() as u64;
        if is_last {
            return Ok(offset);
        }
    }
}

/// Sends one piece, through reconnects. The same piece again is harmless.
async fn put(
    writer: &Writer,
    name: &str,
    offset: u64,
    piece: &[u8],
    sum: Option<&str>,
) -> Result<(), ArtefactError> {
    let shared = &writer.shared;
    let held = writer.run.spool.meta().held();
    let mut backoff = Backoff::new(PAUSE_LEAST, PAUSE_MOST);
    let mut last = String::new();
    for _ in 0..TRIES {
        if writer.run.is_dropped() {
            return Err(ArtefactError::Dropped);
        }
        let Ok(Some(link)) = timeout(AWAY, shared.link_after(0)).await else {
            last = "there is no dispatcher".to_owned();
            continue;
        };
        let putting = link.dispatcher.blob_put(held, name, offset, piece, sum);
        match timeout(shared.config.waits.answer, putting).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(CallError::Refused(error))) if !is_passing(error.code) => {
                return Err(ArtefactError::Refused(RefusedArtefact(error)));
            }
            Ok(Err(error)) => last = chain(&error),
            Err(_) => last = "it was not answered in time".to_owned(),
        }
        tokio::time::sleep(backoff.pause()).await;
    }
    Err(ArtefactError::Away { last })
}

fn is_passing(code: Code) -> bool {
    matches!(code, Code::Eagain | Code::Ebusy | Code::Etime | Code::Einternal)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

//! Bringing artefacts home: a tar stream out of the zone, one upload a file.
//!
//! The stream is of a job's making: names are checked again by whoever
//! stores them, and nothing is ever unpacked here.

use std::io::{self, Read};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use ntrace_protocol::text::quote;
use ntrace_protocol::trace::is_reserved;
use ntrace_zones::{Collect, Inside};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::limits::Plan;
use super::work::Work;
use super::{chain, environment};
use crate::uplink::RunOut;

/// How long all of it may take.
const COLLECT: Duration = Duration::from_secs(600);

/// Files of a run at most.
const MAX_FILES: u64 = 1000;

/// Bytes of a run at most, where no limit says otherwise.
const MAX_BYTES: u64 = 1 << 30;

/// Bytes between the unpacking thread and the upload.
const BETWEEN: usize = 256 * 1024;

/// A file on its way: its name in the tree, and its bytes.
struct Leaving {
    name: String,
    bytes: DuplexStream,
}

/// Collects what the tree names; answers what is to be noted.
pub(super) async fn collect(
    inside: &Inside,
    plan: &Plan,
    work: &Work,
    out: &RunOut,
) -> Vec<String> {
    let want = Collect {
        user: environment::user(),
        dir: environment::dir(),
        globs: work.artefacts.clone(),
        max_bytes: plan.artefacts.unwrap_or(MAX_BYTES),
        max_files: MAX_FILES,
    };
    let deadline = Instant::now() + COLLECT;
    let mut collecting = match inside.collect(&want, deadline).await {
        Ok(collecting) => collecting,
        Err(error) => {
            return vec![format!("no artefacts: {}", chain(&error))];
        }
    };
    let (_, closed) = mpsc::channel(1);
    let tar = std::mem::replace(&mut collecting.tar, closed);
    let mut notes = upload(tar, out).await;
    match collecting.ended().await {
        Ok(collected) => notes.extend(collected.skipped),
        Err(error) => notes
            .push(format!("the artefacts are not complete: {}", chain(&error))),
    }
    notes
}

async fn upload(tar: mpsc::Receiver<Bytes>, out: &RunOut) -> Vec<String> {
    let reader = StreamReader::new(Box::pin(chunks(tar)));
    let reader = SyncIoBridge::new(reader);
    let (sender, mut files) = mpsc::channel(1);
    let unpacking = tokio::task::spawn_blocking(move || split(reader, &sender));
    let mut notes = Vec::new();
    while let Some(Leaving { name, bytes }) = files.recv().await {
        if is_reserved(&name) {
            // What is there is the runner's word, not the job's.
            notes.push(format!(
                "artefact {} is left out: names under trace/ and evidence/ \
                 are the runner's own",
                quote(&name)
            ));
        } else if let Err(error) = out.artefact(&name, bytes).await {
            notes.push(format!("artefact {name}: {}", chain(&error)));
        }
    }
    match unpacking.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => notes.push(format!("artefacts: {error}")),
        Err(_) => notes.push("artefacts: reading them was cut off".into()),
    }
    notes
}

fn chunks(tar: mpsc::Receiver<Bytes>) -> impl Stream<Item = io::Result<Bytes>> {
    stream::unfold(tar, |mut tar| async {
        tar.recv().await.map(|chunk| (chunk, tar))
    })
    .map(Ok)
}

/// Reads the tar and hands out each regular file.
fn split(reader: impl Read, files: &mpsc::Sender<Leaving>) -> io::Result<()> {
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let (bytes, writer) = tokio::io::duplex(BETWEEN);
        if files.blocking_send(Leaving { name, bytes }).is_err() {
            return Ok(());
        }
        let mut writer = SyncIoBridge::new(writer);
        // An upload that gave up has said why; the next file may go.
        let _ = io::copy(&mut entry, &mut writer);
    }
    Ok(())
}

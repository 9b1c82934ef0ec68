//! Node's own profiles: the hook goes into the zone before the run, what it
//! wrote comes out after it. All of it is of the job's making.

use std::io::{self, Read};
use std::time::Duration;

use ntrace_tracers::{Labels, Preload, Trace, node_trace};
use ntrace_zones::{Collect, Directory, Inside};
use tokio::time::Instant;
use tracing::warn;

use crate::job::{chain, environment};

/// How long the hook may take to go in.
const PUT: Duration = Duration::from_secs(30);

/// How long the profiles may take to come out.
const FETCH: Duration = Duration::from_secs(60);

/// Profiles of one repetition at most: bytes in all, and files.
const MAX_BYTES: u64 = 64 << 20;
const MAX_FILES: u64 = 256;

/// Puts the hook into the zone. None: the zone does not take it, so node
/// tells nothing.
pub(super) async fn put(inside: &Inside, repetition: u32) -> Option<Preload> {
    let preload = Preload::of(repetition);
    let dir = Directory::new(&preload.dir).ok()?;
    let tar = archive(Preload::NAME, Preload::CONTENT.as_bytes()).ok()?;
    let deadline = Instant::now() + PUT;
    let tar = io::Cursor::new(tar);
    let put = inside.unpack(&environment::user(), &dir, tar, deadline).await;
    match put {
        Ok(()) => Some(preload),
        Err(error) => {
            warn!(error = chain(&error), "cannot ask node for profiles");
            None
        }
    }
}

/// Fetches what node wrote. None: there was no node that wrote anything.
pub(super) async fn fetch(
    inside: &Inside,
    preload: &Preload,
    labels: &Labels,
) -> Result<Option<Trace>, String> {
    let dir = Directory::new(&preload.dir).map_err(|e| chain(&e))?;
    let want = Collect {
        user: environment::user(),
        dir,
        globs: vec![Preload::GLOB.to_owned()],
        max_bytes: MAX_BYTES,
        max_files: MAX_FILES,
    };
    let deadline = Instant::now() + FETCH;
    let collecting = inside.collect(&want, deadline).await;
    let mut collecting = collecting.map_err(|e| chain(&e))?;
    let mut tar = Vec::new();
    while let Some(chunk) = collecting.tar.recv().await {
        tar.extend_from_slice(&chunk);
    }
    collecting.ended().await.map_err(|e| chain(&e))?;
    let labels = labels.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let files = files(&tar).map_err(|error| error.to_string())?;
        if files.is_empty() {
            return Ok(None);
        }
        node_trace(&files, &labels).map(Some).map_err(|e| chain(&e))
    });
    reading.await.unwrap_or_else(|_| Err("it was cut off".to_owned()))
}

fn archive(name: &str, content: &[u8]) -> io::Result<Vec<u8>> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, name, content)?;
    builder.into_inner()
}

/// Names and contents of the files in a tar.
fn files(tar: &[u8]) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let mut bytes = Vec::new();
        // No more can be there than is in memory already.
        entry.read_to_end(&mut bytes)?;
        files.push((name, bytes));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_into_a_tar_comes_out_of_it() {
        let tar = archive("hook.cjs", b"content").unwrap();
        let found = files(&tar).unwrap();
        assert_eq!(found, [("hook.cjs".to_owned(), b"content".to_vec())]);
        assert!(files(&[0; 1024]).unwrap().is_empty());
    }
}

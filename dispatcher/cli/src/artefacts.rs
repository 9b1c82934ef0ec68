//! `artefacts`: what a job left behind, listed and fetched.
//!
//! A fetched file stands under its name only when it is whole and its hash
//! is right. The name that a job gave it is never used as a path here.

use ntrace_protocol::id::{ArtefactId, JobRef};
use ntrace_protocol::runner::ArtefactView;
use ntrace_protocol::text::quote;
use ntrace_protocol::{Code, WireError};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::args::{ArtefactsArgs, ArtefactsCommand};
use crate::failure::{Failure, Status};
use crate::file::Target;
use crate::link::Link;
use crate::screen::Screen;
use crate::show;
use crate::table::size;

/// How much is fetched at once: with base64 it fits a line.
const PIECE: u64 = 512 * 1024;

pub(crate) async fn run(
    args: ArtefactsArgs,
    link: &mut Link,
    screen: &Screen,
) -> Result<Status, Failure> {
    match args.command {
        ArtefactsCommand::List { id } => list(&id, link, screen).await,
        ArtefactsCommand::Get { id, name, artefact, output, force } => {
            let wanted = Wanted { name, artefact };
            get(&id, &wanted, Target { output, force }, link, screen).await
        }
    }
}

async fn list(
    id: &JobRef,
    link: &mut Link,
    screen: &Screen,
) -> Result<Status, Failure> {
    let id = id.to_string();
    let found = link.ask(screen, async |d| d.artefacts(&id).await).await?;
    if screen.json {
        screen.json(&found)?;
    } else if found.is_empty() {
        screen.say("the job left no artefact");
    } else {
        screen.table(&show::artefacts(&found), true, 0, |_| None)?;
    }
    Ok(Status::Ok)
}

/// Which artefact.
struct Wanted {
    name: Option<String>,
    artefact: Option<ArtefactId>,
}

async fn get(
    id: &JobRef,
    wanted: &Wanted,
    target: Target,
    link: &mut Link,
    screen: &Screen,
) -> Result<Status, Failure> {
    let id = id.to_string();
    let found = link.ask(screen, async |d| d.artefacts(&id).await).await?;
    let view = pick(&found, wanted)?;
    if target.is_stdout() {
        fetch(view, link, screen, |piece| screen.out(piece)).await?;
        return Ok(Status::Ok);
    }
    let shown = quote(&target.output.to_string_lossy());
    let mut part = target.begin()?;
    fetch(view, link, screen, |piece| part.write(piece)).await?;
    part.keep()?;
    if screen.json {
        let mut value = json!(view);
        value["file"] = json!(target.output.to_string_lossy());
        screen.json(&value)?;
    } else {
        screen.say(&format!("{shown} has {}", size(view.bytes)));
    }
    Ok(Status::Ok)
}

/// Finds it; of several with one name, the last run's.
fn pick<'a>(
    found: &'a [ArtefactView],
    wanted: &Wanted,
) -> Result<&'a ArtefactView, Failure> {
    let fits = |one: &&ArtefactView| match &wanted.artefact {
        Some(id) => one.id == *id,
        None => wanted.name.as_deref() == Some(one.name.as_str()),
    };
    found.iter().rfind(fits).ok_or_else(|| {
        let what = match &wanted.artefact {
            Some(id) => id.to_string(),
            None => quote(wanted.name.as_deref().unwrap_or_default()),
        };
        Failure::Refused(
            WireError::new(
                Code::Enoent,
                format!(
                    "the job left no artefact {what}; `ntrace artefacts list` \
                     shows what it left"
                ),
            )
            .on("name"),
        )
    })
}

/// An artefact's bytes, if they are not too many.
pub(crate) async fn content(
    view: &ArtefactView,
    most: u64,
    link: &mut Link,
    screen: &Screen,
) -> Result<Vec<u8>, Failure> {
    if view.bytes > most {
        return Err(Failure::Damaged(format!(
            "artefact {} has {}: too much to be believed",
            view.id,
            size(view.bytes)
        )));
    }
    let mut bytes = Vec::new();
    fetch(view, link, screen, |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })
    .await?;
    Ok(bytes)
}

/// Fetches all pieces and checks them.
async fn fetch(
    view: &ArtefactView,
    link: &mut Link,
    screen: &Screen,
    mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let id = view.id.to_string();
    let mut hash = Sha256::new();
    let mut at = 0_u64;
    loop {
        let (piece, is_last) = link
            .ask(screen, async |d| d.blob_get(&id, at, PIECE).await)
            .await?;
        at += piece.len() as u64;
        if at > view.bytes || (piece.is_empty() && !is_last) {
            break;
        }
        hash.update(&piece);
        take(&piece)?;
        if is_last {
            break;
        }
    }
    let digest = hash.finalize();
    let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    if at == view.bytes && hex.eq_ignore_ascii_case(&view.sha256) {
        return Ok(());
    }
    Err(Failure::Damaged(format!(
        "artefact {id} came damaged: {at} of {} bytes; fetch it again",
        view.bytes
    )))
}

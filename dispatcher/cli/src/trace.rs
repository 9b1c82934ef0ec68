//! `flame`, `diff`, `export`: traces, fetched and shown.
//!
//! The dispatcher draws and compares; here it is only fetched, checked and
//! shown. A file's name is made of the job's id, never of foreign text.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use ntrace_client::Export;
use ntrace_protocol::compare::{Document, Format};
use ntrace_protocol::text::{escape, quote};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::args::{DiffArgs, ExportArgs, FlameArgs, LookArgs};
use crate::failure::{Failure, Status};
use crate::file::Target;
use crate::link::Link;
use crate::screen::Screen;
use crate::show::trace as show;
use crate::table::{short, size};

/// How much is fetched at once: with base64 it fits a line.
const PIECE: u64 = 512 * 1024;
/// A document larger than this is not believed.
const MAX_BYTES: u64 = 4 << 30;

pub(crate) async fn flame(
    args: FlameArgs,
    link: &mut Link,
    screen: &Screen,
) -> Result<Status, Failure> {
    let export = export_of(args.trace.to_string(), Format::Svg, &args.look);
    let saved = save(&export, &args.look, link, screen).await?;
    let Some((document, path)) = saved else {
        return Ok(Status::Ok);
    };
    tell(&document, &path, screen)?;
    if args.open {
        open(&path, screen).await?;
    }
    Ok(Status::Ok)
}

pub(crate) async fn export(
    args: ExportArgs,
    link: &mut Link,
    screen: &Screen,
) -> Result<Status, Failure> {
    let mut export = export_of(args.trace.to_string(), args.format, &args.look);
    export.base = args.base.map(|base| base.to_string());
    if export.base.is_some() && !args.format.is_difference() {
        return Err(Failure::Usage(
            "--base is for the formats diff-svg and diff-svg-base".to_owned(),
        ));
    }
    let saved = save(&export, &args.look, link, screen).await?;
    if let Some((document, path)) = saved {
        tell(&document, &path, screen)?;
    }
    Ok(Status::Ok)
}

pub(crate) async fn diff(
    args: DiffArgs,
    link: &mut Link,
    screen: &Screen,
) -> Result<Status, Failure> {
    let trace = args.trace.to_string();
    let base = args.base.map(|base| base.to_string());
    let asked = base.as_deref();
    let diff = link
        .ask(screen, async |d| d.diff(&trace, asked, args.top).await)
        .await?;
    if screen.json {
        screen.json(&diff)?;
    } else {
        screen.line(&show::heading(&diff).join("\n"))?;
        if !diff.rows.is_empty() {
            screen.line("")?;
            let table = show::rows(&diff.rows, diff.unit);
            screen.table(&table, true, 0, show::level_style)?;
        }
        if let Some(text) = show::footing(&diff) {
            screen.say(&text);
        }
    }
    let drawings =
        [(args.svg, Format::DiffSvg), (args.svg_base, Format::DiffSvgBase)];
    for (file, format) in drawings {
        let Some(file) = file else { continue };
        let look = LookArgs {
            repetition: None,
            icicle: false,
            by_width: false,
            output: Some(file),
            force: args.force,
        };
        let mut export = export_of(trace.clone(), format, &look);
        // The same base as in the table, even if a newer one came meanwhile.
        let shown = diff.base.side.runs.first();
        export.base = base.clone().or(shown.map(|r| r.run_id.to_string()));
        let saved = save(&export, &look, link, screen).await?;
        if let Some((document, path)) = saved {
            // Stdout is the table's.
            talk(&document, &path, screen);
        }
    }
    Ok(Status::Ok)
}

fn export_of(trace: String, format: Format, look: &LookArgs) -> Export {
    Export {
        trace,
        format,
        base: None,
        repetition: look.repetition,
        icicle: look.icicle,
        by_width: look.by_width,
    }
}

/// Fetches a document into its file; none if that was stdout.
async fn save(
    export: &Export,
    look: &LookArgs,
    link: &mut Link,
    screen: &Screen,
) -> Result<Option<(Document, PathBuf)>, Failure> {
    let first =
        link.ask(screen, async |d| d.export(export, 0, PIECE).await).await?;
    let output = match &look.output {
        Some(output) => output.clone(),
        None => PathBuf::from(name(&first.0, export.format)),
    };
    let target = Target { output, force: look.force };
    if target.is_stdout() {
        fetch(export, first, link, screen, |piece| screen.out(piece)).await?;
        return Ok(None);
    }
    let mut part = target.begin()?;
    let document =
        fetch(export, first, link, screen, |piece| part.write(piece)).await?;
    part.keep()?;
    Ok(Some((document, target.output)))
}

/// A name for the file, of nothing but what is checked.
fn name(document: &Document, format: Format) -> String {
    let job = document.of.runs.first().map(|run| short(&run.job));
    let job = job.unwrap_or_else(|| "trace".to_owned());
    format!("ntrace-{job}.{}", format.extension())
}

fn tell(
    document: &Document,
    path: &Path,
    screen: &Screen,
) -> Result<(), Failure> {
    if screen.json {
        let mut value = json!(document);
        value["file"] = json!(path.to_string_lossy());
        return screen.json(&value);
    }
    talk(document, path, screen);
    Ok(())
}

fn talk(document: &Document, path: &Path, screen: &Screen) {
    let shown = quote(&path.to_string_lossy());
    screen.say(&format!(
        "{shown} has {}, of {} samples",
        size(document.bytes),
        document.of.samples
    ));
    if let Some(base) = &document.base {
        screen.say(&format!("the base is {}", escape(&base.why)));
    }
    for warning in &document.warnings {
        screen.say(&escape(warning));
    }
}

/// Fetches all pieces and checks them.
async fn fetch(
    export: &Export,
    first: (Document, Vec<u8>, bool),
    link: &mut Link,
    screen: &Screen,
    mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<Document, Failure> {
    let (document, mut piece, mut is_last) = first;
    let mut hash = Sha256::new();
    let mut at = 0_u64;
    let damaged = || {
        Failure::Damaged("the document came damaged; fetch it again".to_owned())
    };
    if document.bytes > MAX_BYTES {
        return Err(damaged());
    }
    loop {
        at += piece.len() as u64;
        if at > document.bytes || (piece.is_empty() && !is_last) {
            return Err(damaged());
        }
        hash.update(&piece);
        take(&piece)?;
        if is_last {
            break;
        }
        let next = link
            .ask(screen, async |d| d.export(export, at, PIECE).await)
            .await?;
        if next.0.sha256 != document.sha256 {
            return Err(Failure::Damaged(
                "the traces changed while they were fetched; fetch them again"
                    .to_owned(),
            ));
        }
        (piece, is_last) = (next.1, next.2);
    }
    let digest = hash.finalize();
    let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    match at == document.bytes && hex == document.sha256 {
        true => Ok(document),
        false => Err(damaged()),
    }
}

/// Shows a file in the browser. It is given as an absolute path, so that no
/// name is taken for an option.
async fn open(path: &Path, screen: &Screen) -> Result<(), Failure> {
    let absolute = std::path::absolute(path)
        .map_err(Failure::io("find the file that was written"))?;
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let status = tokio::process::Command::new(program)
        .arg(&absolute)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await;
    let shown = quote(&absolute.to_string_lossy());
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => {
            screen.say(&format!("{program} could not show {shown}"));
            Ok(())
        }
        Err(source) => Err(Failure::Io {
            doing: format!("run {program} to show {shown}"),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_after_the_job_and_nothing_foreign() {
        let document: Document = serde_json::from_value(json!({
            "name": "../../etc/passwd", "mime": "x", "bytes": 1,
            "sha256": "x",
            "of": {"runs": [{
                "job": "0192d3a4-5b6c-7d8e-9f00-112233445566",
                "run_id": "0192d3a4-5b6c-7d8e-9f00-000000000001",
                "submitted": "2026-11-21T09:00:00.000Z"}],
                "profiles": 1, "samples": 1, "cpu_seconds": 1.0},
        }))
        .unwrap();
        assert_eq!(name(&document, Format::Svg), "ntrace-0192d3a4-5b6c.svg");
        assert_eq!(
            name(&document, Format::DiffSvg),
            "ntrace-0192d3a4-5b6c.diff.svg"
        );
    }
}

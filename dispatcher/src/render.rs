//! Profiles into documents and differences.
//!
//! Pure: bytes and facts in, bytes and facts out, off the async threads. What
//! is read may be hostile; what cannot be read is refused by name, and what
//! would be too large is refused before it is made.

mod compared;
mod warnings;

use ntrace_profile::{Profile, export, folded, pprof, svg};
use ntrace_protocol::compare::{
    Base, DiffView, Document, Format, Side, SideRun,
};
use ntrace_protocol::text::escape;
use ntrace_protocol::trace::TraceFile;
use ntrace_protocol::{Code, WireError};
use ntrace_store::Traced;
use sha2::{Digest as _, Sha256};

use crate::documents::Wanted;

/// The largest document, in bytes; about so much memory goes into making it.
const DOCUMENT_MAX: u64 = 256 << 20;

/// Calls in the trees of all profiles of a request, 16 bytes each; one
/// profile may be of almost this size.
const NODES_MAX: usize = 16_000_000;

/// How a graph is drawn.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Look {
    /// The root is at the top.
    pub(crate) icicle: bool,
    /// The widest stand first, not in the order of names.
    pub(crate) by_width: bool,
}

/// A run with its profiles as they are stored.
pub(crate) struct InputRun {
    pub(crate) run: Traced,
    /// Repetition and bytes.
    pub(crate) profiles: Vec<(u32, Vec<u8>)>,
}

/// A side as it is stored.
pub(crate) struct Input {
    pub(crate) runs: Vec<InputRun>,
}

/// A side, read.
struct Loaded {
    side: Side,
    profiles: Vec<Profile>,
    warnings: Vec<String>,
}

impl Loaded {
    fn all(&self) -> Vec<&Profile> {
        self.profiles.iter().collect()
    }

    /// All profiles as one.
    fn one(mut self) -> Profile {
        let mut rest = std::mem::take(&mut self.profiles).into_iter();
        let mut sum = rest.next().unwrap_or_default();
        for profile in rest {
            sum.merge(&profile);
        }
        sum
    }
}

/// A fault of ours.
pub(crate) fn fault(text: &str) -> WireError {
    WireError::new(Code::Einternal, text)
}

/// What is left of the memory of a request, and whether it is still wanted.
struct Budget<'a> {
    nodes: usize,
    wanted: &'a Wanted,
}

impl<'a> Budget<'a> {
    fn new(wanted: &'a Wanted) -> Self {
        Self { nodes: NODES_MAX, wanted }
    }

    /// Takes what a profile needs.
    fn take(&mut self, nodes: usize) -> Result<(), WireError> {
        self.wanted.check()?;
        let left = self.nodes.checked_sub(nodes).ok_or_else(|| {
            WireError::invalid(
                "trace",
                format!(
                    "the profiles have more than {NODES_MAX} calls together; \
                     choose fewer, or fetch them with blob-get"
                ),
            )
        })?;
        self.nodes = left;
        Ok(())
    }
}

/// Reads a side.
fn load(
    input: &Input,
    which: &str,
    budget: &mut Budget<'_>,
) -> Result<Loaded, WireError> {
    let mut profiles = Vec::new();
    let mut runs = Vec::new();
    for InputRun { run, profiles: stored } in &input.runs {
        for (repetition, bytes) in stored {
            let profile = pprof::read(bytes)
                .map_err(|error| unreadable(run, *repetition, &error))?;
            budget.take(profile.nodes())?;
            profiles.push(profile);
        }
        runs.push(SideRun {
            job: run.job,
            run_id: run.run,
            submitted: run.submitted,
            worker: run.worker,
            tracer: run.trace.as_ref().and_then(|trace| trace.tracer),
            hz: run.trace.as_ref().and_then(|trace| trace.hz),
        });
    }
    let (mut samples, mut cpu_ns) = (0_u64, 0_u64);
    for total in profiles.iter().map(Profile::total) {
        samples = samples.saturating_add(total.samples);
        cpu_ns = cpu_ns.saturating_add(total.cpu_ns);
    }
    let side = Side {
        runs,
        source: input.runs.first().and_then(|r| r.run.source().cloned()),
        profiles: u32::try_from(profiles.len()).unwrap_or(u32::MAX),
        samples,
        cpu_seconds: cpu_ns as f64 / 1e9,
    };
    let traced = input.runs.iter().map(|one| &one.run);
    let warnings = warnings::of_side(which, traced, &profiles);
    Ok(Loaded { side, profiles, warnings })
}

fn unreadable(
    run: &Traced,
    repetition: u32,
    error: &pprof::ReadError,
) -> WireError {
    let name = TraceFile::Profile.name(repetition);
    let why = escape(&crate::refusal::chain(error));
    let text = format!(
        "{name} of run {} cannot be read: {why}; blob-get gives it as it is",
        run.run
    );
    WireError::invalid("trace", text)
}

/// Makes a document.
pub(crate) fn document(
    format: Format,
    look: Look,
    new: &Input,
    base: Option<&(Input, String)>,
    wanted: &Wanted,
) -> Result<(Document, Vec<u8>), WireError> {
    let mut budget = Budget::new(wanted);
    let raw = match (format, new.runs.as_slice()) {
        (Format::Pprof, [one]) => match one.profiles.as_slice() {
            [(_, bytes)] => Some(bytes),
            _ => None,
        },
        _ => None,
    };
    let of = load(new, "trace", &mut budget)?;
    let base = match base {
        Some((input, why)) => {
            Some((load(input, "base", &mut budget)?, why, input))
        }
        None => None,
    };
    let mut warnings = of.warnings.clone();
    if let Some((base, _, input)) = &base {
        warnings.extend(base.warnings.clone());
        let same = is_same_work(new, input);
        let differ = warnings::of_difference(&of.side, &base.side, same);
        warnings.extend(differ);
    }
    let side = of.side.clone();
    let name = name(&side, format);
    let bytes = match raw {
        // As the runner left it, not as we would write it.
        Some(bytes) => bytes.clone(),
        None => {
            let base = base.as_ref().map(|(loaded, ..)| loaded);
            written(format, look, of, base)?
        }
    };
    if bytes.len() as u64 > DOCUMENT_MAX {
        return Err(too_large(format));
    }
    let digest = Sha256::digest(&bytes);
    let document = Document {
        name,
        mime: format.mime().to_owned(),
        bytes: bytes.len() as u64,
        sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        of: side,
        base: base.map(|(loaded, why, _)| Base {
            why: why.clone(),
            side: loaded.side,
        }),
        warnings,
    };
    Ok((document, bytes))
}

/// Compares two sides; as many rows as are wanted and fit.
pub(crate) fn diff(
    new: &Input,
    base: &(Input, String),
    top: usize,
    max_bytes: usize,
    wanted: &Wanted,
) -> Result<DiffView, WireError> {
    let mut budget = Budget::new(wanted);
    let (base, why) = base;
    let same = is_same_work(new, base);
    let new = load(new, "new", &mut budget)?;
    let base = load(base, "base", &mut budget)?;
    let found = ntrace_profile::diff::diff(&base.all(), &new.all());
    let mut warnings = [new.warnings, base.warnings].concat();
    warnings.extend(warnings::of_difference(&new.side, &base.side, same));
    warnings.extend(found.alike.map(warnings::of_machine));
    let base = Base { why: why.clone(), side: base.side };
    let (rows, left_out) = compared::rows(&found, top, max_bytes);
    Ok(DiffView {
        base,
        new: new.side,
        unit: compared::unit(found.unit),
        total: compared::measure(&found.total),
        rows,
        left_out,
        warnings,
    })
}

fn is_same_work(new: &Input, base: &Input) -> bool {
    match (new.runs.first(), base.runs.first()) {
        (Some(new), Some(base)) => new.run.is_same_work(&base.run.spec),
        _ => true,
    }
}

fn too_large(format: Format) -> WireError {
    WireError::invalid(
        "format",
        format!(
            "as {format} it would have more than {DOCUMENT_MAX} bytes; take \
             svg or pprof"
        ),
    )
}

/// A name for a file, of checked parts only.
fn name(side: &Side, format: Format) -> String {
    let what = match (side.runs.as_slice(), &side.source) {
        ([one], _) => one.job.to_string()[..13].to_owned(),
        (_, Some(source)) => {
            format!("{}-{}", source.repo, short(source.commit.as_str()))
        }
        (_, None) => "trace".to_owned(),
    };
    format!("ntrace-{what}.{}", format.extension())
}

fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

fn written(
    format: Format,
    look: Look,
    of: Loaded,
    base: Option<&Loaded>,
) -> Result<Vec<u8>, WireError> {
    let options = options(look, &of.side, base.map(|base| &base.side));
    let base = base.ok_or_else(|| fault("a base is missing"));
    let text = match format {
        Format::Svg => svg::flame(&of.all(), &options),
        Format::DiffSvg => {
            let direction = svg::Direction::New;
            svg::diff(&base?.all(), &of.all(), direction, &options)
        }
        Format::DiffSvgBase => {
            let direction = svg::Direction::Base;
            svg::diff(&base?.all(), &of.all(), direction, &options)
        }
        Format::Pprof => return Ok(pprof::write(&of.one())),
        Format::Folded | Format::Speedscope | Format::Firefox => {
            let title = title(&of.side);
            let one = of.one();
            check_size(format, &one)?;
            match format {
                Format::Speedscope => export::speedscope(&one, &title),
                Format::Firefox => export::firefox(&one, &title),
                _ => folded::write(&one),
            }
        }
    };
    Ok(text.into_bytes())
}

/// Formats that write each stack out grow with the depth of stacks, so a
/// small profile may make an endless text.
fn check_size(format: Format, profile: &Profile) -> Result<(), WireError> {
    let mut bytes = 0_u64;
    for sample in profile.samples() {
        for frame in profile.leaf_first(sample.stack) {
            bytes += match format {
                // The name, and a mark between.
                Format::Folded => profile.view(frame).name.len() as u64 + 1,
                // The number of a frame.
                _ => 8,
            };
        }
        if bytes > DOCUMENT_MAX {
            return Err(too_large(format));
        }
    }
    Ok(())
}

/// What stands above a picture.
fn title(side: &Side) -> String {
    let what = match (&side.source, side.runs.first()) {
        (Some(source), _) => format!(
            "{}/{} {}",
            source.owner,
            source.repo,
            short(source.commit.as_str())
        ),
        (None, Some(run)) => format!("job {}", run.job),
        (None, None) => "trace".to_owned(),
    };
    match side.runs.len() {
        0 | 1 => what,
        runs => format!("{what}, {runs} runs"),
    }
}

fn options(look: Look, new: &Side, base: Option<&Side>) -> svg::Options {
    let title = match base {
        Some(base) => format!("{} against {}", title(new), title(base)),
        None => title(new),
    };
    svg::Options {
        title: Some(title),
        order: if look.by_width { svg::Order::Width } else { svg::Order::Name },
        growth: if look.icicle {
            svg::Growth::Icicle
        } else {
            svg::Growth::Flame
        },
        ..svg::Options::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profiles_of_a_request_share_one_bound() {
        let wanted = Wanted::default();
        let mut budget = Budget::new(&wanted);
        assert!(budget.take(NODES_MAX - 1).is_ok());
        assert!(budget.take(1).is_ok());
        let error = budget.take(1).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("trace"));
    }
}

//! `flame`, `export`, `diff`: traces, drawn and compared.
//!
//! Reads the arguments, finds the runs and their profiles, and hands pieces
//! out. What is in a profile is for `render`; who makes it when is for
//! `documents`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ntrace_protocol::compare::{Format, MAX_ROWS, ROWS, TraceRef};
use ntrace_protocol::trace::MAX_REPEAT;
use ntrace_protocol::{Code, JobId, WireError};
use ntrace_store::Traced;
use serde_json::{Value, json};

use super::Answer;
use crate::args::{self, Options};
use crate::choose::{self, Chosen};
use crate::connection::{Connection, Shared};
use crate::documents::{Documents, Made};
use crate::refusal::Refusal as _;
use crate::render::{self, Input, InputRun, Look};

/// What a line needs besides a piece and what is said of it, in bytes.
const LINE_REST: usize = 1024;
/// Bytes of all profiles that one request reads, as they are stored.
const READ_MAX: u64 = 64 << 20;

/// `flame`.
pub(crate) async fn flame(conn: &Connection, args: &[Value]) -> Answer {
    let trace = named(args, 0, "trace")?;
    let known = ["repetition", "icicle", "order", "offset", "length"];
    let options = Options::read(args, 1, "options", &known)?;
    let want = Want::read(Format::Svg, &options)?;
    deliver(conn, &trace, &want, &Piece::read(&options)?).await
}

/// `export`.
pub(crate) async fn export(conn: &Connection, args: &[Value]) -> Answer {
    let trace = named(args, 0, "trace")?;
    let format: Format = args::text(args, 1, "format")?.parse()?;
    let known = ["base", "repetition", "icicle", "order", "offset", "length"];
    let options = Options::read(args, 2, "options", &known)?;
    let want = Want::read(format, &options)?;
    deliver(conn, &trace, &want, &Piece::read(&options)?).await
}

/// `diff`.
pub(crate) async fn diff(conn: &Connection, args: &[Value]) -> Answer {
    let trace = named(args, 0, "trace")?;
    let base = match args.get(1) {
        None | Some(Value::Null) => None,
        Some(_) => Some(named(args, 1, "base")?),
    };
    let options = Options::read(args, 2, "options", &["top"])?;
    let what = format!("a whole number from 1 to {MAX_ROWS}");
    let top: u32 = options.typed("top", &what)?.unwrap_or(ROWS);
    if !(1..=MAX_ROWS).contains(&top) {
        return Err(WireError::invalid("top", format!("top must be {what}")));
    }
    let shared = &conn.shared;
    let sides = Sides::find(shared, &trace, Some(base.as_ref())).await?;
    let turn = shared.documents.turn().await?;
    let (new, base) = sides.load(shared).await?;
    let max_line = shared.max_line;
    let view = Documents::work(turn, move |wanted| {
        let base = base.ok_or_else(|| render::fault("a base is missing"))?;
        render::diff(&new, &base, top as usize, max_line / 2, wanted)
    });
    Ok(vec![json!(view.await?)])
}

/// A trace by position.
fn named(
    args: &[Value],
    at: usize,
    field: &str,
) -> Result<TraceRef, WireError> {
    let named = args::text(args, at, field)?.parse::<TraceRef>();
    named.map_err(|error| error.on(field))
}

/// What is to be made.
struct Want {
    format: Format,
    base: Option<TraceRef>,
    repetition: Option<u32>,
    look: Look,
}

impl Want {
    fn read(format: Format, options: &Options<'_>) -> Result<Self, WireError> {
        let base = options.parsed::<TraceRef>("base")?;
        if base.is_some() && !format.is_difference() {
            return Err(WireError::invalid(
                "base",
                "a base is for the formats diff-svg and diff-svg-base",
            ));
        }
        let what = format!("a whole number from 1 to {MAX_REPEAT}");
        let repetition: Option<u32> = options.typed("repetition", &what)?;
        if repetition.is_some_and(|n| !(1..=MAX_REPEAT).contains(&n)) {
            return Err(WireError::invalid(
                "repetition",
                format!("repetition must be {what}"),
            ));
        }
        let look = Look {
            icicle: options.typed("icicle", "true or false")?.unwrap_or(false),
            by_width: by_width(options)?,
        };
        Ok(Self { format, base, repetition, look })
    }
}

fn by_width(options: &Options<'_>) -> Result<bool, WireError> {
    match options.typed::<String>("order", "a string")?.as_deref() {
        None | Some("name") => Ok(false),
        Some("width") => Ok(true),
        Some(_) => Err(WireError::invalid(
            "order",
            "order must be \"name\" or \"width\"",
        )),
    }
}

/// Which piece of it is wanted.
struct Piece {
    offset: u64,
    length: Option<u64>,
}

impl Piece {
    fn read(options: &Options<'_>) -> Result<Self, WireError> {
        let what = "a whole number from 0";
        Ok(Self {
            offset: options.typed("offset", what)?.unwrap_or(0),
            length: options.typed("length", what)?,
        })
    }
}

/// Makes the document unless it is still there, and answers a piece of it.
async fn deliver(
    conn: &Connection,
    trace: &TraceRef,
    want: &Want,
    piece: &Piece,
) -> Answer {
    let shared = &conn.shared;
    let is_difference = want.format.is_difference();
    let base = is_difference.then_some(want.base.as_ref());
    let mut sides = Sides::find(shared, trace, base).await?;
    if let Some(number) = want.repetition {
        sides.keep_repetition(number)?;
    }
    let key = sides.key(want);
    let made = match shared.documents.get(&key) {
        Some(made) => made,
        None => make(shared, key, sides, want).await?,
    };
    answer(&made, piece, shared.max_line)
}

async fn make(
    shared: &Shared,
    key: String,
    sides: Sides,
    want: &Want,
) -> Result<Arc<Made>, WireError> {
    let turn = shared.documents.turn().await?;
    // Somebody may have had it made while this one waited.
    if let Some(made) = shared.documents.get(&key) {
        return Ok(made);
    }
    let jobs = sides.jobs();
    let (new, base) = sides.load(shared).await?;
    let (format, look) = (want.format, want.look);
    let (document, bytes) = Documents::work(turn, move |wanted| {
        render::document(format, look, &new, base.as_ref(), wanted)
    })
    .await?;
    Ok(shared.documents.keep(key, Made { document, bytes, jobs }))
}

/// A piece that fits a line, with what is to be known of the whole.
fn answer(made: &Made, piece: &Piece, max_line: usize) -> Answer {
    let document = json!(made.document);
    let taken = document.to_string().len() + LINE_REST;
    let most = max_line.saturating_sub(taken) / 4 * 3;
    if most == 0 {
        let text = format!(
            "a piece does not fit a line of {max_line} bytes; start the \
             dispatcher with a longer --max-line"
        );
        return Err(WireError::new(Code::Einternal, text));
    }
    let length = piece.length.and_then(|n| usize::try_from(n).ok());
    let length = length.unwrap_or(most).min(most);
    let total = made.bytes.len();
    let from = usize::try_from(piece.offset).unwrap_or(total).min(total);
    let to = from.saturating_add(length).min(total);
    let text = STANDARD.encode(&made.bytes[from..to]);
    Ok(vec![document, json!(text), json!(to == total)])
}

/// The runs of one or two sides.
struct Sides {
    new: Chosen,
    /// With the reason why.
    base: Option<(Chosen, String)>,
}

impl Sides {
    /// Finds them. `base`: none if there is to be none; inside, none if
    /// nobody said which.
    async fn find(
        shared: &Shared,
        trace: &TraceRef,
        base: Option<Option<&TraceRef>>,
    ) -> Result<Self, WireError> {
        let new = choose::side(shared, trace).await;
        let new = new.map_err(|error| error.on("trace"))?;
        let base = match base {
            None => None,
            Some(Some(named)) => {
                let base = choose::side(shared, named).await;
                let base = base.map_err(|error| error.on("base"))?;
                Some((base, format!("{named}, as it was asked for")))
            }
            Some(None) => {
                let base = choose::base(shared, &new).await?;
                Some((base.chosen, base.why))
            }
        };
        Ok(Self { new, base })
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Chosen> {
        let base = self.base.as_mut().map(|(base, _)| base);
        std::iter::once(&mut self.new).chain(base)
    }

    fn keep_repetition(&mut self, number: u32) -> Result<(), WireError> {
        for chosen in self.all() {
            for run in &mut chosen.runs {
                run.profiles.retain(|one| one.repetition == number);
            }
            chosen.runs.retain(|run| !run.profiles.is_empty());
            if chosen.runs.is_empty() {
                return Err(WireError::new(
                    Code::Enoent,
                    format!("there is no profile of repetition {number}"),
                )
                .on("repetition"));
            }
        }
        Ok(())
    }

    /// What the document depends on. Profiles never change.
    fn key(&self, want: &Want) -> String {
        let ids = |chosen: &Chosen| {
            let profiles = chosen.runs.iter().flat_map(|run| &run.profiles);
            profiles.map(|one| one.id.to_string()).collect::<Vec<_>>().join(",")
        };
        let base = self.base.as_ref();
        let base = base.map(|(base, why)| format!("{} {why}", ids(base)));
        format!(
            "{} {:?} {} {}",
            want.format,
            want.look,
            ids(&self.new),
            base.unwrap_or_default()
        )
    }

    fn jobs(&self) -> Vec<JobId> {
        let base = self.base.iter().flat_map(|(base, _)| &base.runs);
        self.new.runs.iter().chain(base).map(|run| run.job).collect()
    }

    /// Reads the profiles.
    async fn load(
        self,
        shared: &Shared,
    ) -> Result<(Input, Option<(Input, String)>), WireError> {
        let mut left = READ_MAX;
        let new = load(shared, self.new, &mut left).await?;
        let base = match self.base {
            Some((base, why)) => {
                Some((load(shared, base, &mut left).await?, why))
            }
            None => None,
        };
        Ok((new, base))
    }
}

async fn load(
    shared: &Shared,
    chosen: Chosen,
    left: &mut u64,
) -> Result<Input, WireError> {
    let mut runs = Vec::new();
    for run in chosen.runs {
        let mut profiles = Vec::new();
        for one in &run.profiles {
            *left =
                left.checked_sub(one.bytes).ok_or_else(|| too_much(&run))?;
            let length = usize::try_from(one.bytes).unwrap_or(usize::MAX);
            let read = shared.store.get_piece(one.id, 0, length).await;
            let (bytes, _) = read.map_err(|error| error.wire())?;
            profiles.push((one.repetition, bytes));
        }
        runs.push(InputRun { run, profiles });
    }
    Ok(Input { runs })
}

fn too_much(run: &Traced) -> WireError {
    WireError::invalid(
        "trace",
        format!(
            "the profiles have more than {READ_MAX} bytes, at run {}; choose \
             one with repetition, or fetch them with blob-get",
            run.run
        ),
    )
}

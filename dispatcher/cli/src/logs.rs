//! `logs`: a job's records, whole and once, over as many connections as it
//! takes.
//!
//! Invariant: a record is handed to the output before the position moves
//! behind it, and what lies before the position is never handed out again.

mod output;

use ntrace_client::{CallError, Dispatcher, LogEnd, LogStream, LogsOptions};
use ntrace_protocol::job::JobView;
use ntrace_protocol::report::LogRecord;
use ntrace_protocol::{JobId, JobState, Stream};
use serde_json::json;
use tokio::time::{Duration, Instant};

use crate::args::LogsArgs;
use crate::failure::{Failure, Status};
use crate::link::Link;
use crate::progress::{self, Beat};
use crate::screen::Screen;
use crate::show;

pub(crate) use output::{Output, OutputOptions};

/// A connection is lost when a sign of life was asked for in vain, and
/// nothing else came for so long either.
const DEAF: Duration = Duration::from_secs(30);

/// What is to be read.
pub(crate) struct Reading {
    /// Of which job.
    pub(crate) job: JobId,
    /// The next record.
    pub(crate) next: u64,
    /// Whether to go on until the job ends.
    pub(crate) follow: bool,
    /// Which streams; none for all.
    pub(crate) streams: Option<Vec<Stream>>,
}

pub(crate) async fn logs(
    args: LogsArgs,
    link: &mut Link,
    screen: &Screen,
) -> Result<Status, Failure> {
    let id = args.id.to_string();
    let job = link.ask(screen, async |d| d.status(&id).await).await?;
    let streams: Vec<Stream> =
        args.stream.iter().copied().map(Stream::from).collect();
    let output = Output::new(
        screen,
        OutputOptions {
            streams: streams.clone(),
            timestamps: args.timestamps,
            raw: args.raw,
        },
    );
    let reading = Reading {
        job: job.id,
        next: args.from.unwrap_or_default(),
        follow: args.follow,
        streams: output.wanted(),
    };
    let (job, end) = read(reading, output, link, screen).await?;
    conclude(&job, Some(&end), args.follow, screen)
}

/// The last line, and the exit status that the job stands for.
pub(crate) fn conclude(
    job: &JobView,
    end: Option<&LogEnd>,
    counts: bool,
    screen: &Screen,
) -> Result<Status, Failure> {
    if screen.json {
        screen.json(&json!({"end": end, "verdict": job}))?;
    } else if job.state.is_final() {
        screen.say_line(&show::verdict(job, screen.err_colours()));
    } else {
        screen.say_line(&show::unfinished(job));
    }
    Ok(if counts { verdict_status(job.state) } else { Status::Ok })
}

/// What a final state means for a script.
pub(crate) fn verdict_status(state: JobState) -> Status {
    match state {
        JobState::Done => Status::Ok,
        _ => Status::JobFailed,
    }
}

/// Hands out all records, then answers the job as it is then.
pub(crate) async fn read(
    mut reading: Reading,
    mut output: Output,
    link: &mut Link,
    screen: &Screen,
) -> Result<(JobView, LogEnd), Failure> {
    let interrupt =
        reading.follow.then(|| screen.leave_running_on_interrupt(reading.job));
    let end = loop {
        let dispatcher = link.dispatcher().await?;
        let read =
            one_connection(&mut reading, &mut output, &dispatcher, screen);
        let (came, outcome) = read.await?;
        if came {
            link.works();
        }
        match outcome {
            Ok(end) if end.ended || !reading.follow => break end,
            // A dispatcher that stops says where to go on.
            Ok(_) | Err(CallError::Closed { .. }) => {
                output.pause()?;
                link.again(screen).await?;
            }
            Err(error) => return Err(error.into()),
        }
    };
    link.works();
    output.finish()?;
    let id = reading.job.to_string();
    let job = link.ask(screen, async |d| d.status(&id).await).await?;
    drop(interrupt);
    Ok((job, end))
}

type Outcome = Result<LogEnd, CallError>;

/// Reads until the answer comes or the connection is lost. The first result
/// says whether any record came.
async fn one_connection(
    reading: &mut Reading,
    output: &mut Output,
    dispatcher: &Dispatcher,
    screen: &Screen,
) -> Result<(bool, Outcome), Failure> {
    let options = LogsOptions {
        from: Some(reading.next),
        follow: Some(reading.follow),
        streams: reading.streams.clone(),
    };
    let mut stream = match dispatcher.logs(reading.job, &options) {
        Ok(stream) => stream,
        Err(error) => return Ok((false, Err(error))),
    };
    let mut came = false;
    let mut last = Instant::now();
    let mut is_shown =
        screen.can_rewrite() && reading.follow && !output.has_written();
    let mut pulse = progress::pulse(dispatcher, reading.job, is_shown, true);
    loop {
        tokio::select! {
            biased;
            record = stream.next() => match record {
                Some(record) => {
                    came = true;
                    take(record, reading, output)?;
                    if output.has_written() && is_shown {
                        is_shown = false;
                        screen.clear();
                        pulse = progress::pulse(
                            dispatcher, reading.job, false, false,
                        );
                    }
                    last = Instant::now();
                }
                None => break,
            },
            beat = &mut pulse => {
                if let Err(error) =
                    heard(beat, last.elapsed(), is_shown, screen)
                {
                    screen.clear();
                    return Ok((came, Err(error)));
                }
                pulse = progress::pulse(
                    dispatcher, reading.job, is_shown, false,
                );
            }
        }
    }
    screen.clear();
    Ok((came, end_of(stream, reading)))
}

/// Hands a record out, unless it was handed out already.
fn take(
    record: LogRecord,
    reading: &mut Reading,
    output: &mut Output,
) -> Result<(), Failure> {
    if record.n < reading.next {
        return Ok(());
    }
    output.record(&record)?;
    reading.next = record.n + 1;
    Ok(())
}

/// A sign of life, or its absence. While records come, or this program was
/// itself held up by its reader, a late answer means nothing.
fn heard(
    beat: Beat,
    silent: Duration,
    is_shown: bool,
    screen: &Screen,
) -> Result<(), CallError> {
    match beat {
        Ok(Some(job)) if is_shown => progress::show(screen, &job),
        Ok(_) | Err(CallError::Refused(_)) => {}
        Err(CallError::Late { name, .. }) if silent >= DEAF => {
            return Err(CallError::Closed { name });
        }
        Err(CallError::Late { .. }) => {}
        Err(closed @ CallError::Closed { .. }) => return Err(closed),
    }
    Ok(())
}

/// The answer; a dispatcher's `next` may skip what was not wanted.
fn end_of(stream: LogStream, reading: &mut Reading) -> Outcome {
    let end = stream.end()?;
    reading.next = reading.next.max(end.next);
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_sign_of_life_means_a_loss_only_in_silence() {
        let late = || {
            let name = "ping".to_owned();
            Err(CallError::Late { name, after: DEAF })
        };
        let screen = Screen::new(true);
        let hears = |beat, silent| heard(beat, silent, false, &screen);
        assert_eq!(hears(late(), DEAF / 2), Ok(()));
        assert!(matches!(hears(late(), DEAF), Err(CallError::Closed { .. })));
        assert_eq!(hears(Ok(None), DEAF * 9), Ok(()));
    }
}

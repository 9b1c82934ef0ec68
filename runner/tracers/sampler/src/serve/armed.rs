//! A sampler before it samples: all that takes time is done, so that it can
//! begin at once.
//!
//! Invariant: nothing is recorded before the word to begin.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Lines, OwnGroup, ROUND, Service, chain, fail, say};
use crate::clock;
use crate::listen::Listener;
use crate::names::{Budget, Names};
use crate::perf::{Settings, Warmth, open};
use crate::recorder::Recorder;
use crate::sys;
use crate::target::{How, Order};
use crate::wire::{Answer, Ask};
use crate::zone::ZoneFiles;

/// All is ready, and nothing is recorded yet.
pub(super) struct Armed {
    how: How,
    recorder: Recorder,
    /// Where to listen for the job's first process, from the beginning on:
    /// one that comes earlier is not the job's.
    socket: Option<PathBuf>,
    /// The job's first process opens the events while the job waits.
    warmth: Option<Warmth>,
    names: Names,
    warnings: Vec<String>,
    group: Option<OwnGroup>,
}

impl Armed {
    /// Tries the ways in turn.
    pub(super) fn new(order: &Order) -> Result<Armed, String> {
        let ways = order.ways();
        let mut reasons = Vec::new();
        for (how, path) in ways {
            let tried = match how {
                How::Group => Armed::by_group(order, path),
                How::Inherit => Armed::by_process(order, path),
            };
            match tried {
                Ok(mut armed) => {
                    armed.warnings.extend(reasons);
                    return Ok(armed);
                }
                Err(why) => reasons.push(why),
            }
        }
        if reasons.is_empty() {
            return Err("the zone names no way to trace it".to_owned());
        }
        Err(reasons.join("; "))
    }

    fn of(order: &Order, how: How, kernel: bool) -> Result<Armed, String> {
        let settings = Settings {
            hz: order.hz,
            stack_bytes: order.stack_bytes,
            kernel,
            inherit: how == How::Inherit,
        };
        let files = ZoneFiles::hold(order.init).map_err(|e| chain(&e))?;
        Ok(Armed {
            how,
            recorder: Recorder::new(settings, files),
            socket: None,
            warmth: None,
            names: Names::new(&order.checkout, Budget::of(ROUND)),
            warnings: Vec::new(),
            group: None,
        })
    }

    fn by_group(order: &Order, path: &Path) -> Result<Armed, String> {
        let group = match fs::create_dir(path) {
            Ok(()) => Some(OwnGroup(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
            Err(error) => {
                return Err(format!(
                    "cannot make the cgroup {}: {error}",
                    path.display()
                ));
            }
        };
        sys::hurry();
        let mut armed = Armed::of(order, How::Group, true)?;
        let settings = *armed.recorder.settings();
        let events = open::on_group(&settings, path, order.init)
            .map_err(|error| chain(&error))?;
        armed.recorder.listen_to(events);
        armed.group = group;
        Ok(armed)
    }

    fn by_process(order: &Order, path: &Path) -> Result<Armed, String> {
        let mut armed = Armed::of(order, How::Inherit, false)?;
        armed.socket = Some(path.to_owned());
        armed.warmth = Some(Warmth::make());
        Ok(armed)
    }

    /// Waits for the word to begin, then serves; gives the exit status.
    pub(super) fn serve(self, lines: &mut Lines) -> u8 {
        if say(&Answer::Armed(self.how), &[]).is_err() {
            return 1;
        }
        match lines.next_blocking() {
            // Nobody wants it any more.
            None => return 0,
            Some(Ok(Ask::Go)) => {}
            Some(Ok(_)) => return fail("it was not begun"),
            Some(Err(why)) => return fail(&why),
        }
        match self.begin() {
            Ok(service) if say(&Answer::Started, &[]).is_ok() => {
                service.run(lines)
            }
            Ok(_) => 1,
            Err(why) => fail(&why),
        }
    }

    /// Nothing of what runs from now on is missed.
    fn begin(self) -> Result<Service, String> {
        let listener = self.socket.as_deref().map(|path| {
            Listener::bind(path).map_err(|error| {
                let why = format!("cannot listen on {}", path.display());
                let mut reasons = self.warnings.clone();
                reasons.push(format!("{why}: {error}"));
                reasons.join("; ")
            })
        });
        let listener = listener.transpose()?;
        self.recorder
            .begin()
            .map_err(|error| format!("cannot switch an event on: {error}"))?;
        Ok(Service {
            how: self.how,
            recorder: self.recorder,
            listener,
            names: self.names,
            started_ns: clock::since_1970(),
            begun: clock::now(),
            warnings: self.warnings,
            _group: self.group,
            _warmth: self.warmth,
        })
    }
}

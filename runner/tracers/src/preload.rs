//! Node's own profiler, switched on by a file that node loads first: for
//! places where nobody else can name what it compiles.
//!
//! The file and what it writes are in the zone, outside of the job's
//! directory, and go with the zone's rollback. What comes out is of the
//! job's making. A process that is killed leaves no profile.

/// The directory in the zone.
const DIR: &str = "/var/tmp/ntrace-trace";

/// The hook. It must never disturb the program it is loaded into: whatever
/// fails is left alone. A tenth of a kilohertz costs about 1 %.
const SCRIPT: &str = r"'use strict';
(() => {
  try {
    const inspector = require('node:inspector');
    const fs = require('node:fs');
    const { threadId } = require('node:worker_threads');
    const session = new inspector.Session();
    session.connect();
    session.post('Profiler.enable');
    session.post('Profiler.setSamplingInterval', { interval: 10309 });
    session.post('Profiler.start');
    process.once('exit', () => {
      try {
        session.post('Profiler.stop', (error, result) => {
          if (error) return;
          const text = JSON.stringify(result.profile);
          if (text.length > 64 * 1024 * 1024) return;
          const name = `${process.pid}-${threadId}.cpuprofile`;
          fs.writeFileSync(`${__dirname}/${name}`, text);
        });
      } catch {}
    });
  } catch {}
})();
";

/// What must be put into the zone for one run, and what is to be fetched
/// from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preload {
    /// The directory, absolute; one of each repetition's own.
    pub dir: String,
}

impl Preload {
    /// Samples a second that the hook asks for.
    pub const HZ: u32 = 97;
    /// The name of the one file to be put there.
    pub const NAME: &str = "hook.cjs";
    /// What is in it.
    pub const CONTENT: &str = SCRIPT;
    /// Which files to fetch afterwards.
    pub const GLOB: &str = "*.cpuprofile";

    /// For a repetition, from 1.
    #[must_use]
    pub fn of(repetition: u32) -> Self {
        Self { dir: format!("{DIR}/{repetition}") }
    }

    /// The file that node loads.
    #[must_use]
    pub fn file(&self) -> String {
        format!("{}/{}", self.dir, Self::NAME)
    }
}

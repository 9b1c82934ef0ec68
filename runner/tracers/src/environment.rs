//! What a job's environment gets so that its frames have names.
//!
//! Pure. Nothing of what the job itself set is lost: node's options are
//! added to, the rest is set only where it is not set. A job that has
//! `NTRACE_TRACE_ENV=none` in its environment keeps it as it is.

use std::collections::BTreeMap;

/// The variable that keeps the environment as it is, with the value `none`.
pub const OPT_OUT: &str = "NTRACE_TRACE_ENV";

/// V8 writes `/tmp/perf-PID.map` as it compiles, and interpreted functions
/// get frames of their own. Not `--perf-basic-prof`, which also leaves a log
/// in the job's directory.
const NODE_MAPS: &str =
    "--perf-basic-prof-only-functions --interpreted-frames-native-stack";

/// What is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Additions<'a> {
    /// Nothing.
    Nothing,
    /// What makes runtimes write perf maps, on Linux.
    PerfMaps,
    /// Node loads this file first; it is in the zone already.
    Preload(&'a str),
}

/// Adds to a job's environment.
pub fn add(env: &mut BTreeMap<String, String>, additions: Additions<'_>) {
    if env.get(OPT_OUT).is_some_and(|value| value == "none") {
        return;
    }
    match additions {
        Additions::Nothing => {}
        Additions::PerfMaps => {
            append(env, "NODE_OPTIONS", NODE_MAPS);
            // Read by Python 3.12 and later; others pass over it.
            env.entry("PYTHONPERFSUPPORT".to_owned())
                .or_insert_with(|| "1".to_owned());
        }
        Additions::Preload(file) => {
            append(env, "NODE_OPTIONS", &format!("--require {file}"));
        }
    }
}

fn append(env: &mut BTreeMap<String, String>, name: &str, more: &str) {
    let value = env.entry(name.to_owned()).or_default();
    if !value.is_empty() {
        value.push(' ');
    }
    value.push_str(more);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(
        given: &[(&str, &str)],
        additions: Additions<'_>,
    ) -> BTreeMap<String, String> {
        let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        let mut env = given.iter().map(own).collect();
        add(&mut env, additions);
        env
    }

    #[test]
    fn node_keeps_the_options_that_the_job_gave_it() {
        let given = [("NODE_OPTIONS", "--max-old-space-size=64")];
        let env = with(&given, Additions::PerfMaps);
        assert_eq!(
            env["NODE_OPTIONS"],
            format!("--max-old-space-size=64 {NODE_MAPS}")
        );
        assert_eq!(env["PYTHONPERFSUPPORT"], "1");
        let env = with(&[], Additions::Preload("/x/hook.cjs"));
        assert_eq!(env["NODE_OPTIONS"], "--require /x/hook.cjs");
    }

    #[test]
    fn what_the_job_sets_itself_stays() {
        let env = with(&[("PYTHONPERFSUPPORT", "0")], Additions::PerfMaps);
        assert_eq!(env["PYTHONPERFSUPPORT"], "0");
        for additions in [Additions::PerfMaps, Additions::Preload("/x")] {
            let env = with(&[(OPT_OUT, "none")], additions);
            assert_eq!(env.len(), 1, "{env:?}");
        }
        assert!(with(&[], Additions::Nothing).is_empty());
    }
}

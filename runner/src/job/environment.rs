//! Where a job finds itself: user, directory, variables.

use std::collections::BTreeMap;

use ntrace_protocol::runner::Assignment;
use ntrace_zones::{BadSpec, Directory, JobSpec, UserName};

/// The job's own user in each worker.
const USER: &str = "job";

/// That user's home.
const HOME: &str = "/home/job";

/// Where the tree is, and the command starts.
const DIR: &str = "/home/job/work";

/// Where programs are looked for, after the tree's own: what a worker's
/// operator mounted, what SmartOS's package manager installs, the system.
const PATH: &str = "/opt/rust/bin:/opt/local/sbin:/opt/local/bin:\
                    /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:\
                    /sbin:/bin";

/// A tar of nothing: two blocks of zeros.
pub(super) const EMPTY_TAR: &[u8] = &[0; 1024];

/// The job's user.
pub(super) fn user() -> UserName {
    USER.parse().expect("the name is a constant that fits")
}

/// The job's directory.
pub(super) fn dir() -> Directory {
    Directory::new(DIR).expect("the path is a constant that fits")
}

/// A shell command as words.
pub(super) fn shell(command: &str) -> Vec<String> {
    ["/bin/sh", "-c", command].map(str::to_owned).to_vec()
}

/// The job's variables; what is wished goes last.
pub(super) fn variables(
    assignment: &Assignment,
    wished: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let mut set = |name: &str, value: String| {
        env.insert(name.to_owned(), value);
    };
    set("NTRACE", "true".to_owned());
    set("CI", "true".to_owned());
    set("HOME", HOME.to_owned());
    set("USER", USER.to_owned());
    set("LOGNAME", USER.to_owned());
    set("SHELL", "/bin/sh".to_owned());
    set("LANG", "C.UTF-8".to_owned());
    set("PATH", format!("{DIR}/node_modules/.bin:{PATH}"));
    set("NTRACE_JOB", assignment.id.to_string());
    set("NTRACE_ATTEMPT", assignment.attempt.to_string());
    if let Some(source) = &assignment.spec.source {
        let repository = format!("{}/{}", source.owner, source.repo);
        set("NTRACE_REPOSITORY", repository);
        set("NTRACE_COMMIT", source.commit.to_string());
    }
    env.extend(wished.clone());
    env
}

/// A command in the job's place.
///
/// # Errors
/// Something in it cannot be passed to a process.
pub(super) fn spec(
    argv: Vec<String>,
    env: BTreeMap<String, String>,
) -> Result<JobSpec, BadSpec> {
    JobSpec::new(user(), dir(), argv, env.into_iter().collect())
}

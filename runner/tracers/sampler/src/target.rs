//! What is to be sampled, and by which way.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Samples per second of processor time, unless set otherwise.
pub const DEFAULT_HZ: u32 = 199;

/// Bytes of user stack in each sample, unless set otherwise.
pub const DEFAULT_STACK_BYTES: u32 = 8192;

/// The way in which a zone's processes are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// By cgroup: each process, however short. Needs root, or CAP_PERFMON
    /// with the right to enter the zone's pid namespace.
    Group,
    /// From the job's first process to all its children. Frames of the
    /// kernel are not seen, nor are processes shorter than a sample's
    /// period.
    Inherit,
}

/// Where the sampler's program is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Program {
    /// This very executable, whose `main` calls [`crate::multicall`].
    #[default]
    Embedded,
    /// A file of its own.
    File(PathBuf),
}

/// A running zone, and how to sample it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The host's pid of the zone's process 1.
    pub init: i32,
    /// The cgroup for perf events, where one can be had.
    pub group: Option<PathBuf>,
    /// Where to listen for the job's first process.
    pub socket: Option<PathBuf>,
    /// The way; `None` chooses the best that is permitted.
    pub how: Option<How>,
    /// Samples per second of processor time.
    pub hz: u32,
    /// Bytes of user stack in each sample: 512 to 61440.
    pub stack_bytes: u32,
    /// The job's directory: paths in it are shown relative to it.
    pub checkout: PathBuf,
    /// Where the program is.
    pub program: Program,
}

/// A description of a VM from which no target can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It is not running.
    #[error("the zone has no process 1: it is not running")]
    NotRunning,
    /// It is no zone of this machine's stand-in.
    #[error(
        "vmadm get says nothing on how to trace the zone; only zones of the \
         Linux stand-in on this machine can be sampled"
    )]
    NoTrace,
}

impl Target {
    /// From the object that `vmadm get` prints.
    ///
    /// # Errors
    /// When the zone is down, or is not one that can be sampled.
    pub fn from_vm(vm: &Value) -> Result<Target, TargetError> {
        let trace = vm["ntrace"]["trace"].as_object();
        let path = |name: &str| {
            let text = trace?.get(name)?.as_str()?;
            Some(PathBuf::from(text))
        };
        Target::new(vm["pid"].as_i64(), path("group"), path("socket"))
    }

    /// From what such an object says: the pid of the zone's process 1, and
    /// the two places.
    ///
    /// # Errors
    /// When the zone is down, or is not one that can be sampled.
    pub fn new(
        init: Option<i64>,
        group: Option<PathBuf>,
        socket: Option<PathBuf>,
    ) -> Result<Target, TargetError> {
        let init = init.and_then(|pid| i32::try_from(pid).ok());
        let init = init.filter(|pid| *pid > 0);
        let init = init.ok_or(TargetError::NotRunning)?;
        let group = group.filter(|path| path.is_absolute());
        let socket = socket.filter(|path| path.is_absolute());
        if group.is_none() && socket.is_none() {
            return Err(TargetError::NoTrace);
        }
        Ok(Target {
            init,
            group,
            socket,
            how: None,
            hz: DEFAULT_HZ,
            stack_bytes: DEFAULT_STACK_BYTES,
            checkout: PathBuf::from("/home/job/work"),
            program: Program::Embedded,
        })
    }

    /// The same for the sampler's own process.
    pub(crate) fn order(&self) -> Order {
        Order {
            init: self.init,
            group: self.group.clone(),
            socket: self.socket.clone(),
            how: self.how,
            hz: self.hz.clamp(1, 20_000),
            stack_bytes: self.stack_bytes.clamp(512, 61_440),
            checkout: self.checkout.clone(),
        }
    }
}

/// A target on its way to the sampler's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    pub init: i32,
    pub group: Option<PathBuf>,
    pub socket: Option<PathBuf>,
    pub how: Option<How>,
    pub hz: u32,
    pub stack_bytes: u32,
    pub checkout: PathBuf,
}

impl Order {
    /// The ways to try, best first.
    pub(crate) fn ways(&self) -> Vec<(How, &Path)> {
        let group = self.group.as_deref().map(|path| (How::Group, path));
        let socket = self.socket.as_deref().map(|path| (How::Inherit, path));
        let wanted = |way: &(How, &Path)| self.how.is_none_or(|h| h == way.0);
        [group, socket].into_iter().flatten().filter(wanted).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_target_comes_from_what_vmadm_says() {
        let vm = json!({
            "pid": 7,
            "ntrace": {"trace": {"group": "/g", "socket": "/s"}},
        });
        let target = Target::from_vm(&vm).unwrap();
        assert_eq!(target.init, 7);
        let order = target.order();
        let ways: Vec<_> = order.ways().iter().map(|way| way.0).collect();
        assert_eq!(ways, [How::Group, How::Inherit]);
        let wanted = Order { how: Some(How::Inherit), ..order };
        assert_eq!(wanted.ways(), [(How::Inherit, Path::new("/s"))]);
    }

    #[test]
    fn a_zone_that_is_down_or_foreign_is_no_target() {
        let down = json!({"ntrace": {"trace": {"socket": "/s"}}});
        assert_eq!(Target::from_vm(&down), Err(TargetError::NotRunning));
        let foreign = json!({"pid": 7});
        assert_eq!(Target::from_vm(&foreign), Err(TargetError::NoTrace));
        let odd = json!({"pid": 7, "ntrace": {"trace": {"socket": "s"}}});
        assert_eq!(Target::from_vm(&odd), Err(TargetError::NoTrace));
    }
}

//! vmadm: what can be asked of it, and what came of it.
//!
//! Typed arguments in, typed VMs out. Outcome is read back, never believed:
//! each change ends with a look at the VM. Takes no lock; that is the
//! worker's. Must not know jobs.

use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::carrier::Carrier;
use crate::class::{Class, Remedy, classify};
use crate::command::{Command, Program};
use crate::doing::Doing;
use crate::door::{self, CommandError, Failure, Output};
use crate::name::{SnapshotName, WorkerUuid};
use crate::vm::Vm;

/// The look after a change may take this long, even past the deadline.
const LOOK_AFTER: Duration = Duration::from_secs(5);

/// Why vmadm did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum VmadmError {
    /// It could not be run to its end.
    #[error("cannot hear from vmadm")]
    Command(#[from] CommandError),
    /// It ran and failed.
    #[error("{}", class.words())]
    Failed {
        /// What the failure means.
        class: Class,
        /// The story of it.
        #[source]
        failure: Failure,
    },
    /// It printed what is no VM.
    #[error("cannot read what {command} printed")]
    Unreadable {
        /// The command line, escaped for display.
        command: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It printed more than is kept.
    #[error("{command} printed {bytes} bytes more than are read")]
    TooLong {
        /// The command line, escaped for display.
        command: String,
        /// What was not kept.
        bytes: u64,
    },
    /// It said that it had made a change, and the VM does not show it.
    #[error("{command} reported success, but {found}")]
    NotSo {
        /// The command line, escaped for display.
        command: String,
        /// What the VM shows instead.
        found: String,
    },
}

impl VmadmError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            // Not a program that is there and can be run.
            Self::Command(CommandError::Spawn { source, .. })
                if matches!(
                    source.kind(),
                    ErrorKind::NotFound | ErrorKind::PermissionDenied
                ) =>
            {
                Remedy::Operator
            }
            Self::Command(_) | Self::NotSo { .. } => Remedy::Retry,
            Self::Failed { class, .. } => class.remedy(),
            Self::Unreadable { .. } | Self::TooLong { .. } => Remedy::Bug,
        }
    }

    /// The class of the failure, if vmadm ran and failed.
    #[must_use]
    pub fn class(&self) -> Option<Class> {
        match self {
            Self::Failed { class, .. } => Some(*class),
            _ => None,
        }
    }
}

/// Limits of a VM that can be changed; what is None stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VmLimits {
    /// Memory in MiB, swap included.
    pub memory_mib: Option<u64>,
    /// Processors in hundredths; 0 lifts the cap.
    pub cpu_cap: Option<u64>,
    /// Processes and threads.
    pub max_lwps: Option<u64>,
    /// Disk in GiB.
    pub quota_gib: Option<u64>,
}

impl VmLimits {
    fn pairs(&self) -> Vec<String> {
        let pair =
            |key, value: Option<u64>| value.map(|v| format!("{key}={v}"));
        [
            pair("max_physical_memory", self.memory_mib),
            pair("max_swap", self.memory_mib),
            pair("cpu_cap", self.cpu_cap),
            pair("max_lwps", self.max_lwps),
            pair("quota", self.quota_gib),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The first limit that `vm` does not show, in words.
    fn missing_from(&self, vm: &Vm) -> Option<String> {
        let seen = [
            ("max_physical_memory", self.memory_mib, vm.max_physical_memory),
            // A lifted cap is shown as 0 or not at all.
            (
                "cpu_cap",
                self.cpu_cap,
                vm.cpu_cap.or(self.cpu_cap.filter(|cap| *cap == 0)),
            ),
            ("max_lwps", self.max_lwps, vm.max_lwps),
            ("quota", self.quota_gib, vm.quota),
        ];
        let (key, wanted, found) = seen
            .into_iter()
            .find(|(_, wanted, found)| wanted.is_some() && wanted != found)?;
        let number = |n: Option<u64>| {
            n.map_or_else(|| "nothing".to_owned(), |n| n.to_string())
        };
        Some(format!("{key} is {}, not {}", number(found), number(wanted)))
    }
}

/// vmadm of one global zone.
#[derive(Debug, Clone)]
pub struct Vmadm {
    carrier: Arc<Carrier>,
    doing: Doing,
}

impl Vmadm {
    /// vmadm behind this carrier.
    #[must_use]
    pub fn new(carrier: Arc<Carrier>) -> Self {
        Self { carrier, doing: Doing::default() }
    }

    /// The same, with words of its own for what is waited for.
    pub(crate) fn told_apart(&self) -> Self {
        Self::new(Arc::clone(&self.carrier))
    }

    /// What is waited for.
    pub(crate) fn doing(&self) -> &Doing {
        &self.doing
    }

    /// The carrier.
    #[must_use]
    pub fn carrier(&self) -> &Arc<Carrier> {
        &self.carrier
    }

    /// One VM.
    ///
    /// # Errors
    /// When vmadm fails, or there is no such VM.
    pub async fn get(
        &self,
        uuid: WorkerUuid,
        deadline: Instant,
    ) -> Result<Vm, VmadmError> {
        let command =
            Command::new(Program::Vmadm, ["get".to_owned(), uuid.to_string()]);
        let output = self.succeed(&command, deadline).await?;
        parse(&command, &output)
    }

    /// One VM, all of what vmadm prints of it.
    ///
    /// # Errors
    /// When vmadm fails, or there is no such VM.
    pub async fn object(
        &self,
        uuid: WorkerUuid,
        deadline: Instant,
    ) -> Result<serde_json::Value, VmadmError> {
        let command =
            Command::new(Program::Vmadm, ["get".to_owned(), uuid.to_string()]);
        let output = self.succeed(&command, deadline).await?;
        parse(&command, &output)
    }

    /// All VMs.
    ///
    /// # Errors
    /// When vmadm fails.
    pub async fn lookup(
        &self,
        deadline: Instant,
    ) -> Result<Vec<Vm>, VmadmError> {
        let command = Command::new(Program::Vmadm, ["lookup", "-j"]);
        let output = self.succeed(&command, deadline).await?;
        parse(&command, &output)
    }

    /// Starts a VM; to start a running one is no error. Gives the VM as it
    /// is then.
    ///
    /// # Errors
    /// When vmadm fails and the VM is not running either.
    pub async fn start(
        &self,
        uuid: WorkerUuid,
        deadline: Instant,
    ) -> Result<Vm, VmadmError> {
        let args = ["start".to_owned(), uuid.to_string()];
        self.change(uuid, args, deadline, |vm| {
            (vm.state != crate::vm::VmState::Running)
                .then(|| format!("the VM is {}", vm.state))
        })
        .await
    }

    /// Halts a VM hard; to halt a stopped one is no error. Gives the VM as
    /// it is then.
    ///
    /// # Errors
    /// When vmadm fails and the VM is not stopped either.
    pub async fn stop_hard(
        &self,
        uuid: WorkerUuid,
        deadline: Instant,
    ) -> Result<Vm, VmadmError> {
        let args = ["stop".to_owned(), uuid.to_string(), "-F".to_owned()];
        self.change(uuid, args, deadline, |vm| {
            (vm.state != crate::vm::VmState::Stopped)
                .then(|| format!("the VM is {}", vm.state))
        })
        .await
    }

    /// Changes limits. Gives the VM as it is then.
    ///
    /// # Errors
    /// When vmadm fails, or the VM does not show the new limits.
    pub async fn update(
        &self,
        uuid: WorkerUuid,
        limits: VmLimits,
        deadline: Instant,
    ) -> Result<Vm, VmadmError> {
        let pairs = limits.pairs();
        if pairs.is_empty() {
            // Without a pair vmadm would read its stdin.
            return self.get(uuid, deadline).await;
        }
        let args =
            ["update".to_owned(), uuid.to_string()].into_iter().chain(pairs);
        self.change(uuid, args, deadline, |vm| limits.missing_from(vm)).await
    }

    /// Rolls a VM back, which also boots it. Only exit 0 counts as done,
    /// since nothing that can be read back proves it; the caller compares
    /// boots besides.
    ///
    /// # Errors
    /// When vmadm fails.
    pub async fn rollback(
        &self,
        uuid: WorkerUuid,
        snapshot: &SnapshotName,
        deadline: Instant,
    ) -> Result<(), VmadmError> {
        let args = [
            "rollback-snapshot".to_owned(),
            uuid.to_string(),
            snapshot.to_string(),
        ];
        let command = Command::new(Program::Vmadm, args);
        self.succeed(&command, deadline).await.map(drop)
    }

    /// Runs a change, then looks: what the VM shows decides.
    async fn change<I>(
        &self,
        uuid: WorkerUuid,
        args: I,
        deadline: Instant,
        wrong: impl Fn(&Vm) -> Option<String>,
    ) -> Result<Vm, VmadmError>
    where
        I: IntoIterator<Item = String>,
    {
        let command = Command::new(Program::Vmadm, args);
        let said = self.succeed(&command, deadline).await;
        // A change that was late may have been made all the same.
        let look_until = deadline.max(Instant::now() + LOOK_AFTER);
        let vm = match self.get(uuid, look_until).await {
            Ok(vm) => vm,
            Err(cannot_look) => return Err(said.err().unwrap_or(cannot_look)),
        };
        match (wrong(&vm), said) {
            (None, said) => {
                if let Err(error) = said {
                    tracing::warn!(
                        worker = %uuid,
                        error = %Chain(&error),
                        "vmadm failed but the change was made"
                    );
                }
                Ok(vm)
            }
            (Some(_), Err(error)) => Err(error),
            (Some(found), Ok(_)) => {
                Err(VmadmError::NotSo { command: command.to_string(), found })
            }
        }
    }

    async fn succeed(
        &self,
        command: &Command,
        deadline: Instant,
    ) -> Result<Output, VmadmError> {
        let _begun = self.doing.begin(command);
        let output =
            door::run(&self.carrier, command, Bytes::new(), deadline).await?;
        if output.exit.success() {
            return Ok(output);
        }
        let class = classify(output.exit.code(), &output.stderr.text());
        Err(VmadmError::Failed { class, failure: output.failure(command) })
    }
}

fn parse<T: serde::de::DeserializeOwned>(
    command: &Command,
    output: &Output,
) -> Result<T, VmadmError> {
    if output.stdout.cut > 0 {
        return Err(VmadmError::TooLong {
            command: command.to_string(),
            bytes: output.stdout.cut,
        });
    }
    serde_json::from_slice(&output.stdout.bytes).map_err(|source| {
        VmadmError::Unreadable { command: command.to_string(), source }
    })
}

/// Prints an error with all of its causes.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

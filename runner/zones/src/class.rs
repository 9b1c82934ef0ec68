//! What a failed vmadm meant: classes of its stderr.
//!
//! Pure. Must not know processes or VMs. The table follows what vmadm
//! prints; whoever reads a class still looks at the VM, since a message is a
//! hint and the state is the truth.

/// What a message of vmadm means for its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The VM does not exist (any more).
    VmGone,
    /// The VM lacks the snapshot that was asked for.
    NotPrepared,
    /// vmadm was called wrongly: our fault.
    DriverBug,
    /// Someone else acts on this VM.
    LostRace,
    /// The VM is already down, which may be just what was wanted.
    AlreadyStopped,
    /// The VM is in a state that only an operator mends.
    VmBroken,
    /// Storage refused to roll back: the VM is down and stays so.
    Storage,
    /// The zone cannot be halted or booted right now.
    ZoneStuck,
    /// The global zone is not up yet.
    NotReady,
    /// vmadm gave up waiting: done or not, nobody knows.
    Unknown,
    /// A kind of VM that cannot be rolled back.
    WrongKind,
    /// The gate in front of vmadm does not let us at this VM.
    NotListed,
    /// Nothing that we know.
    Other,
}

/// What to do about a [`Class`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Remedy {
    /// Look again and try again.
    Retry,
    /// Trying again cannot help; the worker's set-up is wrong.
    Permanent,
    /// A person must act in the global zone.
    Operator,
    /// A fault of this program.
    Bug,
}

impl Class {
    /// What to do about it.
    #[must_use]
    pub fn remedy(self) -> Remedy {
        match self {
            Self::VmGone
            | Self::NotPrepared
            | Self::NotListed
            | Self::WrongKind => Remedy::Permanent,
            Self::DriverBug => Remedy::Bug,
            Self::VmBroken | Self::Storage => Remedy::Operator,
            Self::LostRace
            | Self::AlreadyStopped
            | Self::ZoneStuck
            | Self::NotReady
            | Self::Unknown
            | Self::Other => Remedy::Retry,
        }
    }

    /// The class in a few words, for a message.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::VmGone => "the VM does not exist",
            Self::NotPrepared => "the VM has no such snapshot",
            Self::DriverBug => "vmadm was called wrongly",
            Self::LostRace => "someone else acts on this VM",
            Self::AlreadyStopped => "the VM was already stopped",
            Self::VmBroken => "the VM is broken and needs an operator",
            Self::Storage => "storage refused the rollback",
            Self::ZoneStuck => "the zone is stuck",
            Self::NotReady => "the global zone is not ready",
            Self::Unknown => "vmadm gave up waiting",
            Self::WrongKind => "this kind of VM cannot be used",
            Self::NotListed => {
                "the gate lists no such VM (`setup-gz --worker UUID` lists it)"
            }
            Self::Other => "vmadm failed",
        }
    }
}

/// Classifies a failed vmadm by its exit status and stderr.
#[must_use]
pub fn classify(code: Option<i32>, stderr: &str) -> Class {
    let whole = stderr.trim();
    let found = std::iter::once(whole)
        .chain(whole.lines())
        .map(|text| by_text(strip(text.trim())))
        .find(|class| *class != Class::Other);
    match (found, code) {
        (Some(class), _) => class,
        (None, Some(2)) => Class::DriverBug,
        (None, _) => Class::Other,
    }
}

/// Takes off what vmadm and vasync put before the real message, in any
/// number and order.
fn strip(mut text: &str) -> &str {
    loop {
        let before = text;
        if let Some(rest) =
            text.strip_prefix("first of ").and_then(after_errors)
        {
            text = rest;
        }
        for prefix in ["Unable to start VM ", "Failed to delete VM "] {
            if let Some(rest) = text.strip_prefix(prefix) {
                match rest.split_once(": ") {
                    Some((uuid, rest)) if !uuid.contains(' ') => text = rest,
                    _ => {}
                }
            }
        }
        text = text.strip_prefix("Command failed: ").unwrap_or(text);
        if text == before {
            return text;
        }
    }
}

/// `3 errors: rest` gives `rest`.
fn after_errors(text: &str) -> Option<&str> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return None;
    }
    let rest = text[digits..].strip_prefix(" error")?;
    rest.strip_prefix('s').unwrap_or(rest).strip_prefix(": ")
}

fn by_text(text: &str) -> Class {
    let has = |part: &str| text.contains(part);
    if is_gone(text) {
        Class::VmGone
    } else if text.starts_with("ntrace-gate: refused: this VM is not on") {
        Class::NotListed
    } else if text.starts_with("No snapshot named ") {
        Class::NotPrepared
    } else if text.starts_with("Invalid snapshot name")
        || text.starts_with("Invalid or missing UUID")
    {
        Class::DriverBug
    } else if let Some(state) = already_not_running(text) {
        match state {
            "running" => Class::LostRace,
            "failed" | "provisioning" | "configured" | "incomplete" => {
                Class::VmBroken
            }
            _ => Class::AlreadyStopped,
        }
    } else if has("cannot rollback to ") {
        Class::Storage
    } else if has("call to zoneadmd failed")
        || has("unable to unmount")
        || has("unable to destroy")
    {
        Class::ZoneStuck
    } else if has("connect ECONNREFUSED") || has("ready timeout") {
        Class::NotReady
    } else if has("timeout exceeded") {
        Class::Unknown
    } else if (has("snapshots for ") && has(" VMs currently unsupported"))
        || has("that have datasets")
    {
        Class::WrongKind
    } else {
        Class::Other
    }
}

fn is_gone(text: &str) -> bool {
    let one_word_between = |start: &str, end: &str| {
        text.strip_prefix(start)
            .and_then(|rest| rest.split_once(end))
            .is_some_and(|(word, _)| !word.is_empty() && !word.contains(' '))
    };
    text.starts_with("bad statusCode: 404")
        || one_word_between("VM ", " not found")
        || one_word_between("zoneadm: ", ": No such zone configured")
}

fn already_not_running(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("is already not 'running' (currently: ")?;
    rest.split_once(')').map(|(state, _)| state)
}

#[cfg(test)]
mod tests {
    use super::*;

    const U: &str = "c0ffee00-1111-4222-8333-444455556666";

    #[track_caller]
    fn check(stderr: &str, class: Class) {
        let stderr = stderr.replace("$U", U);
        for wrapped in [
            stderr.clone(),
            format!("{stderr}\n"),
            format!("first of 1 error: {stderr}\n\n"),
            format!("first of 2 errors: first of 1 error: {stderr}"),
            format!("Unable to start VM {U}: {stderr}"),
            format!("Unable to start VM {U}: first of 1 error: {stderr}"),
            format!("something before\n{stderr}"),
        ] {
            assert_eq!(classify(Some(1), &wrapped), class, "{wrapped:?}");
        }
    }

    #[test]
    fn each_row_of_the_table_has_its_class() {
        check("bad statusCode: 404", Class::VmGone);
        check("VM $U not found", Class::VmGone);
        check("zoneadm: $U: No such zone configured", Class::VmGone);
        check("No snapshot named \"x\" for $U", Class::NotPrepared);
        check("Invalid snapshot name", Class::DriverBug);
        check("Invalid or missing UUID for get", Class::DriverBug);
        let not = "VM $U is already not 'running' (currently: ";
        check(&format!("{not}running)"), Class::LostRace);
        for state in ["failed", "provisioning", "configured", "incomplete"] {
            check(&format!("{not}{state})"), Class::VmBroken);
        }
        check(&format!("{not}stopped)"), Class::AlreadyStopped);
        check(
            "Command failed: cannot rollback to 'zones/$U@vmsnap-clean': busy",
            Class::Storage,
        );
        check(
            "Command failed: zone '$U': why\nzoneadm: zone '$U': call to \
             zoneadmd failed",
            Class::ZoneStuck,
        );
        check("zone '$U': unable to destroy zone", Class::ZoneStuck);
        check("unable to unmount '/zones/x'", Class::ZoneStuck);
        check("connect ECONNREFUSED", Class::NotReady);
        check(
            "VminfodEventStream ready timeout (30000ms) exceeded",
            Class::NotReady,
        );
        check(
            "vminfod watchForChanges \"VM.js start\" timeout exceeded",
            Class::Unknown,
        );
        check("snapshots for kvm VMs currently unsupported", Class::WrongKind);
        check(
            "Cannot currently snapshot zones that have datasets",
            Class::WrongKind,
        );
    }

    #[test]
    fn a_deleted_vm_is_gone_behind_its_prefix() {
        let text = format!("Failed to delete VM {U}: VM {U} not found");
        assert_eq!(classify(Some(1), &text), Class::VmGone);
    }

    #[test]
    fn exit_2_without_a_known_text_is_our_bug() {
        assert_eq!(classify(Some(2), "Usage: vmadm ..."), Class::DriverBug);
        assert_eq!(classify(Some(1), "Usage: vmadm ..."), Class::Other);
        assert_eq!(classify(None, ""), Class::Other);
    }

    #[test]
    fn words_of_a_vm_name_do_not_make_it_gone() {
        assert_eq!(
            classify(Some(1), "VM or disk or something not found"),
            Class::Other
        );
    }

    #[test]
    fn what_the_gate_does_not_list_is_not_tried_again() {
        let said = "ntrace-gate: refused: this VM is not on the list\n";
        let class = classify(Some(77), said);
        assert_eq!(class, Class::NotListed);
        assert_eq!(class.remedy(), Remedy::Permanent);
    }

    #[test]
    fn remedies_follow_the_class() {
        assert_eq!(Class::VmGone.remedy(), Remedy::Permanent);
        assert_eq!(Class::Storage.remedy(), Remedy::Operator);
        assert_eq!(Class::NotReady.remedy(), Remedy::Retry);
        assert_eq!(Class::DriverBug.remedy(), Remedy::Bug);
    }
}

//! What ssh says when there is no connection to the global zone, and the
//! command that mends it.
//!
//! Pure: words in, a finding out.

use std::path::Path;

use super::finding::{Finding, Need};
use super::words::shell;

/// What ssh's words mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    NoProgram,
    UnknownKey,
    ChangedKey,
    OpenKeyFile,
    Denied,
    NoHost,
    Refused,
    Late,
    Other,
}

/// In this order: a changed host key also fails the verification. Small
/// letters.
const TABLE: &[(&[&str], Trouble)] = &[
    (
        // Of a long warning only the end may be shown.
        &["identification has changed", "host key has changed", "offending"],
        Trouble::ChangedKey,
    ),
    (
        &["host key verification failed", "host key is known for"],
        Trouble::UnknownKey,
    ),
    (&["unprotected private key", "bad permissions"], Trouble::OpenKeyFile),
    (
        &[
            "permission denied",
            "authentication failed",
            "too many authentication failures",
        ],
        Trouble::Denied,
    ),
    (&["could not resolve", "name or service not known"], Trouble::NoHost),
    (&["connection refused"], Trouble::Refused),
    (
        &[
            "timed out",
            "no route to host",
            "unreachable",
            "timeout",
            "not within",
        ],
        Trouble::Late,
    ),
    (&["(os error 2)", "not found"], Trouble::NoProgram),
];

fn meaning(said: &str) -> Trouble {
    let said = said.to_lowercase();
    TABLE
        .iter()
        .find(|(parts, _)| parts.iter().any(|part| said.contains(part)))
        .map_or(Trouble::Other, |(_, trouble)| *trouble)
}

/// The other side, and how we show who we are.
#[derive(Clone, Debug)]
pub(super) struct Way<'a> {
    /// `ssh://user@host[:port]`.
    pub(super) address: &'a str,
    pub(super) identity: Option<&'a Path>,
    pub(super) known_hosts: Option<&'a Path>,
}

impl Way<'_> {
    fn place(&self) -> &str {
        let after = self.address.rsplit_once('@');
        after.map_or(self.address, |(_, place)| place)
    }

    /// Host without brackets, and port.
    fn host_and_port(&self) -> (&str, &str) {
        let place = self.place();
        if let Some(v6) = place.strip_prefix('[') {
            let (host, rest) = v6.split_once(']').unwrap_or((v6, ""));
            return (host, rest.strip_prefix(':').unwrap_or("22"));
        }
        place.split_once(':').unwrap_or((place, "22"))
    }

    fn known_hosts(&self) -> String {
        match self.known_hosts {
            Some(path) => shell(&path.to_string_lossy()),
            None => "~/.ssh/known_hosts".to_owned(),
        }
    }

    /// ssh with everything that the runner gives it, ready for a command.
    pub(super) fn command(&self) -> String {
        let mut command = "ssh".to_owned();
        if let Some(path) = self.identity {
            command += &format!(" -i {}", shell(&path.to_string_lossy()));
        }
        if self.known_hosts.is_some() {
            command +=
                &format!(" -o UserKnownHostsFile={}", self.known_hosts());
        }
        format!("{command} {}", self.address)
    }

    fn mend(&self, trouble: Trouble) -> String {
        let (host, port) = self.host_and_port();
        let known = self.known_hosts();
        match trouble {
            Trouble::NoProgram => "apt-get install -y openssh-client   \
                                   (SmartOS has it)"
                .to_owned(),
            Trouble::UnknownKey => format!(
                "ssh-keyscan -p {port} {host} >> {known} && ssh-keygen -lf \
                 {known}   (compare the fingerprint with the one at the \
                 host's console: ssh-keygen -lf \
                 /var/ssh/ssh_host_ed25519_key.pub)"
            ),
            Trouble::ChangedKey => format!(
                "ssh-keygen -f {known} -R {}   (only when you know why the \
                 key changed; then ssh-keyscan -p {port} {host} >> {known})",
                shell(&match port {
                    "22" => host.to_owned(),
                    port => format!("[{host}]:{port}"),
                })
            ),
            Trouble::OpenKeyFile => match self.identity {
                Some(path) => {
                    format!("chmod 0600 {}", shell(&path.to_string_lossy()))
                }
                None => "chmod 0600 ~/.ssh/id_*".to_owned(),
            },
            Trouble::Denied => self.let_in(),
            Trouble::NoHost => {
                format!("getent hosts {host}   (or give its address)")
            }
            Trouble::Refused => format!(
                "nc -vz {host} {port}   (is this the port? in the global \
                 zone: svcadm enable ssh)"
            ),
            Trouble::Late => format!(
                "nc -vz -w 5 {host} {port}   (is it up, and does a firewall \
                 let us through?)"
            ),
            Trouble::Other => format!("{} -v true", self.command()),
        }
    }

    /// How the other side comes to know our key.
    fn let_in(&self) -> String {
        match self.identity {
            Some(path) => {
                let path = shell(&path.to_string_lossy());
                format!(
                    "ssh-keygen -y -f {path}   (the public key; it belongs \
                     into the global zone's authorized_keys, behind the gate: \
                     scripts/smartos/setup-gz)"
                )
            }
            None => "ntrace-runner --identity FILE   (which key is ours; \
                     make one with ssh-keygen -t ed25519 -N '' -f FILE)"
                .to_owned(),
        }
    }
}

/// There is no connection, and this is what ssh said.
pub(super) fn judge(way: &Way<'_>, said: &str) -> Finding {
    // The carrier's own advice stands before ssh's words.
    let said = said.rsplit_once("ssh said: ").map_or(said, |(_, said)| said);
    let trouble = meaning(said);
    let lead = match trouble {
        Trouble::NoProgram => "there is no ssh here",
        Trouble::UnknownKey => "its host key is not known",
        Trouble::ChangedKey => "its host key is another one than before",
        Trouble::OpenKeyFile => "others can read our private key",
        Trouble::Denied => "it does not take our key",
        Trouble::NoHost => "there is no such host",
        Trouble::Refused => "nobody listens there",
        Trouble::Late => "it does not answer",
        Trouble::Other => "there is no connection",
    };
    let says = format!("{}: {lead}: {said}", way.address);
    Finding::fail(Need::GlobalZone, says, way.mend(trouble))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ssh_says_is_understood() {
        for (said, expected) in [
            ("Host key verification failed.", Trouble::UnknownKey),
            (
                "No ED25519 host key is known for [127.0.0.1]:22 and you \
                 have requested strict checking. Host key verification \
                 failed.",
                Trouble::UnknownKey,
            ),
            (
                "WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! Host key \
                 verification failed.",
                Trouble::ChangedKey,
            ),
            ("root@gz: Permission denied (publickey).", Trouble::Denied),
            (
                "WARNING: UNPROTECTED PRIVATE KEY FILE! Permission denied",
                Trouble::OpenKeyFile,
            ),
            (
                "ssh: Could not resolve hostname gz: Name or service not \
                 known",
                Trouble::NoHost,
            ),
            (
                "connect to host gz port 22: Connection refused",
                Trouble::Refused,
            ),
            ("connect to host gz port 22: Connection timed out", Trouble::Late),
            ("No such file or directory (os error 2)", Trouble::NoProgram),
            ("something new", Trouble::Other),
        ] {
            assert_eq!(meaning(said), expected, "{said}");
        }
    }

    #[test]
    fn the_mend_names_host_port_and_files() {
        let way = Way {
            address: "ssh://root@gz:2222",
            identity: Some(Path::new("/etc/nt/key")),
            known_hosts: Some(Path::new("/etc/nt/known hosts")),
        };
        let mend = |said: &str| judge(&way, said).mend.unwrap();
        let unknown = mend("Host key verification failed.");
        assert!(
            unknown
                .starts_with("ssh-keyscan -p 2222 gz >> '/etc/nt/known hosts'"),
            "{unknown}"
        );
        let changed = mend("REMOTE HOST IDENTIFICATION HAS CHANGED!");
        assert!(changed.contains("-R '[gz]:2222'"), "{changed}");
        assert!(mend("Permission denied").contains("-y -f /etc/nt/key"));
        assert!(mend("who knows").starts_with("ssh -i /etc/nt/key"));
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        let split = |address: &str| {
            let way = Way { address, identity: None, known_hosts: None };
            let (host, port) = way.host_and_port();
            (host.to_owned(), port.to_owned())
        };
        let of = |host: &str, port: &str| (host.to_owned(), port.to_owned());
        assert_eq!(split("ssh://root@gz"), of("gz", "22"));
        assert_eq!(split("ssh://root@gz:23"), of("gz", "23"));
        assert_eq!(split("ssh://root@[::1]:24"), of("::1", "24"));
        assert_eq!(split("ssh://root@[::1]"), of("::1", "22"));
    }
}

//! Where a global zone is, as a person writes it.
//!
//! Pure. Must not know how it is connected to. Invariant: no part of an
//! address can be taken for an option of ssh.

use std::fmt;
use std::str::FromStr;

/// `ssh://USER@HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshAddress {
    pub(super) user: String,
    pub(super) host: String,
    pub(super) port: Option<u16>,
}

/// Why an address of a global zone was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not of the form ssh://user@host or ssh://user@host:port")]
pub struct BadAddress {
    given: String,
}

impl FromStr for SshAddress {
    type Err = BadAddress;

    fn from_str(given: &str) -> Result<Self, BadAddress> {
        parse(given).ok_or_else(|| BadAddress {
            given: given.chars().take(100).collect(),
        })
    }
}

fn parse(given: &str) -> Option<SshAddress> {
    let rest = given.strip_prefix("ssh://")?;
    let (user, place) = rest.split_once('@')?;
    let (host, port) = match place.strip_prefix('[') {
        Some(v6) => {
            let (host, after) = v6.split_once(']')?;
            (host, after.strip_prefix(':').map(str::to_owned))
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port.to_owned())),
            None => (place, None),
        },
    };
    let port = port
        .map(|port| port.parse::<u16>().ok())
        .map_or(Some(None), |port| port.filter(|port| *port != 0).map(Some))?;
    // Nothing that ssh could take for an option or a list of jumps.
    let legal = |text: &str, more: &[u8]| {
        !text.is_empty()
            && !text.starts_with('-')
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
    };
    let good = legal(user, b"._-") && legal(host, b"._-:%");
    good.then(|| SshAddress {
        user: user.to_owned(),
        host: host.to_owned(),
        port,
    })
}

impl fmt::Display for SshAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ssh://{}@", self.user)?;
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_went() {
        for text in [
            "ssh://root@gz",
            "ssh://root@10.0.0.1:2222",
            "ssh://root@[fe80::1]:22",
            "ssh://root@[::1]",
        ] {
            let address: SshAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn nothing_that_ssh_could_misread_is_an_address() {
        for bad in [
            "",
            "root@gz",
            "ssh://gz",
            "ssh://root@",
            "ssh://@gz",
            "ssh://root@-oProxyCommand=x",
            "ssh://-l@gz",
            "ssh://root@gz:0",
            "ssh://root@gz:99999",
            "ssh://root@gz:x",
            "ssh://root@a,b",
            "ssh://root@gz/path",
            "ssh://root@g z",
        ] {
            assert!(bad.parse::<SshAddress>().is_err(), "{bad:?}");
        }
    }
}

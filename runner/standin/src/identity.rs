//! Who a program in a zone runs as.
//!
//! Works inside the zone, after entering it. In a zone with a range of ids a
//! user is its uid. In a zone of one id every uid is the same to the kernel;
//! there the job gets a user namespace of its own, in which it sees itself
//! under its number, has no capability, and cannot trace what is outside.

use std::io;

use crate::sys;

/// A line of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    /// Login name.
    pub name: String,
    /// User id in the zone.
    pub uid: u32,
    /// Group id in the zone.
    pub gid: u32,
    /// Home directory.
    pub home: String,
    /// Shell.
    pub shell: String,
}

impl Account {
    /// Finds an account in the text of a passwd file.
    pub(crate) fn find(passwd: &str, name: &str) -> Option<Account> {
        passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [found, _, uid, gid, _, home, shell] = fields[..] else {
                return None;
            };
            let or = |text: &str, other: &str| {
                if text.is_empty() { other.into() } else { text.to_owned() }
            };
            (found == name).then_some(())?;
            Some(Account {
                name: name.to_owned(),
                uid: uid.parse().ok()?,
                gid: gid.parse().ok()?,
                home: or(home, "/"),
                shell: or(shell, "/bin/sh"),
            })
        })
    }

    /// Finds an account of the zone that this process is in.
    pub(crate) fn of_zone(name: &str) -> Option<Account> {
        let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
        let found = Account::find(&String::from_utf8_lossy(&passwd), name);
        // Root is there even if the file is gone.
        found.or_else(|| (name == "root").then(Account::root))
    }

    fn root() -> Account {
        Account {
            name: "root".to_owned(),
            uid: 0,
            gid: 0,
            home: "/root".to_owned(),
            shell: "/bin/sh".to_owned(),
        }
    }

    /// Becomes this user. Root stays the zone's root with its rights there;
    /// everybody else loses all rights for good.
    pub(crate) fn assume(&self) -> io::Result<()> {
        if self.uid == 0 {
            return Ok(());
        }
        if has_single_id()? {
            sys::set_dumpable(true);
            sys::unshare(libc::CLONE_NEWUSER)?;
            let _ = std::fs::write("/proc/self/setgroups", "deny");
            std::fs::write("/proc/self/uid_map", format!("{} 0 1", self.uid))?;
            std::fs::write("/proc/self/gid_map", format!("{} 0 1", self.gid))?;
            sys::drop_bounding_set();
        } else {
            sys::drop_bounding_set();
            sys::clear_groups()?;
            sys::set_ids(self.uid, self.gid)?;
        }
        sys::forbid_new_rights()?;
        sys::drop_capabilities()
    }
}

/// Whether the user namespace that we are in has one id only.
pub(crate) fn has_single_id() -> io::Result<bool> {
    let map = std::fs::read_to_string("/proc/self/uid_map")?;
    let mut counts =
        map.lines().filter_map(|line| line.split_whitespace().nth(2));
    Ok(counts.next() == Some("1") && counts.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_their_exact_name() {
        let text = "jobs:x:7:7::/x:/bin/x\njob:x:1000:1001::/home/job:\nbad\n";
        let job = Account::find(text, "job").unwrap();
        assert_eq!((job.uid, job.gid), (1000, 1001));
        assert_eq!(
            (job.home.as_str(), job.shell.as_str()),
            ("/home/job", "/bin/sh")
        );
        assert_eq!(Account::find(text, "jo"), None);
        assert_eq!(Account::find(text, "bad"), None);
    }
}

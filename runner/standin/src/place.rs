//! Where everything lies on disk, and as whom we act there.
//!
//! Knows names of directories only; what is in them belongs to other
//! modules. The state root is closed to everybody but its owner.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::names::ZoneId;
use crate::sys;

/// Host id of the zones' user 0 when root runs us, unless set otherwise.
const UID_BASE: u32 = 200_000;

/// How many ids a zone has when root runs us.
pub(crate) const UID_COUNT: u32 = 65_536;

/// As whom the zones are run, hence how their ids map to those of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Root: zone ids 0 to 65535 are host ids from `base` on.
    Root {
        /// Host id of the zone's user 0.
        base: u32,
    },
    /// An ordinary user, who is the zone's user 0 and its only one.
    User {
        /// Host id of the user.
        uid: u32,
        /// Host id of the group.
        gid: u32,
    },
}

impl Owner {
    /// Who this process is, with `NTRACE_UID_BASE` for root.
    pub(crate) fn current() -> Owner {
        let (uid, gid) = sys::own_ids();
        if uid != 0 {
            return Owner::User { uid, gid };
        }
        let set = std::env::var("NTRACE_UID_BASE").ok();
        let base = set.and_then(|text| text.parse().ok());
        let fits =
            |base: &u32| *base >= 1000 && base.checked_add(UID_COUNT).is_some();
        Owner::Root { base: base.filter(fits).unwrap_or(UID_BASE) }
    }

    /// Whether root runs us.
    pub(crate) fn is_root(self) -> bool {
        matches!(self, Owner::Root { .. })
    }

    /// Host ids of a user and group of the zone; in a zone of one id all
    /// users are the same.
    pub(crate) fn host_ids(self, uid: u32, gid: u32) -> (u32, u32) {
        match self {
            Owner::Root { base } => (base + uid, base + gid),
            Owner::User { uid, gid } => (uid, gid),
        }
    }

    /// Lines of `uid_map` and `gid_map`.
    pub(crate) fn maps(self) -> (String, String) {
        match self {
            Owner::Root { base } => {
                let line = format!("0 {base} {UID_COUNT}\n");
                (line.clone(), line)
            }
            Owner::User { uid, gid } => {
                (format!("0 {uid} 1\n"), format!("0 {gid} 1\n"))
            }
        }
    }

    /// The word for it in `vmadm get`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Owner::Root { .. } => "range",
            Owner::User { .. } => "single",
        }
    }
}

/// The state root.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The root itself, absolute.
    pub root: PathBuf,
    /// As whom zones are run.
    pub owner: Owner,
}

impl Place {
    /// Finds the state root and makes its directories if they are missing.
    pub(crate) fn open() -> io::Result<Place> {
        let owner = Owner::current();
        let place = Place { root: Place::find(owner)?, owner };
        for dir in [
            place.root.clone(),
            place.zones(),
            place.layers(),
            place.trash(),
            place.images(),
            place.native(),
        ] {
            make_dir(&dir)?;
        }
        Ok(place)
    }

    fn find(owner: Owner) -> io::Result<PathBuf> {
        let set =
            |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let root = if let Some(path) = set("NTRACE_ZONES") {
            PathBuf::from(path)
        } else if owner.is_root() {
            PathBuf::from("/var/lib/ntrace/zones")
        } else if let Some(path) = set("XDG_DATA_HOME") {
            PathBuf::from(path).join("ntrace/zones")
        } else if let Some(path) = set("HOME") {
            PathBuf::from(path).join(".local/share/ntrace/zones")
        } else {
            return Err(io::Error::other(
                "no place for zones: set NTRACE_ZONES or HOME",
            ));
        };
        std::path::absolute(root)
    }

    /// One directory per zone.
    pub(crate) fn zones(&self) -> PathBuf {
        self.root.join("zones")
    }

    /// The directory of one zone.
    pub(crate) fn zone(&self, id: &ZoneId) -> PathBuf {
        self.zones().join(id.as_str())
    }

    /// Layers: what snapshots consist of.
    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// What is to be deleted behind everybody's back.
    pub(crate) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    /// Images, one directory each.
    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Copies of our own program for use inside zones.
    pub(crate) fn native(&self) -> PathBuf {
        self.root.join("native")
    }
}

/// Makes a directory that only its owner may enter, and its parents.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

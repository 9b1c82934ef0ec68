//! The built programs, beside the test's own executable.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The programs that a stage uses.
const NAMES: [&str; 5] =
    ["ntrace-dispatcher", "ntrace-runner", "ntrace", "vmadm", "zlogin"];

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    dir: PathBuf,
}

impl Programs {
    /// Those that were built with the test.
    pub fn built() -> Self {
        let own = std::env::current_exe().expect("a process has a program");
        // target/PROFILE/deps/e2e-0123 or target/PROFILE/e2e.
        let dir = own
            .ancestors()
            .skip(1)
            .find(|dir| !dir.ends_with("deps"))
            .expect("a program lies in a directory")
            .to_owned();
        Self { dir }
    }

    /// The same where any user can run them: here, or copied to `to`.
    pub fn for_everybody(self, to: &Path) -> Self {
        if is_open(&self.dir) {
            return self;
        }
        let dir = to.join("bin");
        fs::create_dir_all(&dir).expect("the stage's directory is ours");
        open(&dir);
        for name in NAMES {
            let copy = dir.join(name);
            fs::copy(self.path(name), &copy)
                .expect("a built program can be copied");
            open(&copy);
        }
        Self { dir }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// One of them.
    ///
    /// # Panics
    /// It is missing.
    pub fn path(&self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        assert!(
            path.is_file(),
            "{} is not built; run cargo build --workspace --bins (with the \
             profile of the tests)",
            path.display()
        );
        path
    }
}

/// Whether everybody can look into a directory.
fn is_open(dir: &Path) -> bool {
    dir.ancestors().all(|dir| {
        fs::metadata(dir).is_ok_and(|found| found.mode() & 0o001 != 0)
    })
}

/// Lets everybody read and enter.
fn open(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .expect("the stage's files are ours");
}

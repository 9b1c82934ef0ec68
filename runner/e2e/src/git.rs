//! Real repositories: `ROOT/{owner}/{repo}.git`, made with git itself.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory of repositories.
#[derive(Debug)]
pub struct Repos {
    root: PathBuf,
}

/// One repository with a work tree.
#[derive(Clone, Debug)]
pub struct Repo {
    /// Whose it is.
    pub owner: String,
    /// Its name.
    pub name: String,
    work: PathBuf,
    bare: PathBuf,
}

impl Repos {
    /// Makes the directory.
    ///
    /// # Panics
    /// It cannot be made.
    pub fn create(root: &Path) -> Self {
        fs::create_dir_all(root).expect("the stage's directory is ours");
        Self { root: root.to_owned() }
    }

    /// What a runner needs to know of it.
    pub fn template(&self) -> String {
        format!("file://{}/{{owner}}/{{repo}}.git", self.root.display())
    }

    /// Makes a repository, empty as yet.
    pub fn make(&self, owner: &str, name: &str) -> Repo {
        let bare = self.root.join(owner).join(format!("{name}.git"));
        let work = self.root.join(owner).join(format!("{name}.work"));
        fs::create_dir_all(&work).expect("the stage's directory is ours");
        git(&self.root, ["init", "-q", "--bare"], Some(&bare));
        git(&work, ["init", "-q", "-b", "main"], None::<&str>);
        let (owner, name) = (owner.to_owned(), name.to_owned());
        Repo { owner, name, work, bare }
    }
}

impl Repo {
    /// Where its files are.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// The bare repository.
    pub fn bare(&self) -> &Path {
        &self.bare
    }

    /// Writes a file of the next commit.
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.work.join(path);
        let parent = path.parent().expect("it lies in the work tree");
        fs::create_dir_all(parent).expect("the stage's directory is ours");
        fs::write(&path, text).expect("the stage's directory is ours");
        self
    }

    /// Writes a program of the next commit.
    pub fn program(&self, path: &str, text: &str) -> &Self {
        self.write(path, text);
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.work.join(path), mode)
            .expect("the file was just written");
        self
    }

    /// Commits all files; the commit is then in the bare repository.
    pub fn commit(&self) -> String {
        git(&self.work, ["add", "-A"], None::<&str>);
        git(
            &self.work,
            ["commit", "-q", "--allow-empty", "-m", "test"],
            None::<&str>,
        );
        git(&self.work, ["push", "-q", "--force"], Some(&self.bare));
        self.head()
    }

    /// The commit that the work tree is at.
    pub fn head(&self) -> String {
        git(&self.work, ["rev-parse", "HEAD"], None::<&str>)
    }
}

/// Runs git in a directory, untouched by anybody's configuration.
///
/// # Panics
/// It fails.
pub fn git<const N: usize>(
    dir: &Path,
    args: [&str; N],
    last: Option<impl AsRef<OsStr>>,
) -> String {
    let mut command = Command::new("git");
    command.current_dir(dir);
    for (name, value) in [
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_AUTHOR_NAME", "test"),
        ("GIT_AUTHOR_EMAIL", "test@localhost"),
        ("GIT_COMMITTER_NAME", "test"),
        ("GIT_COMMITTER_EMAIL", "test@localhost"),
    ] {
        command.env(name, value);
    }
    command.args(args);
    if let Some(last) = last {
        command.arg(last);
    }
    if args.first() == Some(&"push") {
        command.arg("HEAD:refs/heads/main");
    }
    let output = command.output().expect("git is here");
    assert!(
        output.status.success(),
        "git {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

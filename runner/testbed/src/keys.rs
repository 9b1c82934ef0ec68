//! Keys, and the files that name them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::find;
use crate::options::Login;

/// Makes a key pair without a passphrase: `file` and `file.pub`.
pub(crate) fn make(file: &Path) {
    for old in [file.to_owned(), file.with_extension("pub")] {
        let _ = fs::remove_file(old);
    }
    let keygen = find("ssh-keygen").expect("needs_sshd was asked");
    let status = Command::new(keygen)
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "testbed", "-f"])
        .arg(file)
        .stdin(Stdio::null())
        .status()
        .expect("ssh-keygen can be started");
    assert!(status.success(), "ssh-keygen failed: {status}");
}

/// The type and the key itself, without the remark.
fn public(file: &Path) -> String {
    let path = file.with_extension("pub");
    let text = fs::read_to_string(&path).expect("the key was made");
    let words: Vec<_> = text.split_whitespace().take(2).collect();
    words.join(" ")
}

/// `known_hosts` with this server's key.
pub(crate) fn known_hosts(host_key: &Path, port: u16) -> String {
    format!("[127.0.0.1]:{port} {}\n", public(host_key))
}

/// `authorized_keys` that lets this key do so much.
pub(crate) fn authorized(user_key: &Path, login: &Login) -> String {
    let key = public(user_key);
    match login {
        Login::Denied => String::new(),
        Login::Free => format!("{key}\n"),
        Login::Limited(options) => {
            assert!(!options.contains('\n'), "options are one line");
            format!("{options} {key}\n")
        }
        Login::Forced(command) => {
            assert!(!command.contains('\n'), "a forced command is one line");
            let command = command.replace('"', "\\\"");
            format!("restrict,command=\"{command}\" {key}\n")
        }
    }
}

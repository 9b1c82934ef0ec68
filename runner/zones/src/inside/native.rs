//! Calls of the zone's own helper: a header of one line of JSON on stdin.

use serde::Serialize;
use serde_json::json;

use super::{Call, Collect, Found, Signal};
use crate::marker::Nonce;
use crate::name::UserName;
use crate::spec::{Directory, JobSpec};

/// Where the helper is in each zone.
const HELPER: &str = "/native/zone-job";

fn call(verb: &str, header: &impl Serialize) -> Call {
    let mut head = serde_json::to_vec(header)
        .expect("headers are maps of texts and numbers");
    head.push(b'\n');
    Call { args: vec![HELPER.to_owned(), verb.to_owned()], head: head.into() }
}

pub(super) fn run(nonce: &Nonce, spec: &JobSpec) -> Call {
    let env: serde_json::Map<_, _> = spec
        .env
        .iter()
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    let mut header = json!({
        "nonce": nonce.as_str(),
        "user": spec.user.as_str(),
        "cwd": spec.cwd,
        "argv": spec.argv,
        "env": env,
        "env_clear": true,
    });
    for (key, limit) in [("nofile", spec.nofile), ("pids", spec.pids)] {
        if let Some(limit) = limit {
            header[key] = json!(limit);
        }
    }
    call("run", &header)
}

pub(super) fn unpack(
    nonce: &Nonce,
    user: &UserName,
    dir: &Directory,
    found: Found,
) -> Call {
    let header = json!({
        "nonce": nonce.as_str(),
        "user": user.as_str(),
        "dir": dir,
        "first": found == Found::Refused,
    });
    call("unpack", &header)
}

pub(super) fn collect(nonce: &Nonce, want: &Collect) -> Call {
    let header = json!({
        "nonce": nonce.as_str(),
        "user": want.user.as_str(),
        "dir": want.dir,
        "globs": want.globs,
        "max_bytes": want.max_bytes,
        "max_files": want.max_files,
    });
    call("collect", &header)
}

pub(super) fn kill(nonce: &Nonce, signal: Signal) -> Call {
    let header = json!({
        "nonce": nonce.as_str(),
        "signal": signal.name(),
    });
    call("kill", &header)
}

pub(super) fn ps(nonce: &Nonce) -> Call {
    call("ps", &json!({ "nonce": nonce.as_str() }))
}

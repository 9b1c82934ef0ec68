//! How a case is written down, and how it is checked.

use crate::host::{Host, Said};
use ntrace_standin::HOST_IMAGE;
use serde_json::{Value, json};

/// A uuid of no zone.
pub(crate) const NOBODY: &str = "c0ffee00-1111-4222-8333-444455556666";

/// One command of a case and what it must answer, to the byte. In all texts
/// `{U}` stands for the uuid of the case's zone, `{N}` for one of none and
/// `{IMAGE}` for that of the image. An error text lacks its last newline;
/// with exit status 2 the usage follows it.
pub(crate) struct Step {
    program: &'static str,
    args: &'static [&'static str],
    stdin: Option<&'static str>,
    code: i32,
    out: &'static str,
    err: &'static str,
}

/// A command of vmadm.
pub(crate) const fn vmadm(
    args: &'static [&'static str],
    code: i32,
    err: &'static str,
) -> Step {
    Step { program: "vmadm", args, stdin: None, code, out: "", err }
}

/// A command of zlogin.
pub(crate) const fn zlogin(
    args: &'static [&'static str],
    code: i32,
    out: &'static str,
    err: &'static str,
) -> Step {
    Step { program: "zlogin", args, stdin: None, code, out, err }
}

impl Step {
    /// With this on stdout.
    pub(crate) const fn out(mut self, out: &'static str) -> Step {
        self.out = out;
        self
    }

    /// With this on stdin.
    pub(crate) const fn fed(mut self, stdin: &'static str) -> Step {
        self.stdin = Some(stdin);
        self
    }

    fn check(&self, host: &Host, id: &str) {
        let put = |text: &str| {
            text.replace("{U}", id)
                .replace("{N}", NOBODY)
                .replace("{IMAGE}", HOST_IMAGE)
        };
        let args: Vec<String> = self.args.iter().map(|w| put(w)).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let stdin = put(self.stdin.unwrap_or(""));
        let said: Said =
            host.feed(self.program, &args, stdin.as_bytes()).into();
        let err = match (self.code, self.program) {
            (2, "vmadm") => {
                format!("{}\n{}", put(self.err), host.ok(&["help"]).out)
            }
            _ if self.err.is_empty() => String::new(),
            _ => format!("{}\n", put(self.err)),
        };
        let wanted = Said { code: self.code, out: put(self.out), err };
        assert_eq!(said, wanted, "{} {args:?}", self.program);
    }
}

/// What is there after the commands of a case.
pub(crate) struct After<'a> {
    pub(crate) host: &'a Host,
    pub(crate) id: &'a str,
    /// The zone as `vmadm get` showed it before them.
    pub(crate) before: Value,
    /// And after them; null if it is gone.
    pub(crate) now: Value,
}

impl After<'_> {
    /// The state and whether it boots by itself.
    #[track_caller]
    pub(crate) fn is(&self, state: &str, autoboot: bool) {
        let found = (&self.now["state"], &self.now["autoboot"]);
        assert_eq!(found, (&json!(state), &json!(autoboot)));
    }
}

/// The zone is as it was, and was not booted meanwhile.
pub(crate) fn unchanged(after: &After<'_>) {
    let plain = |value: &Value| {
        let mut value = value.clone();
        value["ntrace"]["usage"] = Value::Null;
        value
    };
    assert_eq!(plain(&after.now), plain(&after.before));
}

/// One case.
pub(crate) struct Case {
    pub(crate) number: u8,
    /// Makes what the case is given; its zone.
    pub(crate) given: fn(&Host) -> String,
    pub(crate) steps: &'static [Step],
    pub(crate) then: fn(&After<'_>),
}

impl Case {
    /// Panics unless the case holds.
    pub(crate) fn check(&self, host: &Host) {
        let id = (self.given)(host);
        let before = look(host, &id);
        for step in self.steps {
            step.check(host, &id);
        }
        let now = look(host, &id);
        (self.then)(&After { host, id: &id, before, now });
    }
}

fn look(host: &Host, id: &str) -> Value {
    let said = host.vmadm(&["get", id]);
    serde_json::from_str(&said.out).unwrap_or(Value::Null)
}

/// Removes all that a case left, so that the next has the place to itself.
pub(crate) fn clear(host: &Host) {
    let _ = std::fs::remove_file(host.state().join("faults"));
    for id in host.vmadm(&["lookup"]).out.lines() {
        let _ = std::fs::remove_file(host.zone_dir(id).join("faults"));
        host.vmadm(&["delete", id]);
    }
}

pub(crate) fn nothing(_: &Host) -> String {
    NOBODY.to_owned()
}

/// A zone that is down, with a snapshot `clean`.
pub(crate) fn stopped(host: &Host) -> String {
    host.zone(&json!({}))
}

/// The same, up.
pub(crate) fn running(host: &Host) -> String {
    host.running(&json!({}))
}

/// A zone whose first boot did not come to its end, with a snapshot.
pub(crate) fn failed(host: &Host) -> String {
    let fault = "provision=timeout*1\n";
    std::fs::create_dir_all(host.state()).unwrap();
    std::fs::write(host.state().join("faults"), fault).unwrap();
    let payload =
        json!({"uuid": NOBODY, "image_uuid": HOST_IMAGE, "alias": "worker0"});
    let said: Said =
        host.feed("vmadm", &["create"], payload.to_string().as_bytes()).into();
    let wanted = format!(
        "first of 1 error: timed out waiting for /var/svc/provisioning to \
         move for {NOBODY}\n"
    );
    assert_eq!((said.code, said.err), (1, wanted));
    host.ok(&["create-snapshot", NOBODY, "clean"]);
    NOBODY.to_owned()
}

/// Nothing more to look at.
pub(crate) fn done(_: &After<'_>) {}

//! Doing it by the zone's shell, where there is no helper.
//!
//! The scripts are constants, passed to zlogin as one argument. All that
//! varies comes on their stdin: short lines read by `read -r`, and for `run`
//! a small script of single-quoted words. The nonce stays in a variable of
//! root's shell: it is in no argument, environment or file that the job
//! could read.
//!
//! What a shell cannot tell: which processor time was used, whether there
//! was a core, and (except in ksh93, which says 256+n) whether 128+n was a
//! signal or an exit status. 129 to 192 count as signals then.

use bytes::Bytes;

use super::{Call, Collect, Found, InsideError, ProcessInfo, Signal, glob};
use crate::door::Captured;
use crate::marker::Nonce;
use crate::name::UserName;
use crate::quote::{self, single};
use crate::spec::{Directory, JobSpec};

/// What all scripts begin with. Descriptor 3 is the zone's stderr and stays
/// open to the end, since zlogin stops copying when nobody holds it. The
/// shell's own messages ("Killed") are not the job's: they go nowhere, and so
/// no shell with the real stderr may wait for the job: each one execs.
const START: &str = r#"
exec 3>&2 2>/dev/null
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
umask 022
trap : HUP INT TERM
say() { printf '\036ntrace-status %s %s\n' "$nonce" "$1" >&3; exit 0; }
fail() { say "{\"error\":\"$1\",\"code\":125}"; }
as() (
    exec 2>&3 3>&-
    if [ "$(id -un)" = "$user" ]; then exec /bin/sh -c "$1"; fi
    exec su "$user" -c "$1"
)
IFS= read -r nonce || exit 125
"#;

/// Reads and checks the user.
const USER: &str = r#"
IFS= read -r user || exit 125
id "$user" >/dev/null || fail "the zone has no such user"
"#;

/// Reads and checks the directory.
const DIR: &str = r#"
IFS= read -r dir || exit 125
[ -d "$dir" ] || fail "the zone has no such directory"
"#;

/// The job's words come as a script of known length for the job's own shell,
/// so nothing of them is in an argument.
const RUN: &str = r#"
IFS= read -r lines || exit 125
nl='
'
script=
while [ "$lines" -gt 0 ]; do
    IFS= read -r line || fail "the header was cut"
    script=$script$line$nl
    lines=$((lines - 1))
done
printf '%s' "$script" | as 'exec /bin/sh'
code=$?
/bin/sh -c 'kill -KILL $$'
if [ $? -gt 256 ]; then base=256; else base=128; fi
number=$((code - base))
if [ "$number" -gt 0 ] && [ "$number" -le 64 ] && name=$(kill -l "$number")
then say "{\"signal\":\"SIG$name\",\"core\":false}"
else say "{\"code\":$code}"
fi
"#;

/// The directory is read by both shells, so it is sent twice.
const UNPACK: &str = r#"
IFS= read -r dir || exit 125
IFS= read -r found || exit 125
if [ "$found" = refused ]; then
    mkdir -p "${dir%/*}/" && mkdir "$dir" ||
        fail "the directory for the files is there: somebody was here first"
fi
mkdir -p "$dir" && chown "$user" "$dir" ||
    fail "cannot make the directory for the files"
as 'umask 022; IFS= read -r dir && cd "$dir" || exit 125
    if command -v gtar >/dev/null; then exec gtar -xf -
    else exec tar -xf -; fi'
say "{\"code\":$?}"
"#;

const LIST: &str = r#"
as 'IFS= read -r dir && cd "$dir" || exit 125
    exec find . -type f -print </dev/null'
say "{\"code\":$?}"
"#;

const PACK: &str = r#"
as 'IFS= read -r dir && cd "$dir" || exit 125
    if command -v gtar >/dev/null; then t=gtar; else t=tar; fi
    exec $t --no-recursion --null -T - -cf -'
say "{\"code\":$?}"
"#;

/// More than one round for KILL, because a process may fork meanwhile.
const KILL: &str = r#"
IFS= read -r signal || exit 125
uid=$(id -u "$user") && [ "$uid" -gt 0 ] && [ "$uid" != "$(id -u)" ] ||
    fail "will not signal the processes of this user"
round=0
while [ "$round" -lt 20 ]; do
    round=$((round + 1))
    met=$(ps -e -o uid= -o pid= -o s= | while read -r u pid s; do
        if [ "$u" = "$uid" ] && [ "$s" != Z ]; then
            kill -s "$signal" "$pid" && echo "$pid"
        fi
    done)
    [ "$signal" = KILL ] && [ -n "$met" ] || break
done
say '{"code":0}'
"#;

const PS: &str = r#"
ps -e -o pid= -o ppid= -o s= -o rss= -o args=
say "{\"code\":$?}"
"#;

/// The scripts: all that is ever run this way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Script {
    Run,
    Unpack,
    List,
    Pack,
    Kill,
    Ps,
}

impl Script {
    pub(crate) const ALL: [Self; 6] =
        [Self::Run, Self::Unpack, Self::List, Self::Pack, Self::Kill, Self::Ps];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Unpack => "unpack",
            Self::List => "list",
            Self::Pack => "pack",
            Self::Kill => "kill",
            Self::Ps => "ps",
        }
    }

    /// One constant argument for the zone's shell, whichever that is.
    pub(crate) fn argument(self) -> String {
        let parts: &[&str] = match self {
            Self::Run => &[START, USER, DIR, RUN],
            Self::Unpack => &[START, USER, UNPACK],
            Self::List => &[START, USER, DIR, LIST],
            Self::Pack => &[START, USER, DIR, PACK],
            Self::Kill => &[START, USER, KILL],
            Self::Ps => &[START, PS],
        };
        format!("exec /bin/sh -c {}", single(&parts.concat()))
    }
}

fn call(script: Script, lines: &[&str]) -> Call {
    let mut head = lines.join("\n");
    head.push('\n');
    Call { args: vec![script.argument()], head: head.into() }
}

pub(super) fn run(nonce: &Nonce, spec: &JobSpec) -> Result<Call, InsideError> {
    // env(1) stands before the command and would take these for its own.
    let first = &spec.argv[0];
    if first.starts_with('-') || first.contains('=') {
        return Err(InsideError::Unfit { word: quote::visible(first) });
    }
    let script = script(spec);
    let count = script.matches('\n').count().to_string();
    let Call { args, head } = call(
        Script::Run,
        &[nonce.as_str(), spec.user.as_str(), spec.cwd.as_str(), &count],
    );
    let head: Bytes = [&head[..], script.as_bytes()].concat().into();
    Ok(Call { args, head })
}

/// For the job's own shell. Ends in a newline.
fn script(spec: &JobSpec) -> String {
    let mut script = format!("cd {} || exit 125\n", single(spec.cwd.as_str()));
    script.push_str("umask 022\nulimit -c 0\n");
    if let Some(limit) = spec.nofile {
        script.push_str(&format!("ulimit -n {limit}\n"));
    }
    if let Some(limit) = spec.pids {
        script.push_str(&format!("ulimit -u {limit} 2>/dev/null\n"));
    }
    script.push_str("exec env -i");
    for (name, value) in &spec.env {
        script.push(' ');
        script.push_str(&single(&format!("{name}={value}")));
    }
    for word in &spec.argv {
        script.push(' ');
        script.push_str(&single(word));
    }
    script.push_str(" </dev/null\n");
    script
}

pub(super) fn unpack(
    nonce: &Nonce,
    user: &UserName,
    dir: &Directory,
    found: Found,
) -> Call {
    let found = match found {
        Found::Used => "used",
        Found::Refused => "refused",
    };
    let (user, dir) = (user.as_str(), dir.as_str());
    call(Script::Unpack, &[nonce.as_str(), user, dir, found, dir])
}

pub(super) fn list(nonce: &Nonce, user: &UserName, dir: &Directory) -> Call {
    call(
        Script::List,
        &[nonce.as_str(), user.as_str(), dir.as_str(), dir.as_str()],
    )
}

pub(super) fn pack(nonce: &Nonce, user: &UserName, dir: &Directory) -> Call {
    call(
        Script::Pack,
        &[nonce.as_str(), user.as_str(), dir.as_str(), dir.as_str()],
    )
}

pub(super) fn kill(nonce: &Nonce, user: &UserName, signal: Signal) -> Call {
    call(Script::Kill, &[nonce.as_str(), user.as_str(), signal.name()])
}

pub(super) fn ps(nonce: &Nonce) -> Call {
    call(Script::Ps, &[nonce.as_str()])
}

/// Files that were picked to be taken out.
pub(super) struct Picked {
    /// Their names, each ended by NUL, as tar wants them.
    pub(super) names: Vec<u8>,
    pub(super) files: u64,
    pub(super) skipped: Vec<String>,
}

/// Picks from a list of files those that fit.
pub(super) fn pick(listed: &Captured, want: &Collect) -> Picked {
    let mut picked =
        Picked { names: Vec::new(), files: 0, skipped: Vec::new() };
    let mut over = 0_u64;
    for line in listed.bytes.split(|b| *b == b'\n') {
        // A name with a newline gives lines that lack the `./`.
        let Some(name) = line.strip_prefix(b"./") else { continue };
        let shown = String::from_utf8_lossy(name);
        if !want.globs.iter().any(|one| glob::fits(one, &shown)) {
            continue;
        }
        if picked.files >= want.max_files {
            over += 1;
            continue;
        }
        if name.starts_with(b"-") {
            picked.names.extend_from_slice(b"./");
        }
        picked.names.extend_from_slice(name);
        picked.names.push(0);
        picked.files += 1;
    }
    if over > 0 {
        picked.skipped.push(format!(
            "{over} files beyond the limit of {}",
            want.max_files
        ));
    }
    if listed.cut > 0 {
        picked.skipped.push("the list of files was too long".to_owned());
    }
    picked
}

/// Reads what ps printed; lines that make no sense are passed over.
pub(super) fn parse_ps(text: &str) -> Vec<ProcessInfo> {
    text.lines().filter_map(parse_process).collect()
}

fn parse_process(line: &str) -> Option<ProcessInfo> {
    let mut rest = line;
    let mut word = || {
        let start = rest.trim_start();
        let end = start.find(' ').unwrap_or(start.len());
        let (word, after) = start.split_at(end);
        rest = after;
        word.to_owned()
    };
    let (pid, ppid, state, rss) = (word(), word(), word(), word());
    let args: String = rest.trim().chars().take(400).collect();
    let kib: u64 = rss.parse().ok()?;
    Some(ProcessInfo {
        pid: pid.parse().ok()?,
        ppid: Some(ppid.parse().ok()?),
        state: Some(state),
        rss: Some(kib.saturating_mul(1024)),
        argv: vec![quote::visible(&args)],
        ..ProcessInfo::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_ps_is_read() {
        let text = "    1     0 S  1024 /sbin/init a  b\nnonsense\n";
        let all = parse_ps(text);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].rss, Some(1 << 20));
        assert_eq!(all[0].argv, ["/sbin/init a  b"]);
    }

    #[test]
    fn files_are_picked_up_to_the_limit_and_never_look_like_options() {
        let listed = Captured {
            bytes: b"./a.log\n./-x.log\n./n\newline.log\n./b.log\n./c.txt\n"
                .to_vec(),
            cut: 0,
        };
        let want = Collect {
            user: "job".parse().unwrap(),
            dir: Directory::new("/home/job").unwrap(),
            globs: vec!["*.log".to_owned()],
            max_bytes: 1 << 20,
            max_files: 2,
        };
        let picked = pick(&listed, &want);
        assert_eq!(picked.names, b"a.log\0./-x.log\0");
        assert_eq!(picked.skipped, ["1 files beyond the limit of 2"]);
    }
}

//! What the gate may let through, written a second time and in another way:
//! a list of words for each command, or None. Tests compare the two.

use super::gate::{OTHER, SCRIPT, WORKER};

const PLAIN: &str = "_./=,+:%@-";
const LIMITS: [&str; 5] =
    ["max_physical_memory", "max_swap", "cpu_cap", "max_lwps", "quota"];

/// The words of a command as the gate reads them.
fn words(command: &[u8]) -> Option<Vec<String>> {
    if command.is_empty() || command.len() > 16_384 {
        return None;
    }
    let text: Vec<char> = command
        .iter()
        .map(|b| (matches!(b, b' '..=b'~' | b'\n')).then_some(*b as char))
        .collect::<Option<_>>()?;
    let mut words = Vec::new();
    let mut at = 0;
    loop {
        let mut word = String::new();
        let start = at;
        while at < text.len() && text[at] != ' ' {
            match text[at] {
                '\'' => {
                    let rest = &text[at + 1..];
                    let end = rest.iter().position(|c| *c == '\'')?;
                    word.extend(&rest[..end]);
                    at += end + 2;
                }
                '\\' => {
                    let next = *text.get(at + 1)?;
                    if next != '\'' && next != '!' {
                        return None;
                    }
                    word.push(next);
                    at += 2;
                }
                c if c.is_ascii_alphanumeric() || PLAIN.contains(c) => {
                    word.push(c);
                    at += 1;
                }
                _ => return None,
            }
        }
        if at == start {
            return None;
        }
        words.push(word);
        if at == text.len() {
            return (words.len() <= 16).then_some(words);
        }
        at += 1;
    }
}

fn limit(pair: &str) -> Option<&str> {
    let (name, number) = pair.split_once('=')?;
    let good = LIMITS.contains(&name)
        && (1..=9).contains(&number.len())
        && number.bytes().all(|b| b.is_ascii_digit())
        && (number == "0" || !number.starts_with('0'));
    good.then_some(name)
}

/// What the gate runs for a command: the program and its arguments. The
/// gate's own answers (its status, a lookup) are none.
pub(crate) fn allowed(command: &[u8]) -> Option<Vec<String>> {
    let words = words(command)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let listed = |uuid: &str| uuid == WORKER || uuid == OTHER;
    let (program, rest) = words.split_first()?;
    let name = program.strip_prefix("/usr/sbin/").unwrap_or(program);
    let good = match (name, rest) {
        ("vmadm", ["get" | "start", uuid]) => listed(uuid),
        ("vmadm", ["stop", uuid, "-F"]) => listed(uuid),
        ("vmadm", ["rollback-snapshot", uuid, snapshot]) => {
            let may: &[&str] =
                if *uuid == OTHER { &["clean"] } else { &["clean", "a:b%"] };
            listed(uuid) && may.contains(snapshot)
        }
        ("vmadm", ["update", uuid, limits @ ..]) => {
            let names: Option<Vec<_>> =
                limits.iter().map(|pair| limit(pair)).collect();
            let count = names.map(|mut names| {
                names.sort_unstable();
                let all = names.len();
                names.dedup();
                (all, names.len())
            });
            listed(uuid)
                && count.is_some_and(|(all, unlike)| all > 0 && all == unlike)
        }
        (
            "zlogin",
            [
                "-Q",
                uuid,
                "/native/zone-job",
                "run" | "unpack" | "collect" | "kill" | "ps",
            ],
        ) => listed(uuid),
        ("zlogin", ["-Q", uuid, script]) => listed(uuid) && *script == SCRIPT,
        _ => false,
    };
    let all = std::iter::once(&name).chain(rest);
    good.then(|| all.map(|word| (*word).to_owned()).collect())
}

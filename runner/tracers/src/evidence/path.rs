//! A stack as a path of a few names: from the function that began it to the
//! one that was running or waiting.
//!
//! Pure. What every program begins with, and what nobody could name, is left
//! out; of a script it is the script's own functions that count.

/// Frames of a sentence at most; the middle is left out.
const FRAMES: usize = 6;

/// The longest name of a frame in it.
const NAME: usize = 80;

/// Frames in which every program begins, and that say nothing.
const BEGINNINGS: [&str; 8] = [
    "_start",
    "__libc_start_main",
    "__libc_start_call_main",
    "start_thread",
    "clone",
    "clone3",
    "__clone",
    "__clone3",
];

/// The stack, root first, without what every program begins with.
pub(super) fn path(frames: &[String]) -> Option<String> {
    let base = |name: &str| {
        let name = name.split(['+', '@', '.']).next().unwrap_or(name);
        BEGINNINGS.iter().any(|beginning| {
            name == *beginning || name.starts_with("__libc_start_main")
        })
    };
    let mut named: Vec<&str> = frames
        .iter()
        .map(|frame| frame.trim())
        .filter(|frame| !is_bare(frame))
        .collect();
    named.reverse();
    let first = named.iter().position(|name| !base(name));
    named.drain(..first.unwrap_or(named.len()));
    let named = of_script(named);
    if named.is_empty() {
        return None;
    }
    let mut parts: Vec<String> = named.iter().map(|n| short(n)).collect();
    if parts.len() > FRAMES {
        let cut = parts.len() - FRAMES;
        parts.splice(2..2 + cut, ["…".to_owned()]);
    }
    Some(parts.join(" > "))
}

/// The functions of a script and what they called last, where it is one: the
/// engine below it, and its own script, say nothing of the user's.
fn of_script(named: Vec<&str>) -> Vec<&str> {
    let is_own = |name: &str| {
        let marks = ["[eval]", ".js", ".mjs", ".cjs", ".ts", ".py"];
        marks.iter().any(|mark| name.contains(mark))
            && !name.contains("node:internal")
    };
    let Some(first) = named.iter().position(|name| is_own(name)) else {
        return named;
    };
    let tail = named.into_iter().skip(first);
    tail.filter(|name| {
        !name.starts_with("Builtins_") && !name.contains("node:internal")
    })
    .collect()
}

/// A name without the types of its arguments, and not too long.
fn short(name: &str) -> String {
    let mut depth = 0_i32;
    let is_call = name.ends_with(')') || name.ends_with(") const");
    // From behind, to the bracket that belongs to the last one.
    let begin = name.char_indices().rev().find(|(_, c)| {
        depth += i32::from(*c == ')') - i32::from(*c == '(');
        *c == '(' && depth == 0
    });
    let name = match begin {
        Some((at, _)) if is_call && at > 0 => &name[..at],
        _ => name,
    };
    match name.chars().count() > NAME {
        true => name.chars().take(NAME).chain(['…']).collect(),
        false => name.to_owned(),
    }
}

/// A place that nobody could name: an address, or no more than a file.
fn is_bare(frame: &str) -> bool {
    frame.is_empty() || frame.starts_with("0x") || frame.starts_with('[')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deep_stack_keeps_its_ends() {
        let frames: Vec<String> =
            (0..500).map(|n| format!("f{n}")).chain(["main".into()]).collect();
        let kept = path(&frames).unwrap();
        assert_eq!(kept, "main > f499 > … > f3 > f2 > f1 > f0");
        let bare = ["0x1", "lock", "[libc.so.6]", "main", "[libc.so.6]"];
        let bare = bare.map(str::to_owned);
        assert_eq!(path(&bare).unwrap(), "main > lock");
        assert_eq!(path(&["0x1".to_owned()]), None);
    }

    #[test]
    fn of_a_script_it_names_the_functions_of_its_author() {
        let frames = [
            "pthread_cond_wait",
            "v8::Futex::Wait<int>(v8::Isolate*, bool (*)(int))",
            "Builtins_CEntry",
            "waits /home/job/a.js:3",
            "runs /home/job/a.js:9",
            "load node:internal/modules",
            "node::Start(int, char**)",
            "main",
        ];
        let frames = frames.map(str::to_owned);
        assert_eq!(
            path(&frames).unwrap(),
            "runs /home/job/a.js:9 > waits /home/job/a.js:3 > \
             v8::Futex::Wait<int> > pthread_cond_wait"
        );
        assert_eq!(short("(anonymous namespace)::f(int) const"), {
            "(anonymous namespace)::f"
        });
        assert_eq!(short("operator()"), "operator");
        assert_eq!(short("(x)"), "(x)");
    }
}

//! From the name that a tracer found to the name that is compared.
//!
//! Two builds of one program differ in lines, tiers, clone numbers and the
//! directory they were built in. The name that is compared has none of
//! these; the raw name is kept beside it.

use std::borrow::Cow;

use crate::frame::{FrameKind, Symbol};

/// What V8 writes before a function's name in a perf map.
const V8_PREFIXES: [&str; 6] =
    ["JS:", "LazyCompile:", "Function:", "Script:", "Eval:", "Callback:"];

/// Endings that compilers give to parts and copies of a function.
const CLONES: [&str; 7] = [
    ".cold",
    ".isra.",
    ".constprop.",
    ".part.",
    ".llvm.",
    ".lto_priv.",
    ".localalias",
];

/// A JavaScript function as V8 names it: `*byHash file:///x/job.js:12:3`,
/// with or without `JS:` before it. `checkout` is the directory of the
/// job's tree, or empty.
pub fn javascript<'a>(raw: &'a str, checkout: &str) -> Symbol<'a> {
    let rest = V8_PREFIXES
        .iter()
        .find_map(|prefix| raw.strip_prefix(prefix))
        .unwrap_or(raw);
    let (kind, rest) = match rest.chars().next() {
        Some('~') => (FrameKind::Interpreted, &rest[1..]),
        Some('*' | '^' | '+') => (FrameKind::Jit, &rest[1..]),
        _ => (FrameKind::Jit, rest),
    };
    let (rest, line) = place(rest);
    // The place is the last word that looks like one; a name may hold
    // spaces (`get fd`), and so may a path, but a path starts plainly.
    let (name, file) = match path_start(rest) {
        Some(at) => (rest[..at].trim_end(), relative(&rest[at..], checkout)),
        None => (rest, ""),
    };
    let name = if name.is_empty() { "(anonymous)" } else { name };
    let key = if file.is_empty() {
        name.to_owned()
    } else {
        format!("{name} {file}")
    };
    Symbol { system_name: raw.into(), ..Symbol::new(key, kind) }
        .at(file.to_owned(), line)
}

/// A function's name in a native binary, demangled or not.
pub fn native<'a>(raw: &'a str, module: &'a str) -> Symbol<'a> {
    let mut name = raw;
    if let Some(at) = name.find(" [clone ") {
        name = &name[..at];
    }
    for clone in CLONES {
        // `.cold` of a demangled C++ name stands at the end as well.
        if let Some(at) = name.rfind(clone)
            && at > 0
        {
            name = &name[..at];
        }
    }
    // Old Rust names end in `::h` and 16 digits, new in each build.
    if let Some(at) = name.rfind("::h")
        && name.len() == at + 19
        && name[at + 3..].bytes().all(|b| b.is_ascii_hexdigit())
    {
        name = &name[..at];
    }
    let kind = match name {
        _ if is_unnamed(name) => FrameKind::Unknown,
        _ => FrameKind::Native,
    };
    Symbol { system_name: raw.into(), ..Symbol::new(name, kind) }
        .in_module(module)
}

/// A mangled name of Rust or C++ as its author wrote it; others as they are.
/// C++ functions keep their arguments, which tell overloads apart, and lose
/// the result, which only instances of templates state.
pub fn demangled(raw: &str) -> Cow<'_, str> {
    // A hostile name can be far longer when it is written out.
    if raw.len() > MAX_MANGLED || !raw.starts_with('_') {
        return raw.into();
    }
    if let Ok(name) = rustc_demangle::try_demangle(raw) {
        return format!("{name:#}").into();
    }
    let options = cpp_demangle::DemangleOptions::new()
        .recursion_limit(96)
        .no_return_type()
        .hide_expression_literal_types();
    cpp_demangle::Symbol::new(raw)
        .ok()
        .and_then(|symbol| symbol.demangle_with_options(&options).ok())
        .map_or(raw.into(), |name| plain_string(name).into())
}

/// `std::string` under its own name.
fn plain_string(name: String) -> String {
    const SPELT: &str = "std::__cxx11::basic_string<char, \
         std::char_traits<char>, std::allocator<char> >";
    match name.contains("std::__cxx11::") {
        true => name
            .replace(SPELT, "std::string")
            .replace("std::__cxx11::", "std::"),
        false => name,
    }
}

/// A JavaScript function by its name and the address of its script.
pub(crate) fn script(
    function: &str,
    url: &str,
    line: u32,
    checkout: &str,
) -> Symbol<'static> {
    let name = if function.is_empty() { "(anonymous)" } else { function };
    let file = relative(url, checkout);
    let key = format!("{name} {file}").trim_end().to_owned();
    Symbol::new(key, FrameKind::Jit).at(file.to_owned(), line)
}

/// A name from a `perf-PID.map`: V8's, Python's or another's.
pub fn perf_map<'a>(raw: &'a str, checkout: &str) -> Symbol<'a> {
    if V8_PREFIXES.iter().any(|prefix| raw.starts_with(prefix)) {
        return javascript(raw, checkout);
    }
    // V8's own code, made at build time and copied.
    let own = ["Builtin:", "BytecodeHandler:", "Stub:", "RegExp:", "Wasm:"];
    if own.iter().any(|prefix| raw.starts_with(prefix)) {
        let kind = FrameKind::Jit;
        return Symbol { system_name: raw.into(), ..Symbol::new(raw, kind) };
    }
    // Python 3.12+: `py::function:/path/file.py`.
    if let Some(rest) = raw.strip_prefix("py::") {
        let (name, file) = rest.split_once(':').unwrap_or((rest, ""));
        let file = relative(file, checkout);
        let key = format!("{name} {file}");
        let symbol =
            Symbol::new(key.trim_end().to_owned(), FrameKind::Interpreted);
        return Symbol { system_name: raw.into(), ..symbol }
            .at(file.to_owned(), 0);
    }
    if let Some(name) = java(raw) {
        let symbol = Symbol::new(name, FrameKind::Jit);
        return Symbol { system_name: raw.into(), ..symbol };
    }
    let kind = match raw {
        // All that a JVM did not compile yet.
        "Interpreter" => FrameKind::Interpreted,
        raw if is_unnamed(raw) => FrameKind::Unknown,
        _ => FrameKind::Jit,
    };
    Symbol { system_name: raw.into(), ..Symbol::new(raw, kind) }
}

/// A method of Java as people write it, from what the JVM writes itself
/// (`long com.foo.Bar.baz(int)`) or what agents do (`Lcom/foo/Bar;::baz`).
fn java(raw: &str) -> Option<String> {
    if let Some((class, method)) = raw.split_once(";::") {
        let class = class.strip_prefix('L')?.replace('/', ".");
        return Some(format!("{class}.{method}"));
    }
    let (before, arguments) = raw.split_once('(')?;
    let (result, method) = before.split_once(' ')?;
    let like_type = |text: &str| {
        text.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && !text.contains([' ', ':', '/', '<'])
    };
    // A class that was made at run time has its address behind its name.
    let (class, address) = method.split_once("/0x").unwrap_or((method, ""));
    let method =
        match address.trim_start_matches(|c: char| c.is_ascii_hexdigit()) {
            "" => class.to_owned(),
            // `$$Lambda$14` is the fourteenth only in this run.
            rest => {
                let bare = class.trim_end_matches(|c: char| c.is_ascii_digit());
                let bare = bare.strip_suffix('$').unwrap_or(class);
                format!("{bare}{rest}")
            }
        };
    (like_type(result)
        && like_type(&method)
        && method.contains('.')
        && arguments.ends_with(')'))
    .then(|| format!("{method}({arguments}"))
}

/// A name in a profile that another program made.
pub(crate) fn foreign<'a>(raw: &'a str, module: &'a str) -> Symbol<'a> {
    if module.starts_with("[kernel") {
        let kind = FrameKind::Kernel;
        return Symbol::new(raw, kind).in_module(module);
    }
    let mapped = perf_map(raw, "");
    if mapped.name != raw || raw.starts_with("Builtin:") {
        return mapped.in_module(module);
    }
    native(raw, module)
}

/// A mangled name that is longer stays as it is.
const MAX_MANGLED: usize = 4096;

/// True for what tracers write when they have no name.
pub(crate) fn is_unnamed(name: &str) -> bool {
    let hex = |digits: &str| {
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit())
    };
    match name.strip_prefix("0x") {
        Some(digits) => hex(digits),
        None => matches!(name, "" | "[unknown]" | "unknown" | "??"),
    }
}

/// Cuts `:line:column` or `:line` from the end.
fn place(text: &str) -> (&str, u32) {
    let number = |text: &str| -> Option<u32> {
        let plain = text.bytes().all(|b| b.is_ascii_digit());
        if plain { text.parse().ok() } else { None }
    };
    let Some((before, last)) = text.rsplit_once(':') else {
        return (text, 0);
    };
    let Some(last) = number(last) else { return (text, 0) };
    match before.rsplit_once(':') {
        Some((path, line)) if number(line).is_some() => {
            (path, number(line).unwrap_or(0))
        }
        _ => (before, last),
    }
}

/// Where the path begins: the first word that starts like one.
fn path_start(text: &str) -> Option<usize> {
    let like_path = |word: &str| {
        word.starts_with('/')
            || word.starts_with("./")
            || ["file:", "node:", "evalmachine.", "webpack:", "wasm:"]
                .iter()
                .any(|prefix| word.starts_with(prefix))
            || [".js", ".mjs", ".cjs", ".ts", ".py"]
                .iter()
                .any(|ending| word.ends_with(ending))
    };
    let mut at = 0;
    for word in text.split(' ') {
        if like_path(word) {
            return Some(at);
        }
        at += word.len() + 1;
    }
    None
}

/// The path without `file://` and without the checkout's directory.
pub(crate) fn relative<'a>(path: &'a str, checkout: &str) -> &'a str {
    let path = path.strip_prefix("file://").unwrap_or(path);
    let root = checkout.trim_end_matches('/');
    if root.is_empty() {
        return path;
    }
    match path.strip_prefix(root).and_then(|rest| rest.strip_prefix('/')) {
        Some(inside) if !inside.is_empty() => inside,
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn js(raw: &str, name: &str, line: u32, kind: FrameKind) {
        let symbol = perf_map(raw, "/home/job/tree/");
        assert_eq!(symbol.name, name);
        assert_eq!((symbol.line, symbol.kind), (line, kind));
        assert_eq!(symbol.system_name, raw);
    }

    #[test]
    fn tier_line_and_checkout_are_not_compared() {
        use FrameKind::{Interpreted, Jit};
        let key = "byHash src/job.js";
        js("JS:*byHash /home/job/tree/src/job.js:12:3", key, 12, Jit);
        js("JS:^byHash file:///home/job/tree/src/job.js:9:3", key, 9, Jit);
        js("JS:~byHash /home/job/tree/src/job.js:1:1", key, 1, Interpreted);
        js("LazyCompile:*get fd node:net:3:4", "get fd node:net", 3, Jit);
        js("JS:~ /home/job/tree/a.js:1:1", "(anonymous) a.js", 1, Interpreted);
        js("Builtin:ArrayMap", "Builtin:ArrayMap", 0, Jit);
        js("py::work:/home/job/tree/a b.py", "work a b.py", 0, Interpreted);
        js("0x7f00", "0x7f00", 0, FrameKind::Unknown);
    }

    #[test]
    fn methods_of_java_are_shown_as_people_write_them() {
        for (raw, shown) in [
            ("long com.foo.Bar.baz(int, long)", "com.foo.Bar.baz(int, long)"),
            ("java.lang.String[] Bar$In.run()", "Bar$In.run()"),
            (
                "long Bar$$Lambda$14/0x00007fe488001450.run(int)",
                "Bar$$Lambda.run(int)",
            ),
            (
                "long Bar$$Lambda/0x0000000026040ca8.run(int)",
                "Bar$$Lambda.run(int)",
            ),
            ("Lcom/foo/Bar;::baz", "com.foo.Bar.baz"),
            ("StubRoutines (1)", "StubRoutines (1)"),
            ("Interpreter", "Interpreter"),
            (
                "handle_exception Runtime1 stub",
                "handle_exception Runtime1 stub",
            ),
            ("some name of (another)", "some name of (another)"),
        ] {
            let symbol = perf_map(raw, "");
            assert_eq!(symbol.name, shown);
            assert_eq!(symbol.system_name, raw);
        }
        let kind = perf_map("Interpreter", "").kind;
        assert_eq!(kind, FrameKind::Interpreted);
    }

    #[test]
    fn mangled_names_are_shown_as_they_were_written() {
        for (raw, shown) in [
            ("_ZN3app4burnILm7EEEmm", "app::burn<7>(unsigned long)"),
            (
                "_ZZN3app3runEvENKUlmE_clEm",
                "app::run()::{lambda(unsigned long)#1}::operator()\
                 (unsigned long) const",
            ),
            (
                "_ZN1a3putENSt7__cxx1112basic_stringIcSt11char_traitsIcE\
                 SaIcEEE",
                "a::put(std::string)",
            ),
            ("_ZN4core3fmt5write17h0123456789abcdefE", "core::fmt::write"),
            ("_RNvC6_123foo3bar", "123foo::bar"),
            ("_Znot_a_name", "_Znot_a_name"),
            ("memcpy", "memcpy"),
        ] {
            assert_eq!(demangled(raw), shown, "{raw}");
        }
    }

    #[test]
    fn clones_and_hashes_of_native_names_are_not_compared() {
        let key = |raw| native(raw, "").name.into_owned();
        assert_eq!(key("burn.constprop.0"), "burn");
        assert_eq!(key("burn.part.0.cold"), "burn");
        assert_eq!(key("a::b::h0123456789abcdef"), "a::b");
        assert_eq!(key("a::hello"), "a::hello");
        assert_eq!(key("foo(int) [clone .isra.0]"), "foo(int)");
        assert_eq!(key(".cold"), ".cold");
        assert_eq!(native("[unknown]", "").kind, FrameKind::Unknown);
    }
}

//! Makefiles: is there a rule for a target that we would run?
//!
//! Reads as much of make's grammar as tells a rule from a variable, a
//! recipe's line, a comment or a definition. Included files are not seen.

use super::{Detected, Look, Root, found};

/// In the order in which make looks.
pub(super) const NAMES: &[&str] = &["GNUmakefile", "makefile", "Makefile"];

/// The first that is there is run.
const TARGETS: &[&str] = &["bench", "test", "check"];

pub(super) fn detect(root: &Root) -> Look {
    let Some((name, bytes)) = NAMES.iter().find_map(|name| root.bytes(name))
    else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(bytes);
    let targets = targets(&text);
    let chosen =
        TARGETS.iter().find(|target| targets.iter().any(|t| t == *target));
    match chosen {
        Some(target) => found(
            None,
            &format!("make {target}"),
            format!("the target {target} of {name}"),
        ),
        None => {
            let hint = format!("{name} has no target bench, test or check");
            Ok(Some(Detected::Nothing { hint }))
        }
    }
}

/// All plain targets that have a rule.
fn targets(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut in_definition = 0_usize;
    for line in logical_lines(text) {
        if line.starts_with('\t') {
            continue;
        }
        let first = line.split_whitespace().next().unwrap_or_default();
        match first {
            "define" => in_definition += 1,
            "endef" => in_definition = in_definition.saturating_sub(1),
            _ if in_definition == 0 => {
                if let Some(left) = left_of_rule(&line) {
                    all.extend(left.split_whitespace().map(str::to_owned));
                }
            }
            _ => {}
        }
    }
    all
}

/// Lines with their continuations, without comments.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut held = String::new();
    for line in text.lines() {
        // A comment swallows its continuation too.
        held.push_str(line.trim_end_matches('\r'));
        if held.ends_with('\\') {
            held.pop();
            held.push(' ');
            continue;
        }
        lines.push(without_comment(&std::mem::take(&mut held)));
    }
    lines.push(without_comment(&held));
    lines
}

fn without_comment(line: &str) -> String {
    if line.starts_with('\t') {
        return line.to_owned();
    }
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        if c == '#' && before != '\\' {
            return line[..at].to_owned();
        }
        before = c;
    }
    line.to_owned()
}

/// What stands left of a rule's colon; None when it is no rule.
fn left_of_rule(line: &str) -> Option<&str> {
    let mut depth = 0_usize;
    let mut chars = line.char_indices();
    let colon = chars.find_map(|(at, c)| {
        match c {
            '(' | '{' => depth += 1,
            ')' | '}' => depth = depth.saturating_sub(1),
            // A variable: `A = b`, `A += b`.
            '=' if depth == 0 => return Some(None),
            ':' if depth == 0 => return Some(Some(at)),
            _ => {}
        }
        None
    })??;
    let (left, right) = line.split_at(colon);
    let right = right.trim_start_matches(':');
    // `A := b`, `A ::= b`, and `target: A = b`, which makes no rule.
    let assigns = right.split(';').next().is_some_and(|part| {
        let mut depth = 0_usize;
        part.chars().any(|c| {
            match c {
                '(' | '{' => depth += 1,
                ')' | '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == '=' && depth == 0
        })
    });
    (!assigns).then_some(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let plain: Vec<String> = targets(text)
            .into_iter()
            .filter(|target| TARGETS.contains(&target.as_str()))
            .collect();
        assert_eq!(plain, expected, "{text:?}");
    }

    #[test]
    fn rules_are_found() {
        check("test:\n\techo\n", &["test"]);
        check("test : a b\n", &["test"]);
        check("all test check: x\n", &["test", "check"]);
        check("all \\\n  test: x\n", &["test"]);
        check("test:: a\n", &["test"]);
        check("test: ; echo A=b\n", &["test"]);
        check("$(A:x=y) test: b # c\n", &["test"]);
        check("test: $(X:.a=.b)\r\n", &["test"]);
        check("ifdef X\ntest: a\nendif\n", &["test"]);
    }

    #[test]
    fn what_only_looks_like_a_rule_is_none() {
        check(".PHONY: test bench\n", &[]);
        check("test = 1\ncheck := 2\nbench ::= 3\n", &[]);
        check("test += a:b\n", &[]);
        check("# test: a\n", &[]);
        check("# a \\\ntest: b\n", &[]);
        check("\ttest: a\n", &[]);
        check("define X\ntest: a\nendef\n", &[]);
        check("test: CFLAGS = -g\n", &[]);
        check("X = $(shell a:test)\n", &[]);
        check("test.o: test.c\ntests: a\nmy-test: b\n", &[]);
        check("echo test\n", &[]);
    }
}

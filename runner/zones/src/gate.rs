//! What the gate of a global zone must know of this driver.
//!
//! The gate (`scripts/smartos/ntrace-gate`) lets through a text for a zone's
//! shell only if it is one of ours. They are constants, and here they are
//! all, in the form that the gate reads. Must not know how the gate works
//! otherwise.

use crate::inside::shell::Script;
use crate::probe;
use crate::quote::single;

/// Every text that the driver gives to a zone's shell, each with a name.
#[must_use]
pub fn zlogin_scripts() -> Vec<(&'static str, String)> {
    let questions = probe::QUESTIONS
        .into_iter()
        .map(|(name, question)| (name, question.to_owned()));
    let scripts = Script::ALL
        .into_iter()
        .map(|script| (script.name(), script.argument()));
    questions.chain(scripts).collect()
}

/// The file `gate-calls`: a shell function that names a text if it is one of
/// the driver's.
#[must_use]
pub fn gate_calls() -> String {
    let mut text = "\
# The texts that this ntrace gives to a zone's shell; made from its source by
#   cargo run -p ntrace-zones --example gate-calls
# and read by ntrace-gate. A gate and a runner must be of the same version.
# shellcheck shell=sh disable=SC1003,SC2016,SC2034
name_call() {
    case $1 in
"
    .to_owned();
    for (name, script) in zlogin_scripts() {
        text.push_str(&format!("    {}) call='{name}' ;;\n", single(&script)));
    }
    text.push_str("    esac\n}\n");
    text
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_gates_file_is_of_this_version() {
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../scripts/smartos/gate-calls"
        );
        let found = std::fs::read_to_string(file).unwrap();
        assert!(
            found == gate_calls(),
            "write it anew: cargo run -p ntrace-zones --example gate-calls \
             > scripts/smartos/gate-calls"
        );
    }

    #[test]
    fn the_gates_function_names_our_texts_and_no_others() {
        let calls = gate_calls();
        let ask = |text: &str| {
            let script =
                format!("{calls}\ncall=; name_call \"$1\"; echo $call");
            let output = Command::new("/bin/sh")
                .args(["-c", &script, "sh", text])
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        for (name, text) in zlogin_scripts() {
            assert_eq!(ask(&text), name);
            assert_eq!(ask(&format!("{text} ")), "");
            assert_eq!(ask(&text[1..]), "");
        }
        assert_eq!(ask("*"), "");
        assert_eq!(ask(""), "");
    }
}

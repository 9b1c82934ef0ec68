//! What a stage waits for, in words, for whoever watches it.
//!
//! Written by the one who waits, read by anybody at any time. Must not know
//! how long is too long.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::command::Command;

/// What is being waited for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Doing(Arc<Mutex<Now>>);

#[derive(Debug, Default)]
struct Now {
    /// The command that has not ended.
    command: Option<String>,
    /// How the last try went.
    tried: Option<String>,
}

impl Doing {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.0.lock().expect("nobody panics while holding these words")
    }

    /// The command runs until the guard is dropped.
    pub(crate) fn begin(&self, command: &Command) -> Begun<'_> {
        self.now().command = Some(command.to_string());
        Begun(self)
    }

    /// A try failed, and there will be another one.
    pub(crate) fn tried(&self, outcome: String) {
        self.now().tried = Some(outcome);
    }

    /// Another stage begins, with no try yet.
    pub(crate) fn forget(&self) {
        *self.now() = Now::default();
    }

    /// In words; None when nothing is waited for.
    pub(crate) fn words(&self) -> Option<String> {
        let now = self.now();
        let command = now
            .command
            .as_ref()
            .map(|command| format!("`{command}` has not ended"));
        let tried =
            now.tried.as_ref().map(|how| format!("the last try: {how}"));
        match (command, tried) {
            (Some(command), Some(tried)) => Some(format!("{command}; {tried}")),
            (one, other) => one.or(other),
        }
    }
}

/// Until this is dropped, a command runs.
pub(crate) struct Begun<'a>(&'a Doing);

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.0.now().command = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Program;

    #[test]
    fn the_words_follow_what_is_done() {
        let doing = Doing::default();
        assert_eq!(doing.words(), None);
        let command = Command::new(Program::Vmadm, ["get", "x"]);
        let begun = doing.begin(&command);
        let runs = "`vmadm get x` has not ended";
        assert_eq!(doing.words().as_deref(), Some(runs));
        drop(begun);
        assert_eq!(doing.words(), None);
        doing.tried("no answer".to_owned());
        let tried = "the last try: no answer";
        assert_eq!(doing.words().as_deref(), Some(tried));
        let _begun = doing.begin(&command);
        assert_eq!(doing.words(), Some(format!("{runs}; {tried}")));
        doing.forget();
        assert_eq!(doing.words(), None);
    }
}

//! What an sshd is to be like.

/// What the key may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// Anything.
    Free,
    /// Only this shell line, which finds what was asked for in
    /// `SSH_ORIGINAL_COMMAND`: `restrict,command="..."`.
    Forced(String),
    /// As these options of `authorized_keys` say.
    Limited(String),
    /// Nothing: the key is not in `authorized_keys`.
    Denied,
}

/// What an sshd is to be like.
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) login: Login,
    pub(crate) lines: Vec<String>,
}

impl Options {
    /// A server whose key may run anything.
    #[must_use]
    pub fn free() -> Self {
        Self { login: Login::Free, lines: Vec::new() }
    }

    /// A server whose key runs this shell line and nothing else. It must
    /// hold no line break.
    #[must_use]
    pub fn forced(command: &str) -> Self {
        Self { login: Login::Forced(command.to_owned()), ..Self::free() }
    }

    /// A server whose key may do what these options of `authorized_keys`
    /// say. They must hold no line break.
    #[must_use]
    pub fn limited(options: &str) -> Self {
        Self { login: Login::Limited(options.to_owned()), ..Self::free() }
    }

    /// One more line of `sshd_config`, such as `MaxSessions 2`. The first
    /// one with a name counts.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }
}

//! Frames: one place in one function, and what kind of code it is.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::strings::StringId;

/// A frame of one profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId(pub(crate) u32);

/// What kind of code a frame is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum FrameKind {
    /// The process, at the root of each stack.
    Process,
    /// Compiled ahead of time.
    Native,
    /// Compiled while the program ran.
    Jit,
    /// Run by an interpreter.
    Interpreted,
    /// In the operating system's kernel.
    Kernel,
    /// Inlined into the frame before it.
    Inlined,
    /// Nobody could name it.
    #[default]
    Unknown,
}

impl FrameKind {
    /// Every kind, in the order in which they are numbered.
    pub const ALL: [Self; 7] = [
        Self::Process,
        Self::Native,
        Self::Jit,
        Self::Interpreted,
        Self::Kernel,
        Self::Inlined,
        Self::Unknown,
    ];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Native => "native",
            Self::Jit => "jit",
            Self::Interpreted => "interpreted",
            Self::Kernel => "kernel",
            Self::Inlined => "inlined",
            Self::Unknown => "unknown",
        }
    }
}

/// A frame to be put into a profile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// By which two profiles are compared: no tier mark, no line, paths
    /// relative to the checkout. See [`crate::javascript`] and its kin.
    pub name: Cow<'a, str>,
    /// The name as it was found; empty where it is the same.
    pub system_name: Cow<'a, str>,
    /// The file that was mapped there (`libc.so.6`), or empty.
    pub module: Cow<'a, str>,
    /// The source file, or empty.
    pub file: Cow<'a, str>,
    /// The line in the source file, or 0.
    pub line: u32,
    /// What kind of code it is.
    pub kind: FrameKind,
}

impl<'a> Symbol<'a> {
    /// A frame of which only name and kind are known.
    pub fn new(name: impl Into<Cow<'a, str>>, kind: FrameKind) -> Self {
        Self { name: name.into(), kind, ..Self::default() }
    }

    /// The same with texts of its own.
    #[must_use]
    pub fn into_owned(self) -> Symbol<'static> {
        let own = |text: Cow<'a, str>| Cow::Owned(text.into_owned());
        Symbol {
            name: own(self.name),
            system_name: own(self.system_name),
            module: own(self.module),
            file: own(self.file),
            line: self.line,
            kind: self.kind,
        }
    }

    /// The same in the mapped file of this name.
    #[must_use]
    pub fn in_module(mut self, module: impl Into<Cow<'a, str>>) -> Self {
        self.module = module.into();
        self
    }

    /// The same at this place of the source.
    #[must_use]
    pub fn at(mut self, file: impl Into<Cow<'a, str>>, line: u32) -> Self {
        self.file = file.into();
        self.line = line;
        self
    }
}

/// A function: what frames of several lines have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: StringId,
    pub(crate) system_name: StringId,
    pub(crate) file: StringId,
}

/// A frame as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) function: u32,
    pub(crate) module: StringId,
    pub(crate) line: u32,
    pub(crate) kind: FrameKind,
}

/// A frame of a profile, to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameView<'a> {
    /// The name by which profiles are compared.
    pub name: &'a str,
    /// The name as it was found.
    pub system_name: &'a str,
    /// The mapped file, or empty.
    pub module: &'a str,
    /// The source file, or empty.
    pub file: &'a str,
    /// The line in the source file, or 0.
    pub line: u32,
    /// What kind of code it is.
    pub kind: FrameKind,
}

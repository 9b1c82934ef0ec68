//! Output held on disk until the dispatcher has it.

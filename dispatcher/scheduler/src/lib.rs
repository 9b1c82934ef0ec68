//! Decisions of the dispatcher: who gets which job, and what a lost run means. Pure.

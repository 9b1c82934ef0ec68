//! The program ntrace, for people.

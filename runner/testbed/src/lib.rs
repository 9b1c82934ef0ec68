//! Test beds: a real sshd on loopback.

//! Typed calls to a dispatcher or a runner, with reconnect.

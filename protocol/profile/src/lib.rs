//! Profiles: the model, its formats, its pictures and differences. No I/O.

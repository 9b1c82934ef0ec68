//! Tracers behind one trait.

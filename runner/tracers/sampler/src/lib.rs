//! The built-in CPU sampler of Linux zones.

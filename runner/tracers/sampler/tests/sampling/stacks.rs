//! Stacks of processes that wait, and what happens when things go wrong.

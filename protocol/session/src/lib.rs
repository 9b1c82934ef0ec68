//! One connection: requests and answers in both directions, bounded.

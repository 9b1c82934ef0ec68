//! Burns processor time in three functions: 70, 20 and 10 of 100 parts.

use std::hint::black_box;

fn burn(parts: u64) -> u64 {
    let mut x = 88172645463325252_u64;
    for _ in 0..parts * 1777 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    x
}

mod work {
    #[inline(never)]
    pub fn seventy() -> u64 {
        super::burn(super::black_box(7)) + 1
    }
    #[inline(never)]
    pub fn twenty() -> u64 {
        super::burn(super::black_box(2)) + 2
    }
    #[inline(never)]
    pub fn ten() -> u64 {
        super::burn(super::black_box(1)) + 3
    }
}

fn main() {
    let rounds = std::env::args().nth(1).and_then(|n| n.parse().ok());
    let mut sum = 0_u64;
    for _ in 0..rounds.unwrap_or(100_u64) {
        sum = sum
            .wrapping_add(black_box(work::seventy()))
            .wrapping_add(black_box(work::twenty()))
            .wrapping_add(black_box(work::ten()));
    }
    println!("{sum}");
}

//! Burns processor time in three functions: 70, 20 and 10 of 100 parts.

use std::hint::black_box;

fn burn(parts: u64) -> u64 {
    let mut x = 88172645463325252_u64;
    for _ in 0..black_box(parts * 1777) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    x
}

mod work {
    #[inline(never)]
    pub fn seventy(unit: u64) -> u64 {
        super::burn(7 * unit) + 1
    }
    #[inline(never)]
    pub fn twenty(unit: u64) -> u64 {
        super::burn(2 * unit) + 2
    }
    #[inline(never)]
    pub fn ten(unit: u64) -> u64 {
        super::burn(unit) + 3
    }
}

fn main() {
    let rounds = std::env::args().nth(1).and_then(|n| n.parse().ok());
    let mut sum = 0_u64;
    let mut lot = 1_u64;
    for _ in 0..rounds.unwrap_or(10_u64) {
        // Each part goes on for some samples, and no two rounds are equally
        // long, so as not to keep step with the samples.
        lot = lot
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let unit = 300 + (lot >> 33) % 600;
        sum = sum
            .wrapping_add(black_box(work::seventy(unit)))
            .wrapping_add(black_box(work::twenty(unit)))
            .wrapping_add(black_box(work::ten(unit)));
    }
    println!("{sum}");
}

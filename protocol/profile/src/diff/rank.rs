//! Is the difference of two groups of runs more than chance?
//!
//! The rank test is exact, ties included: it counts, with sums in place of
//! subsets, how many of all ways to deal the values to the two groups are
//! at least as uneven. It assumes no shape of the noise.

/// Runs of both groups up to which the count is exact: a second's work at
/// most for a few hundred functions. Above, the normal curve is as good.
const EXACT: usize = 64;

/// The probability that chance alone makes two groups of these values as
/// different as they are, or more; 1 when a group is empty.
pub(super) fn rank_test(base: &[u64], new: &[u64]) -> f64 {
    if base.is_empty() || new.is_empty() {
        return 1.0;
    }
    let ranks = doubled_ranks(base, new);
    let sum: usize = ranks[..base.len()].iter().sum();
    // The expected sum, times two so that it stays a whole number.
    let all = ranks.len();
    let centre = 2 * base.len() * (all + 1);
    let off = (2 * sum).abs_diff(centre);
    if off == 0 {
        return 1.0;
    }
    match all <= EXACT {
        true => exact(&ranks, base.len(), centre, off),
        false => by_curve(&ranks, base.len(), off),
    }
}

/// Twice the rank of each value, the base's first; ties share the middle.
fn doubled_ranks(base: &[u64], new: &[u64]) -> Vec<usize> {
    let values: Vec<u64> = base.iter().chain(new).copied().collect();
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by_key(|at| values[*at]);
    let mut ranks = vec![0; values.len()];
    let mut from = 0;
    while from < order.len() {
        let value = values[order[from]];
        let run =
            order[from..].iter().take_while(|at| values[**at] == value).count();
        // The ranks from+1 to from+run have this mean, doubled.
        for at in &order[from..from + run] {
            ranks[*at] = 2 * from + run + 1;
        }
        from += run;
    }
    ranks
}

/// Counts the ways to choose the base's runs by how large their sum is.
fn exact(ranks: &[usize], take: usize, centre: usize, off: usize) -> f64 {
    let most: usize = ranks.iter().sum();
    // ways[n][s]: in how many ways n of the ranks seen so far sum to s.
    let mut ways = vec![vec![0.0_f64; most + 1]; take + 1];
    ways[0][0] = 1.0;
    for rank in ranks {
        for n in (1..=take).rev() {
            let (fewer, these) = ways.split_at_mut(n);
            let fewer = &fewer[n - 1][..=most - rank];
            for (way, before) in these[0][*rank..].iter_mut().zip(fewer) {
                *way += before;
            }
        }
    }
    let all: f64 = ways[take].iter().sum();
    let uneven: f64 = ways[take]
        .iter()
        .enumerate()
        .filter(|(sum, _)| (2 * sum).abs_diff(centre) >= off)
        .map(|(_, ways)| ways)
        .sum();
    (uneven / all).min(1.0)
}

/// The same by the normal curve, with the variance that ties leave.
fn by_curve(ranks: &[usize], take: usize, off: usize) -> f64 {
    let all = ranks.len() as f64;
    let (a, b) = (take as f64, all - take as f64);
    let mean = all + 1.0;
    let spread: f64 =
        ranks.iter().map(|rank| (*rank as f64 - mean).powi(2)).sum();
    let variance = a * b / (all * (all - 1.0)) * spread;
    if variance <= 0.0 {
        return 1.0;
    }
    // Doubled ranks move in steps of 2 at least; `off` is doubled again.
    let z = ((off as f64 / 2.0) - 1.0).max(0.0) / variance.sqrt();
    two_sided(z)
}

/// The probability of a deviation of `z` or more to either side (Abramowitz
/// and Stegun 7.1.26; off by less than 2e-7).
pub(super) fn two_sided(z: f64) -> f64 {
    let x = z / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let terms = [0.254_829_592, -0.284_496_736, 1.421_413_741, -1.453_152_027];
    let poly = terms.iter().rev().fold(1.061_405_429, |sum, c| sum * t + c);
    (poly * t * (-x * x).exp()).clamp(0.0, 1.0)
}

/// The false discovery rate at which each test would be called (Benjamini
/// and Hochberg), in the tests' order.
pub(super) fn false_discovery(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*b].total_cmp(&p[*a]));
    let mut q = vec![1.0; p.len()];
    let mut least: f64 = 1.0;
    for (n, at) in order.iter().enumerate() {
        let rank = (p.len() - n) as f64;
        least = least.min(p[*at] * p.len() as f64 / rank);
        q[*at] = least;
    }
    q
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn near(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-6, "{a} is not {b}");
    }

    #[test]
    fn known_values_of_the_exact_test() {
        // All of one group below the other: 2 of C(8, 4) = 70.
        near(rank_test(&[1, 2, 3, 4], &[5, 6, 7, 8]), 2.0 / 70.0);
        near(rank_test(&[5, 6, 7, 8], &[1, 2, 3, 4]), 2.0 / 70.0);
        near(rank_test(&[1, 2, 3, 4, 5, 6, 7, 8], &[9; 8]), 2.0 / 12870.0);
        near(rank_test(&[7, 7, 7], &[7, 7, 7]), 1.0);
        near(rank_test(&[], &[1]), 1.0);
    }

    /// Every way to deal the values, one by one.
    fn by_enumeration(base: &[u64], new: &[u64]) -> f64 {
        let ranks = doubled_ranks(base, new);
        let centre = base.len() * (ranks.len() + 1);
        let sum: usize = ranks[..base.len()].iter().sum();
        let (mut all, mut uneven) = (0.0, 0.0);
        for mask in 0_u32..1 << ranks.len() {
            if mask.count_ones() as usize != base.len() {
                continue;
            }
            let of =
                |(n, rank): (usize, &usize)| (mask >> n & 1) as usize * rank;
            let here: usize = ranks.iter().enumerate().map(of).sum();
            all += 1.0;
            if here.abs_diff(centre) >= sum.abs_diff(centre) {
                uneven += 1.0;
            }
        }
        uneven / all
    }

    #[test]
    fn sums_count_the_same_as_enumeration_with_ties_and_without() {
        let mut state = 9_u64;
        let mut random = |most: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            (state >> 33) % most
        };
        for _ in 0..60 {
            let most = 2 + random(12);
            let base: Vec<u64> =
                (0..2 + random(5)).map(|_| random(most)).collect();
            let new: Vec<u64> =
                (0..2 + random(5)).map(|_| random(most)).collect();
            near(rank_test(&base, &new), by_enumeration(&base, &new));
        }
    }

    #[test]
    fn many_runs_take_the_curve_and_agree_with_the_count() {
        let base: Vec<u64> = (0..32).map(|n| n * 3).collect();
        let new: Vec<u64> = (0..32).map(|n| n * 3 + 20).collect();
        let counted = rank_test(&base, &new);
        let ranks = doubled_ranks(&base, &new);
        let sum: usize = ranks[..32].iter().sum();
        let curve = by_curve(&ranks, 32, (2 * sum).abs_diff(2 * 32 * 65));
        assert!((counted - curve).abs() < 0.002, "{counted} {curve}");
        let far: Vec<u64> = (1000..1040).collect();
        assert!(rank_test(&vec![0; 40], &far) < 1e-9);
    }

    #[test]
    fn the_false_discovery_rate_of_a_known_example() {
        let q = false_discovery(&[0.01, 0.04, 0.03, 0.005]);
        for (q, expected) in q.iter().zip([0.02, 0.04, 0.04, 0.02]) {
            near(*q, expected);
        }
    }
}

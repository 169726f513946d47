//! Numbers that look random and follow from a seed, and the mixing function behind them.

use sha2::{Digest as _, Sha256};

/// The odd number nearest to 2^64 over the golden ratio: steps of it visit all 64-bit numbers, evenly spread.
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes 64 bits so that each bit of the input changes half of those of the output. One to one.
/// Source: the finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014;
/// constants by Stafford, variant 13).
pub(crate) const fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// SplitMix64. It spreads choices; no secret depends on it.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// A number below `limit`; 0 for a limit of 0. Biased by less than one in 2^32 for limits below 2^32.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        let limit = u128::try_from(limit).unwrap_or(u128::MAX);
        usize::try_from((u128::from(self.next()) * limit) >> 64).unwrap_or(0)
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// Up to `count` different positions below `limit`. For small counts.
    pub(crate) fn positions(&mut self, count: usize, limit: usize) -> Vec<usize> {
        let mut chosen = Vec::with_capacity(count.min(limit));
        // Floyd's sampling: one draw each, no rejection.
        for top in limit.saturating_sub(count)..limit {
            let drawn = self.below(top + 1);
            chosen.push(if chosen.contains(&drawn) { top } else { drawn });
        }
        chosen
    }
}

/// Derives a seed for one purpose, so that numbers of one purpose do not reveal those of another. SHA-256 has no known
/// inverse.
pub(crate) fn derived_seed(seed: u64, purpose: &str) -> u64 {
    secret_number(seed, purpose, 0)
}

/// The number at a position of a sequence that looks random without the secret.
pub(crate) fn secret_number(secret: u64, purpose: &str, position: u64) -> u64 {
    let mut hash = Sha256::new();
    hash.update(secret.to_be_bytes());
    hash.update(position.to_be_bytes());
    hash.update(purpose.as_bytes());
    let bytes = hash.finalize();
    bytes
        .iter()
        .take(8)
        .fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_reference() {
        // The first outputs of SplitMix64 for the seed 1234567, as published with its reference code.
        let mut random = Random::new(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn positions_are_different_and_below_the_limit() {
        let mut random = Random::new(1);
        for limit in 0..10 {
            let mut positions = random.positions(3, limit);
            positions.sort_unstable();
            positions.dedup();
            assert_eq!(positions.len(), limit.min(3));
            assert!(positions.iter().all(|position| *position < limit));
        }
    }
}

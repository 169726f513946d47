//! Every seed of every target, with variations that are the same in each run.

use std::path::Path;

use fuzz::TARGETS;

/// The number of variations of each seed.
const VARIATIONS: u64 = 2000;

/// A generator of numbers (splitmix64), so that a failure can be repeated.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) as usize % limit.max(1)
    }

    /// Cuts, doubles or changes some of the bytes.
    fn vary(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(4) {
                0 => bytes.truncate(at),
                1 => bytes.extend_from_within(at..),
                2 => bytes.insert(at.min(bytes.len()), [0, b'"', b'=', 0xff][self.below(4)]),
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << self.below(8);
                    }
                }
            }
        }
    }
}

#[test]
fn no_seed_and_no_variation_of_it_makes_a_parser_panic() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for (name, target) in TARGETS {
        let folder = std::fs::read_dir(seeds.join(name)).expect(name);
        let mut files: Vec<_> = folder.map(|entry| entry.expect(name).path()).collect();
        files.sort();
        assert!(files.len() >= 3, "{name} has few seeds");
        for file in files {
            let seed = std::fs::read(&file).expect("readable");
            target(&seed);
            let mut numbers = Numbers(seed.len() as u64);
            for _ in 0..VARIATIONS {
                let mut bytes = seed.clone();
                numbers.vary(&mut bytes);
                target(&bytes);
            }
        }
    }
}

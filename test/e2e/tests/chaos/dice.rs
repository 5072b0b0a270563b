//! Random choices that a seed repeats.

use std::time::{Duration, SystemTime};

/// A small generator (splitmix64): good enough to choose by, and the same everywhere.
pub struct Dice {
    seed: u64,
    state: u64,
}

impl Dice {
    /// From `BINNACLE_SEED`, else another each time.
    pub fn from_env() -> Dice {
        let given = std::env::var("BINNACLE_SEED").ok().and_then(|s| s.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            now.as_nanos() as u64 % 1_000_000
        });
        Dice { seed, state: seed }
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A number below `most`, which is not zero.
    pub fn below(&mut self, most: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % most as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// Lets up to so many milliseconds pass: what is under way then is what the next kill meets.
    pub fn pause(&mut self, most: usize) {
        std::thread::sleep(Duration::from_millis(self.below(most) as u64));
    }
}

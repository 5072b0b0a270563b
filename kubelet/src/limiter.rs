//! How much may begin a second.

use std::time::Instant;

use parking_lot::Mutex;

/// A bucket that fills steadily.
pub struct Limiter {
    rate: f64,
    size: f64,
    state: Mutex<(f64, Instant)>,
}

impl Limiter {
    /// `rate` a second, `burst` at once; no limit for a rate of zero.
    pub fn new(rate: i32, burst: i32) -> Option<Self> {
        let size = f64::from(burst.max(1));
        (rate > 0).then(|| Self { rate: f64::from(rate), size, state: Mutex::new((size, Instant::now())) })
    }

    /// Takes one if there is one.
    pub fn take(&self) -> bool {
        let mut state = self.state.lock();
        let now = Instant::now();
        let filled = state.0 + now.duration_since(state.1).as_secs_f64() * self.rate;
        *state = (filled.min(self.size), now);
        if state.0 < 1.0 {
            return false;
        }
        state.0 -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_no_more() {
        assert!(Limiter::new(0, 10).is_none());
        let limiter = Limiter::new(1, 3).unwrap();
        assert_eq!((0..5).filter(|_| limiter.take()).count(), 3);
    }
}

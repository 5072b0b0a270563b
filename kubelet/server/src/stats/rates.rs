//! Rates of counters, from one reading to the next.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A reading that is asked for again sooner gets the same rate.
const SHORTEST: Duration = Duration::from_secs(1);
/// Counters that nobody asked for so long are forgotten.
const FORGET: Duration = Duration::from_secs(600);

/// When a counter was read, what it was, and its rate then.
type Reading = (Instant, u64, Option<u64>);

/// The last readings of counters by name.
pub struct Rates(Mutex<Option<HashMap<String, Reading>>>);

/// The rates of CPU time.
pub static CPU: Rates = Rates(Mutex::new(None));

impl Rates {
    /// How much a counter grows a second; `None` at its first reading.
    pub fn of(&self, name: &str, count: u64) -> Option<u64> {
        self.at(name, count, Instant::now())
    }

    fn at(&self, name: &str, count: u64, now: Instant) -> Option<u64> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_with(HashMap::new);
        let rate = match known.get(name) {
            Some((at, _, rate)) if now.duration_since(*at) < SHORTEST => return *rate,
            Some((at, before, _)) if now.duration_since(*at) < FORGET => {
                let nanos = now.duration_since(*at).as_nanos();
                let grown = u128::from(count.saturating_sub(*before));
                u64::try_from(grown * 1_000_000_000 / nanos).ok()
            }
            _ => None,
        };
        known.retain(|_, (at, ..)| now.duration_since(*at) < FORGET);
        known.insert(name.to_owned(), (now, count, rate));
        rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_one_reading_to_the_next() {
        let rates = Rates(Mutex::new(None));
        let start = Instant::now();
        let at = |ms, count| rates.at("a", count, start + Duration::from_millis(ms));
        assert_eq!(at(0, 100), None);
        assert_eq!(at(2000, 300), Some(100));
        assert_eq!(at(2500, 900), Some(100), "too soon");
        assert_eq!(at(4000, 300), Some(0));
        assert_eq!(at(1_000_000, 1000), None, "long forgotten");
    }
}

//! Waiting longer after each failure: from 10 s, doubling, to a limit; forgotten after a quiet time.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

/// Back-off by key. Times are wall-clock times because they are compared with those of the runtime.
pub struct Backoff {
    initial: Duration,
    max: Duration,
    forget: Duration,
    entries: Mutex<HashMap<String, Entry>>,
}

struct Entry {
    delay: Duration,
    updated: SystemTime,
}

impl Backoff {
    /// From `initial`, doubling, up to `max`.
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self { initial: initial.min(max), max, forget: max * 2, entries: Mutex::default() }
    }

    /// Begins anew after so long a quiet time, instead of twice the limit.
    pub fn forgetting_after(self, forget: Duration) -> Self {
        Self { forget, ..self }
    }

    /// How long to wait still, if the event of `key` at `since` is too fresh to try again.
    pub fn remaining(&self, key: &str, since: SystemTime, now: SystemTime) -> Option<Duration> {
        let entries = self.entries.lock();
        let entry = entries.get(key)?;
        if self.forgotten(since, entry) {
            return None;
        }
        let until = since + entry.delay;
        until.duration_since(now).ok().filter(|left| !left.is_zero())
    }

    /// As [`Self::remaining`], counted from the last call of [`Self::next`].
    pub fn remaining_since_update(&self, key: &str, now: SystemTime) -> Option<Duration> {
        let updated = self.entries.lock().get(key)?.updated;
        self.remaining(key, updated, now)
    }

    /// Notes another try of `key`, caused by an event at `since`.
    pub fn next(&self, key: &str, since: SystemTime, now: SystemTime) {
        let mut entries = self.entries.lock();
        let delay = match entries.get(key) {
            Some(entry) if !self.forgotten(since, entry) => (entry.delay * 2).min(self.max),
            _ => self.initial,
        };
        entries.insert(key.to_string(), Entry { delay, updated: now });
    }

    /// The delay of `key` at present.
    pub fn delay(&self, key: &str) -> Duration {
        self.entries.lock().get(key).map_or(Duration::ZERO, |entry| entry.delay)
    }

    /// Forgets all keys that start with `prefix`.
    pub fn forget(&self, prefix: &str) {
        self.entries.lock().retain(|key, _| !key.starts_with(prefix));
    }

    fn forgotten(&self, since: SystemTime, entry: &Entry) -> bool {
        since.duration_since(entry.updated).is_ok_and(|quiet| quiet > self.forget)
    }
}

/// A duration as Go prints it, for messages such as `back-off 1m20s restarting failed container`.
pub fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis() as u64;
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.').to_string();
    match (minutes / 60, minutes % 60) {
        (0, 0) if millis > 0 && millis < 1000 => format!("{millis}ms"),
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_and_forgets() {
        let backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
        let at = |s: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        assert_eq!(backoff.remaining("k", at(0), at(0)), None);
        let mut delays = Vec::new();
        for _ in 0..7 {
            backoff.next("k", at(0), at(0));
            delays.push(backoff.delay("k").as_secs());
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.remaining("k", at(0), at(100)), Some(Duration::from_secs(200)));
        assert_eq!(backoff.remaining("k", at(0), at(300)), None);
        assert_eq!(backoff.remaining("k", at(601), at(601)), None);
        backoff.next("k", at(601), at(601));
        assert_eq!(backoff.delay("k").as_secs(), 10);
    }

    #[test]
    fn go_durations() {
        for (millis, text) in [
            (10_000, "10s"),
            (80_000, "1m20s"),
            (300_000, "5m0s"),
            (1500, "1.5s"),
            (250, "250ms"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }
}

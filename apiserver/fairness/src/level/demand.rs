//! How many seats a level wants, over time.

use crate::limits::smooth;
use std::time::Instant;

/// What a level wanted since it was last looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand {
    pub high: f64,
    pub average: f64,
    pub deviation: f64,
    pub smoothed: f64,
}

/// Seats that are wanted, over time.
pub(super) struct Integral {
    value: f64,
    since: Instant,
    elapsed: f64,
    sum: f64,
    squares: f64,
    high: f64,
    smoothed: f64,
}

impl Integral {
    pub(super) fn new() -> Self {
        Integral {
            value: 0.0,
            since: Instant::now(),
            elapsed: 0.0,
            sum: 0.0,
            squares: 0.0,
            high: 0.0,
            smoothed: 0.0,
        }
    }

    pub(super) fn set(&mut self, value: f64, now: Instant) {
        let dt = now.saturating_duration_since(self.since).as_secs_f64();
        self.elapsed += dt;
        self.sum += self.value * dt;
        self.squares += self.value * self.value * dt;
        self.since = now;
        self.value = value;
        self.high = self.high.max(value);
    }

    pub(super) fn take(&mut self, now: Instant) -> Demand {
        self.set(self.value, now);
        let elapsed = self.elapsed.max(1e-9);
        let average = self.sum / elapsed;
        let deviation = (self.squares / elapsed - average * average).max(0.0).sqrt();
        let mut demand = Demand { high: self.high, average, deviation, smoothed: 0.0 };
        self.smoothed = smooth(self.smoothed, &demand);
        demand.smoothed = self.smoothed;
        (self.elapsed, self.sum, self.squares, self.high) = (0.0, 0.0, 0.0, self.value);
        demand
    }
}

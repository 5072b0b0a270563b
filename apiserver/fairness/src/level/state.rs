//! What stands under a level's lock: who has seats, who waits in which queue, and virtual time.

use super::ESTIMATE;
use super::demand::Integral;
use super::picture::Shown;
use super::queue::{Queue, flow_hash, hand};
use crate::limits::Bounds;
use crate::metrics::Handles;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

pub(super) struct Executing {
    pub(super) queue: Option<usize>,
    pub(super) seats: usize,
    pub(super) shown: Shown,
}

/// What has become of requests so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub dispatched: u64,
    pub rejected: u64,
    pub timed_out: u64,
    pub cancelled: u64,
}

pub(super) struct State {
    pub(super) uid: String,
    pub(super) exempt: bool,
    pub(super) bounds: Bounds,
    pub(super) limit: usize,
    pub(super) queues: Vec<Queue>,
    pub(super) hand: usize,
    pub(super) longest: usize,
    pub(super) seats_in_use: usize,
    pub(super) waiting: usize,
    pub(super) waiting_seats: usize,
    /// Queues that have anything to do.
    pub(super) active: usize,
    /// Virtual time: seconds of service that each active queue would have had.
    pub(super) r: f64,
    pub(super) at: Instant,
    pub(super) turn: usize,
    pub(super) next_id: u64,
    pub(super) executing: BTreeMap<u64, Executing>,
    pub(super) demand: Integral,
    pub(super) counts: Counts,
    pub(super) handles: HashMap<String, Arc<Handles>>,
}

impl State {
    pub(super) fn new(bounds: Bounds) -> State {
        State {
            uid: String::new(),
            exempt: false,
            bounds,
            limit: bounds.nominal.max(1),
            queues: Vec::new(),
            hand: 1,
            longest: 0,
            seats_in_use: 0,
            waiting: 0,
            waiting_seats: 0,
            active: 0,
            r: 0.0,
            at: Instant::now(),
            turn: 0,
            next_id: 0,
            executing: BTreeMap::new(),
            demand: Integral::new(),
            counts: Counts::default(),
            handles: HashMap::new(),
        }
    }

    pub(super) fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// A request wider than the level gets in when it is alone.
    pub(super) fn fits(&self, seats: usize) -> bool {
        self.seats_in_use == 0 || self.seats_in_use + seats <= self.limit
    }

    pub(super) fn progress(&mut self, now: Instant) {
        let dt = now.saturating_duration_since(self.at).as_secs_f64();
        let used = (self.seats_in_use + self.waiting_seats).min(self.limit);
        if self.active > 0 {
            self.r += dt * used as f64 / self.active as f64;
        }
        self.at = now;
    }

    pub(super) fn wants(&mut self, now: Instant) {
        let wanted = self.seats_in_use + self.waiting_seats;
        self.demand.set(wanted as f64, now);
    }

    /// The emptiest queue of the flow's hand.
    pub(super) fn deal(&self, level: &str, schema: &str, distinguisher: &str) -> usize {
        let hash = flow_hash(level, schema, distinguisher);
        let hand = hand(hash, self.queues.len(), self.hand);
        let load = |i: usize| (self.queues[i].waiting_seats(), self.queues[i].seats_in_use);
        hand.into_iter().min_by_key(|&i| load(i)).unwrap_or(0)
    }

    /// The queue whose next request would be done first.
    pub(super) fn next_queue(&mut self) -> Option<usize> {
        if self.waiting == 0 {
            return None;
        }
        let n = self.queues.len();
        let mut best: Option<(f64, usize)> = None;
        for k in 1..=n {
            let i = (self.turn + k) % n;
            let Some(head) = self.queues[i].waiting.front() else { continue };
            let end = self.queues[i].next + head.seats as f64 * ESTIMATE;
            if best.is_none_or(|(least, _)| end < least) {
                best = Some((end, i));
            }
        }
        let (_, i) = best?;
        self.turn = i;
        Some(i)
    }
}

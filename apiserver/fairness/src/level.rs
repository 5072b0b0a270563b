//! One priority level: its seats, and the queues in which flows wait for them.
//!
//! A flow is dealt a hand of queues by its hash and takes the emptiest, so that one that sends much shares queues
//! with few others (shuffle sharding). Seats are given to the queue whose next request would be done first if all
//! queues were served at once, each at the same rate (fair queueing by virtual time).

mod demand;
mod picture;
mod queue;
mod state;

use crate::limits::Bounds;
use crate::metrics::{Handles, LevelMetrics, Metrics};
use crate::schema::{Digest, Schema};
use api::Value;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

pub use demand::Demand;
pub use picture::Shown;
use picture::shown;
use queue::{Queue, Waiting};
pub(crate) use state::Counts;
use state::{Executing, State};

/// Seconds that a request is thought to take until it is known.
const ESTIMATE: f64 = 0.003;
/// No request takes more seats.
const MOST_SEATS: usize = 10;
/// Objects of a list that one seat stands for.
const OBJECTS_A_SEAT: usize = 100;

/// How many seats a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Width(pub usize);

impl Width {
    pub const ONE: Width = Width(1);

    pub fn of_list(objects: usize, most: usize) -> Width {
        Width(objects.div_ceil(OBJECTS_A_SEAT).clamp(1, most.max(1)))
    }
}

/// A flow: requests of a schema that are not told apart.
pub struct Flow<'a> {
    pub schema: &'a Arc<Schema>,
    pub distinguisher: &'a str,
}

/// Why a request gets no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    QueueFull,
    ConcurrencyLimit,
    TimeOut,
}

impl Refusal {
    pub fn reason(self) -> &'static str {
        match self {
            Refusal::QueueFull => "queue-full",
            Refusal::ConcurrencyLimit => "concurrency-limit",
            Refusal::TimeOut => "time-out",
        }
    }
}

/// A priority level.
pub struct Level {
    name: String,
    metrics: LevelMetrics,
    state: Mutex<State>,
}

/// Seats of a request that is being worked on; they are free again when it is dropped.
pub struct Ticket {
    level: Arc<Level>,
    id: u64,
    seats: usize,
    started: Instant,
    handles: Arc<Handles>,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("level", &self.level.name).field("seats", &self.seats).finish()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.handles.finished(self.seats, self.started.elapsed());
        self.level.leave(self.id, self.started.elapsed());
    }
}

/// Takes a request out of its queue if whoever waited for it is gone.
struct Place<'a> {
    level: &'a Arc<Level>,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(gone) = self.level.withdraw(self.id) {
            self.level.state.lock().counts.cancelled += 1;
            gone.handles.rejected("cancelled").inc();
        }
    }
}

impl Level {
    pub fn new(object: &Value, bounds: Bounds, metrics: Arc<Metrics>) -> Level {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let level =
            Level { metrics: LevelMetrics::new(metrics, &name), name, state: Mutex::new(State::new(bounds)) };
        level.change(object, bounds);
        level
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn uid(&self) -> String {
        self.state.lock().uid.clone()
    }

    pub fn is_exempt(&self) -> bool {
        self.state.lock().exempt
    }

    pub fn bounds(&self) -> Bounds {
        self.state.lock().bounds
    }

    pub fn limit(&self) -> usize {
        self.state.lock().limit
    }

    pub fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.executing.is_empty() && state.waiting == 0
    }

    /// The most seats that one request of this level takes: a small part of what it has.
    pub fn most_seats(&self) -> usize {
        let nominal = self.bounds().nominal as f64;
        ((nominal * 0.15).ceil() as usize).clamp(1, MOST_SEATS)
    }

    /// Takes over what the object says now.
    pub fn change(&self, object: &Value, bounds: Bounds) {
        let spec = &object["spec"];
        let queuing = &spec["limited"]["limitResponse"]["queuing"];
        let number = |key: &str| queuing[key].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let mut state = self.state.lock();
        state.uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        state.exempt = spec["type"] == "Exempt";
        if state.bounds != bounds {
            state.limit = bounds.nominal.max(1);
        }
        state.bounds = bounds;
        let queues = if state.exempt { 0 } else { number("queues").min(10_000_000) };
        // Queues that are gone serve who is in them already.
        while state.queues.len() > queues && state.queues.last().is_some_and(|q| !q.is_active()) {
            state.queues.pop();
        }
        while state.queues.len() < queues {
            state.queues.push(Queue::default());
        }
        state.hand = number("handSize").clamp(1, queues.max(1));
        state.longest = number("queueLengthLimit");
        self.metrics.bounds(&bounds, state.limit);
    }

    /// Another limit, and what is told of how it came about.
    pub fn set_limit(self: &Arc<Self>, limit: usize, target: f64) {
        let mut late = Vec::new();
        let mut state = self.state.lock();
        state.limit = limit;
        self.metrics.limit(limit, target);
        state.progress(Instant::now());
        self.dispatch(&mut state, &mut late);
        drop(state);
        drop(late);
    }

    pub fn take_demand(&self) -> Demand {
        let demand = self.state.lock().demand.take(Instant::now());
        self.metrics.demand(&demand);
        demand
    }

    /// Its metrics are forgotten.
    pub fn forget(&self) {
        self.metrics.forget(&self.state.lock().handles.keys().cloned().collect::<Vec<_>>());
    }

    /// Waits for seats, at most as long as `patience` lasts.
    pub async fn admit(
        self: &Arc<Self>,
        flow: Flow<'_>,
        digest: &Digest<'_>,
        width: Width,
        patience: Duration,
    ) -> Result<Ticket, Refusal> {
        let (place, mut turn) = match self.arrive(&flow, digest, width) {
            Arrival::Seated(ticket) => return Ok(ticket),
            Arrival::Refused(refusal) => return Err(refusal),
            Arrival::Waiting(id, turn) => (Place { level: self, id }, turn),
        };
        match tokio::time::timeout(patience, &mut turn).await {
            Ok(Ok(ticket)) => Ok(ticket),
            Ok(Err(_)) => Err(Refusal::TimeOut),
            Err(_) => {
                let Some(gone) = self.withdraw(place.id) else {
                    // The turn came at the last moment.
                    return turn.try_recv().map_err(|_| Refusal::TimeOut);
                };
                self.state.lock().counts.timed_out += 1;
                gone.handles.rejected(Refusal::TimeOut.reason()).inc();
                gone.handles.waited(gone.since.elapsed(), false);
                Err(Refusal::TimeOut)
            }
        }
    }

    fn arrive(self: &Arc<Self>, flow: &Flow<'_>, digest: &Digest<'_>, width: Width) -> Arrival {
        let now = Instant::now();
        let mut late = Vec::new();
        let mut state = self.state.lock();
        state.progress(now);
        let handles = self.handles(&mut state, &flow.schema.name);
        let seats = width.0;
        let fits = state.exempt || state.fits(seats);
        if !fits && (state.queues.is_empty() || state.longest == 0) {
            state.counts.rejected += 1;
            handles.rejected(Refusal::ConcurrencyLimit.reason()).inc();
            return Arrival::Refused(Refusal::ConcurrencyLimit);
        }
        let shown = shown(flow, digest, seats);
        if state.queues.is_empty() {
            handles.waited(Duration::ZERO, true);
            return Arrival::Seated(self.seat(&mut state, None, seats, shown, handles, now));
        }
        let queue = state.deal(&self.name, &flow.schema.name, flow.distinguisher);
        if fits && state.waiting == 0 {
            let next = if state.queues[queue].is_active() { state.queues[queue].next } else { state.r };
            state.queues[queue].next = next;
            handles.waited(Duration::ZERO, true);
            return Arrival::Seated(self.seat(&mut state, Some(queue), seats, shown, handles, now));
        }
        if state.queues[queue].waiting.len() >= state.longest {
            state.counts.rejected += 1;
            handles.rejected(Refusal::QueueFull.reason()).inc();
            return Arrival::Refused(Refusal::QueueFull);
        }
        let (turn, receiver) = oneshot::channel();
        let id = state.id();
        handles.queued(seats);
        if !state.queues[queue].is_active() {
            state.active += 1;
            state.queues[queue].next = state.r;
        }
        state.queues[queue].waiting.push_back(Waiting { id, seats, since: now, handles, shown, turn });
        state.waiting += 1;
        state.waiting_seats += seats;
        state.wants(now);
        self.dispatch(&mut state, &mut late);
        drop(state);
        drop(late);
        Arrival::Waiting(id, receiver)
    }

    fn handles(&self, state: &mut State, schema: &str) -> Arc<Handles> {
        if let Some(found) = state.handles.get(schema) {
            return found.clone();
        }
        let made = Arc::new(self.metrics.handles(schema));
        state.handles.insert(schema.to_owned(), made.clone());
        made
    }

    /// Gives seats to one request.
    fn seat(
        self: &Arc<Self>,
        state: &mut State,
        queue: Option<usize>,
        seats: usize,
        mut shown: Shown,
        handles: Arc<Handles>,
        now: Instant,
    ) -> Ticket {
        let id = state.id();
        if let Some(i) = queue {
            if !state.queues[i].is_active() {
                state.active += 1;
            }
            let q = &mut state.queues[i];
            q.executing += 1;
            q.seats_in_use += seats;
            q.next += seats as f64 * ESTIMATE;
        }
        shown.started = Some(jiff::Timestamp::now());
        state.seats_in_use += seats;
        state.counts.dispatched += 1;
        state.executing.insert(id, Executing { queue, seats, shown });
        state.wants(now);
        handles.dispatched(seats);
        Ticket { level: self.clone(), id, seats, started: now, handles }
    }

    /// Gives free seats to those who wait. Tickets that nobody takes go into `late`, to be dropped once the lock is.
    fn dispatch(self: &Arc<Self>, state: &mut State, late: &mut Vec<Ticket>) {
        let now = Instant::now();
        while let Some(i) = state.next_queue() {
            let seats = state.queues[i].waiting.front().map_or(0, |w| w.seats);
            if !state.fits(seats) {
                return;
            }
            let Some(next) = state.queues[i].waiting.pop_front() else { return };
            if !state.queues[i].is_active() {
                // It is counted again when it gets its seats.
                state.active -= 1;
            }
            state.waiting -= 1;
            state.waiting_seats -= seats;
            next.handles.unqueued(seats);
            next.handles.waited(now.saturating_duration_since(next.since), true);
            let ticket = self.seat(state, Some(i), seats, next.shown, next.handles, now);
            if let Err(ticket) = next.turn.send(ticket) {
                late.push(ticket);
            }
        }
    }

    fn withdraw(self: &Arc<Self>, id: u64) -> Option<Waiting> {
        let mut state = self.state.lock();
        let found = state
            .queues
            .iter()
            .enumerate()
            .find_map(|(i, q)| q.waiting.iter().position(|w| w.id == id).map(|at| (i, at)));
        let (i, at) = found?;
        let gone = state.queues[i].waiting.remove(at)?;
        state.progress(Instant::now());
        if !state.queues[i].is_active() {
            state.active -= 1;
        }
        state.waiting -= 1;
        state.waiting_seats -= gone.seats;
        gone.handles.unqueued(gone.seats);
        state.wants(Instant::now());
        Some(gone)
    }

    fn leave(self: &Arc<Self>, id: u64, took: Duration) {
        let mut late = Vec::new();
        let mut state = self.state.lock();
        let now = Instant::now();
        state.progress(now);
        let Some(done) = state.executing.remove(&id) else { return };
        state.seats_in_use -= done.seats;
        if let Some(i) = done.queue {
            let q = &mut state.queues[i];
            q.executing -= 1;
            q.seats_in_use -= done.seats;
            // What it really took counts.
            q.next += done.seats as f64 * (took.as_secs_f64() - ESTIMATE);
            if !q.is_active() {
                state.active -= 1;
            }
        }
        state.wants(now);
        self.dispatch(&mut state, &mut late);
        drop(state);
        drop(late);
    }
}

enum Arrival {
    Seated(Ticket),
    Refused(Refusal),
    Waiting(u64, oneshot::Receiver<Ticket>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_as_wide_as_they_are_long() {
        for (objects, most, want) in
            [(0, 10, 1), (1, 10, 1), (100, 10, 1), (101, 10, 2), (5000, 10, 10), (500, 3, 3)]
        {
            assert_eq!(Width::of_list(objects, most), Width(want), "{objects}");
        }
    }
}

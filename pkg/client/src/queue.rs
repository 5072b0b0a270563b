//! A work queue of keys: a key that is queued twice is worked on once, and never by two workers at a time.
//!
//! Keys can be added after a delay, or after a delay that doubles with each failure (5 ms to 1000 s, and overall at most
//! ten a second with a burst of a hundred), as upstream's controllers do.

mod metrics;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::future::Future;
use std::hash::Hash;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::limit::TokenBucket;
use metrics::QueueMetrics;

const BASE_DELAY: Duration = Duration::from_millis(5);
const MAX_DELAY: Duration = Duration::from_secs(1000);

/// The queue; clones share it.
pub struct WorkQueue<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    state: Mutex<State<K>>,
    notify: Notify,
    bucket: TokenBucket,
    base_delay: Duration,
    max_delay: Duration,
    metrics: QueueMetrics,
}

struct State<K> {
    ready: VecDeque<K>,
    /// Keys that wait in `ready`, or will go there when the worker that has them is done; with the time they came.
    dirty: HashMap<K, Instant>,
    /// Keys that are worked on, since when.
    processing: HashMap<K, Instant>,
    delayed: HashMap<K, Instant>,
    timers: BinaryHeap<Reverse<(Instant, u64)>>,
    timer_keys: HashMap<u64, K>,
    next_timer: u64,
    failures: HashMap<K, u32>,
    shutdown: bool,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> WorkQueue<K> {
        WorkQueue { shared: self.shared.clone() }
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> WorkQueue<K> {
    /// A queue whose metrics carry this name.
    pub fn new(name: &'static str) -> WorkQueue<K> {
        WorkQueue::with_backoff(name, BASE_DELAY, MAX_DELAY)
    }

    /// A queue with other delays after failures.
    pub fn with_backoff(name: &'static str, base_delay: Duration, max_delay: Duration) -> WorkQueue<K> {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashMap::new(),
            processing: HashMap::new(),
            delayed: HashMap::new(),
            timers: BinaryHeap::new(),
            timer_keys: HashMap::new(),
            next_timer: 0,
            failures: HashMap::new(),
            shutdown: false,
        };
        let shared = Shared {
            state: Mutex::new(state),
            notify: Notify::new(),
            bucket: TokenBucket::new(10.0, 100),
            base_delay,
            max_delay,
            metrics: QueueMetrics::new(name),
        };
        WorkQueue { shared: Arc::new(shared) }
    }

    /// Queues a key.
    pub fn add(&self, key: K) {
        if self.shared.add(&mut self.shared.state.lock(), key) {
            self.shared.notify.notify_one();
        }
    }

    /// Queues a key after a while; an earlier time that it already waits for stands.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.shared.state.lock();
        let at = Instant::now() + delay;
        if state.shutdown || state.delayed.get(&key).is_some_and(|earlier| *earlier <= at) {
            return;
        }
        self.shared.metrics.retries.inc();
        let id = state.next_timer;
        state.next_timer += 1;
        state.delayed.insert(key.clone(), at);
        state.timers.push(Reverse((at, id)));
        state.timer_keys.insert(id, key);
        drop(state);
        // Whoever waits may have to wait less long now.
        self.shared.notify.notify_one();
    }

    /// Queues a key after the delay that its failures deserve.
    pub fn add_rate_limited(&self, key: K) {
        let delay = {
            let mut state = self.shared.state.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            let factor = 2f64.powi((*failures).min(62) as i32);
            *failures += 1;
            Duration::try_from_secs_f64(self.shared.base_delay.as_secs_f64() * factor)
                .unwrap_or(self.shared.max_delay)
                .min(self.shared.max_delay)
        };
        self.add_after(key, delay.max(self.shared.bucket.reserve()));
    }

    /// Forgets a key's failures.
    pub fn forget(&self, key: &K) {
        self.shared.state.lock().failures.remove(key);
    }

    /// How often a key has failed since it was last forgotten.
    pub fn failures(&self, key: &K) -> u32 {
        self.shared.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// How many keys wait now.
    pub fn len(&self) -> usize {
        self.shared.state.lock().ready.len()
    }

    /// Whether none waits now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends the queue: [`WorkQueue::get`] answers `None` from now on.
    pub fn shut_down(&self) {
        self.shared.state.lock().shutdown = true;
        self.shared.notify.notify_waiters();
        self.shared.notify.notify_one();
    }

    /// The next key; while the guard lives nobody else gets the same key. `None` after shutdown.
    pub async fn get(&self) -> Option<Guard<K>> {
        loop {
            let notified = self.shared.notify.notified();
            let deadline = match self.shared.take() {
                Taken::Key(key, more) => {
                    if more {
                        self.shared.notify.notify_one();
                    }
                    return Some(Guard { key, queue: self.clone(), begin: Instant::now() });
                }
                Taken::Shutdown => {
                    self.shared.notify.notify_one();
                    return None;
                }
                Taken::Nothing(deadline) => deadline,
            };
            match deadline {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, notified).await;
                }
                None => notified.await,
            }
        }
    }

    /// Works with `workers` tasks until shutdown: a key whose work fails is queued again with backoff, the error logged.
    pub async fn work<F, Fut>(&self, workers: usize, shutdown: CancellationToken, reconcile: F)
    where
        K: std::fmt::Display + Sync,
        F: Fn(K) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        for _ in 0..workers.max(1) {
            let (queue, reconcile) = (self.clone(), reconcile.clone());
            tasks.spawn(async move {
                while let Some(guard) = queue.get().await {
                    queue.work_one(&guard, &reconcile).await;
                }
            });
        }
        shutdown.cancelled().await;
        self.shut_down();
        while tasks.join_next().await.is_some() {}
    }

    async fn work_one<F, Fut>(&self, guard: &Guard<K>, reconcile: &F)
    where
        K: std::fmt::Display,
        F: Fn(K) -> Fut,
        Fut: Future<Output = anyhow::Result<()>>,
    {
        let key: K = K::clone(guard);
        match reconcile(key.clone()).await {
            Ok(()) => self.forget(&key),
            Err(error) => {
                tracing::error!(queue = self.shared.metrics.name, %key, error = format!("{error:#}"), "Sync failed, will retry");
                self.add_rate_limited(key);
            }
        }
    }
}

enum Taken<K> {
    Key(K, bool),
    Nothing(Option<Instant>),
    Shutdown,
}

impl<K: Clone + Eq + Hash> Shared<K> {
    /// Whether somebody should be woken.
    fn add(&self, state: &mut State<K>, key: K) -> bool {
        if state.shutdown || state.dirty.contains_key(&key) {
            return false;
        }
        self.metrics.adds.inc();
        state.dirty.insert(key.clone(), Instant::now());
        if state.processing.contains_key(&key) {
            return false;
        }
        state.ready.push_back(key);
        self.metrics.depth.set(state.ready.len() as f64);
        true
    }

    fn take(&self) -> Taken<K> {
        let state = &mut *self.state.lock();
        if state.shutdown {
            return Taken::Shutdown;
        }
        self.ripen(state);
        let Some(key) = state.ready.pop_front() else {
            return Taken::Nothing(state.timers.peek().map(|Reverse((at, _))| *at));
        };
        self.metrics.depth.set(state.ready.len() as f64);
        if let Some(since) = state.dirty.remove(&key) {
            self.metrics.waited.observe(since.elapsed().as_secs_f64());
        }
        state.processing.insert(key.clone(), Instant::now());
        self.observe_running(state);
        Taken::Key(key, !state.ready.is_empty() || !state.timers.is_empty())
    }

    /// Queues the delayed keys whose time has come.
    fn ripen(&self, state: &mut State<K>) {
        let now = Instant::now();
        while let Some(Reverse((at, id))) = state.timers.peek().copied()
            && at <= now
        {
            state.timers.pop();
            let Some(key) = state.timer_keys.remove(&id) else { continue };
            // A timer that was superseded by an earlier one finds another time, or none.
            if state.delayed.get(&key) == Some(&at) {
                state.delayed.remove(&key);
                self.add(state, key);
            }
        }
    }

    /// As of the last change; a worker that hangs alone is seen by the queue's depth instead.
    fn observe_running(&self, state: &State<K>) {
        let (mut sum, mut longest) = (0.0, 0f64);
        for since in state.processing.values() {
            let seconds = since.elapsed().as_secs_f64();
            sum += seconds;
            longest = longest.max(seconds);
        }
        self.metrics.unfinished.set(sum);
        self.metrics.longest.set(longest);
    }

    fn done(&self, key: &K, begin: Instant) {
        let state = &mut *self.state.lock();
        self.metrics.worked.observe(begin.elapsed().as_secs_f64());
        state.processing.remove(key);
        self.observe_running(state);
        if state.dirty.contains_key(key) && !state.shutdown {
            state.ready.push_back(key.clone());
            self.metrics.depth.set(state.ready.len() as f64);
            self.notify.notify_one();
        }
    }
}

/// A key that is being worked on.
pub struct Guard<K: Clone + Eq + Hash + Send + 'static> {
    key: K,
    queue: WorkQueue<K>,
    begin: Instant,
}

impl<K: Clone + Eq + Hash + Send + 'static> Deref for Guard<K> {
    type Target = K;

    fn deref(&self) -> &K {
        &self.key
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> Drop for Guard<K> {
    fn drop(&mut self) {
        self.queue.shared.done(&self.key, self.begin);
    }
}

#[cfg(test)]
mod tests;

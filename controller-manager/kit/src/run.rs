//! The work queue of a controller and the workers that drain it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::meta::Key;

/// What a reconcile wants next: nothing until something changes, or another look after a while.
pub type Requeue = Option<Duration>;

struct State<K> {
    ready: VecDeque<K>,
    /// Keys in `ready`, or to be put there when their worker is done.
    dirty: HashSet<K>,
    busy: HashSet<K>,
    later: BinaryHeap<Reverse<(Instant, u64)>>,
    waiting: HashMap<u64, K>,
    due: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    ticket: u64,
}

struct Inner<K> {
    state: Mutex<State<K>>,
    ready: Notify,
    timer: Notify,
}

/// A queue of keys. A key waits in it at most once and is worked on by one worker at a time.
pub struct Queue<K = Key>(Arc<Inner<K>>);

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Queue(self.0.clone())
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> Default for Queue<K> {
    fn default() -> Self {
        Self::new()
    }
}

const FIRST_DELAY: Duration = Duration::from_millis(5);
const LAST_DELAY: Duration = Duration::from_secs(1000);

impl<K: Clone + Eq + Hash + Send + 'static> Queue<K> {
    /// An empty queue.
    pub fn new() -> Queue<K> {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            busy: HashSet::new(),
            later: BinaryHeap::new(),
            waiting: HashMap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            ticket: 0,
        };
        Queue(Arc::new(Inner { state: Mutex::new(state), ready: Notify::new(), timer: Notify::new() }))
    }

    /// Has the key worked on as soon as a worker is free.
    pub fn add(&self, key: K) {
        let mut state = self.0.state.lock();
        if !state.dirty.insert(key.clone()) {
            return;
        }
        if !state.busy.contains(&key) {
            state.ready.push_back(key);
            self.0.ready.notify_one();
        }
    }

    /// Has the key worked on after `delay`; of several delays the shortest counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.0.state.lock();
        let at = Instant::now() + delay;
        if let Some((due, ticket)) = state.due.get(&key).copied() {
            if due <= at {
                return;
            }
            state.waiting.remove(&ticket);
        }
        state.ticket += 1;
        let ticket = state.ticket;
        state.due.insert(key.clone(), (at, ticket));
        state.waiting.insert(ticket, key);
        state.later.push(Reverse((at, ticket)));
        self.0.timer.notify_one();
    }

    /// Has the key worked on after a delay that doubles with each failure in a row.
    pub fn add_rate_limited(&self, key: K) {
        let failures = {
            let mut state = self.0.state.lock();
            let failures = state.failures.entry(key.clone()).or_default();
            *failures += 1;
            *failures
        };
        let delay = FIRST_DELAY.saturating_mul(1 << (failures - 1).min(20)).min(LAST_DELAY);
        self.add_after(key, delay);
    }

    /// How often the key has failed in a row.
    pub fn failures(&self, key: &K) -> u32 {
        self.0.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// The key succeeded: its next failure starts from the shortest delay.
    pub fn forget(&self, key: &K) {
        self.0.state.lock().failures.remove(key);
    }

    /// How many keys wait to be worked on.
    pub fn len(&self) -> usize {
        self.0.state.lock().ready.len()
    }

    /// Whether no key waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    async fn next(&self) -> K {
        loop {
            let notified = self.0.ready.notified();
            {
                let mut state = self.0.state.lock();
                if let Some(key) = state.ready.pop_front() {
                    state.dirty.remove(&key);
                    state.busy.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.0.ready.notify_one();
                    }
                    return key;
                }
            }
            notified.await;
        }
    }

    fn done(&self, key: &K) {
        let mut state = self.0.state.lock();
        state.busy.remove(key);
        if state.dirty.contains(key) {
            state.ready.push_back(key.clone());
            self.0.ready.notify_one();
        }
    }

    /// Moves keys whose time has come; returns when the next one is due.
    fn promote(&self) -> Option<Instant> {
        let mut state = self.0.state.lock();
        let now = Instant::now();
        while let Some(Reverse((at, ticket))) = state.later.peek().copied() {
            if !state.waiting.contains_key(&ticket) {
                state.later.pop();
                continue;
            }
            if at > now {
                return Some(at);
            }
            state.later.pop();
            let Some(key) = state.waiting.remove(&ticket) else { continue };
            state.due.remove(&key);
            if state.dirty.insert(key.clone()) && !state.busy.contains(&key) {
                state.ready.push_back(key);
                self.0.ready.notify_one();
            }
        }
        None
    }

    async fn keep_time(&self) {
        loop {
            let changed = self.0.timer.notified();
            match self.promote() {
                Some(at) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => {}
                        () = changed => {}
                    }
                }
                None => changed.await,
            }
        }
    }
}

/// Runs a controller's reconcile on a queue until shutdown.
pub struct Workers {
    pub name: &'static str,
    pub count: usize,
    pub shutdown: CancellationToken,
}

impl Workers {
    /// Drains `queue` with `count` workers. A failed key comes again with growing delay; a reconcile under
    /// way at shutdown is finished.
    pub async fn run<K, F, R>(&self, queue: Queue<K>, reconcile: F)
    where
        K: Clone + Eq + Hash + Send + Sync + std::fmt::Display + 'static,
        F: Fn(K) -> R + Send + Sync,
        R: Future<Output = anyhow::Result<Requeue>> + Send,
    {
        let timer = queue.clone();
        let workers =
            futures::future::join_all((0..self.count.max(1)).map(|_| self.work(&queue, &reconcile)));
        tokio::select! {
            _ = workers => {}
            () = timer.keep_time() => {}
        }
    }

    /// Losing a race for a write is everyday: the newer state comes by watch and is worked on again.
    fn report(&self, key: &str, error: &anyhow::Error) {
        let api = error.downcast_ref::<kube::Error>();
        let text = api.map_or_else(|| format!("{error:#}"), crate::errors::text);
        if api.is_some_and(|e| crate::errors::conflict(e) || crate::errors::already_exists(e)) {
            tracing::debug!(
                controller = self.name,
                key,
                error = text,
                "another write came first, trying again"
            );
        } else {
            tracing::warn!(controller = self.name, key, error = text, "reconcile failed, trying again");
        }
    }

    async fn work<K, F, R>(&self, queue: &Queue<K>, reconcile: &F)
    where
        K: Clone + Eq + Hash + Send + Sync + std::fmt::Display + 'static,
        F: Fn(K) -> R + Send + Sync,
        R: Future<Output = anyhow::Result<Requeue>> + Send,
    {
        loop {
            let key = tokio::select! {
                () = self.shutdown.cancelled() => return,
                key = queue.next() => key,
            };
            match reconcile(key.clone()).await {
                Ok(requeue) => {
                    queue.forget(&key);
                    if let Some(delay) = requeue {
                        queue.add_after(key.clone(), delay);
                    }
                }
                Err(error) => {
                    self.report(&key.to_string(), &error);
                    queue.add_rate_limited(key.clone());
                }
            }
            queue.done(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test(start_paused = true)]
    async fn retries_with_delay_and_never_twice_at_once() {
        let queue: Queue<String> = Queue::new();
        queue.add("a".into());
        queue.add("a".into());
        queue.add_after("b".into(), Duration::from_secs(60));
        queue.add_after("b".into(), Duration::from_secs(5));
        let shutdown = CancellationToken::new();
        let workers = Workers { name: "test", count: 3, shutdown: shutdown.clone() };
        let (calls, busy) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let start = Instant::now();
        workers
            .run(queue.clone(), |key: String| {
                let (calls, busy, shutdown, queue) = (&calls, &busy, &shutdown, &queue);
                async move {
                    if key == "b" {
                        assert_eq!(start.elapsed().as_secs(), 5);
                        shutdown.cancel();
                        return Ok(None);
                    }
                    assert_eq!(busy.fetch_add(1, Ordering::SeqCst), 0);
                    queue.add("a".into());
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    busy.fetch_sub(1, Ordering::SeqCst);
                    let n = calls.fetch_add(1, Ordering::SeqCst);
                    if n > 3 {
                        tokio::time::sleep(Duration::from_secs(10)).await;
                    }
                    anyhow::ensure!(n > 2, "fails at first");
                    Ok(None)
                }
            })
            .await;
        assert!(calls.load(Ordering::SeqCst) > 3);
    }
}

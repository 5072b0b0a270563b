//! One etcd cluster: the stream of all its changes, and the resources that the stream feeds.
//!
//! The life of the stream is a loop of sessions. A session that ends because the connection was
//! lost is followed by one that resumes at the next revision: nothing is missed. Only when etcd
//! cannot give us the events in between (compacted, restored from a backup, revisions bumped) is
//! the position given up: every resource loads again and its watchers are told to list.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::etcd::{Etcd, Fault, fault};
use crate::lease::Leases;
use crate::object::JsonBudget;
use crate::progress::Progress;
use crate::resource::Resource;
use crate::resource::cache::Raw;
use crate::resource::rest;
use crate::{Config, Error, Result};

/// Resources that load at the same time: bounds memory and the burst on etcd.
const LOADS: usize = 8;
/// Between two rounds of bookmarks and house-keeping.
const ROUND: Duration = Duration::from_secs(5);
/// A consistent read gives up on the stream after this and asks etcd itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

type Routes = FxHashMap<Box<str>, Arc<Resource>>;

pub(crate) struct Cluster {
    pub(crate) config: Arc<Config>,
    pub(crate) etcd: Etcd,
    pub(crate) progress: Progress,
    pub(crate) budget: Arc<JsonBudget>,
    pub(crate) leases: Leases,
    pub(crate) loads: Semaphore,
    pub(crate) cancel: CancellationToken,
    pub(crate) tasks: TaskTracker,
    connected: AtomicBool,
    /// The stream has a position: resources that are registered now may load at once.
    positioned: AtomicBool,
    routes: ArcSwap<Routes>,
    question: Arc<gather::Shared<Result<i64>>>,
    stuck: Notify,
    stuck_at: AtomicI64,
    /// The revision that etcd has been compacted to, as far as this server knows.
    pub(crate) compacted: AtomicI64,
    /// Bytes of etcd's database when it was last asked.
    pub(crate) size: AtomicI64,
}

/// Why a session of the stream ended.
enum End {
    /// Resume where we are.
    Lost(Error),
    /// The events in between cannot be had: start anew.
    Gap(&'static str),
}

impl From<Error> for End {
    fn from(e: Error) -> End {
        End::Lost(e)
    }
}

impl From<Fault> for End {
    fn from(fault: Fault) -> End {
        match fault {
            Fault::Compacted => End::Gap("history was compacted"),
            fault => End::Lost(fault.into()),
        }
    }
}

impl Cluster {
    pub(crate) async fn open(
        endpoints: &[String],
        config: Arc<Config>,
        budget: Arc<JsonBudget>,
        cancel: CancellationToken,
        tasks: TaskTracker,
    ) -> Result<Arc<Cluster>> {
        let etcd = Etcd::connect(endpoints, &config).await?;
        let window = config.lease_reuse;
        let cluster = Arc::new(Cluster {
            config,
            etcd,
            progress: Progress::default(),
            budget,
            leases: Leases::new(window),
            loads: Semaphore::new(LOADS),
            cancel,
            tasks: tasks.clone(),
            connected: AtomicBool::new(false),
            positioned: AtomicBool::new(false),
            routes: ArcSwap::default(),
            question: gather::Shared::new(),
            stuck: Notify::new(),
            stuck_at: AtomicI64::new(-1),
            compacted: AtomicI64::new(0),
            size: AtomicI64::new(0),
        });
        tasks.spawn(cluster.clone().run());
        tasks.spawn(crate::compact::run(cluster.clone()));
        tasks.spawn(cluster.clone().weigh());
        Ok(cluster)
    }

    /// The resource of this prefix, made by `make` and loading from now on if it is new.
    pub(crate) fn route(&self, prefix: &str, make: impl Fn() -> Arc<Resource>) -> Arc<Resource> {
        let made = std::cell::OnceCell::new();
        self.routes.rcu(|routes| {
            let mut routes = Routes::clone(routes);
            if !routes.contains_key(prefix) {
                routes.insert(prefix.into(), made.get_or_init(&make).clone());
            }
            routes
        });
        let routes = self.routes.load();
        let resource = routes.get(prefix).cloned().unwrap_or_else(&make);
        let new = made.get().is_some_and(|m| Arc::ptr_eq(m, &resource));
        // Otherwise the stream finds it among the routes when it takes its position.
        if new && self.positioned.load(Ordering::SeqCst) {
            resource.begin_load();
        }
        resource
    }

    pub(crate) fn unroute(&self, prefix: &str) -> Option<Arc<Resource>> {
        let resource = self.routes.load().get(prefix).cloned();
        self.routes.rcu(|routes| {
            let mut routes = Routes::clone(routes);
            routes.remove(prefix);
            routes
        });
        resource
    }

    pub(crate) fn resources(&self) -> Vec<Arc<Resource>> {
        self.routes.load().values().cloned().collect()
    }

    pub(crate) fn resource_of(&self, key: &str) -> Option<Arc<Resource>> {
        find(&self.routes.load(), key).cloned()
    }

    /// Whether the stream has a position, so that what is loaded now misses nothing.
    pub(crate) fn positioned(&self) -> bool {
        self.positioned.load(Ordering::SeqCst)
    }

    /// Whether the stream is up.
    pub(crate) fn connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    /// etcd's current revision: not older than this call.
    pub(crate) async fn current_revision(&self) -> Result<i64> {
        let etcd = self.etcd.clone();
        let answer = self.question.ask(move || {
            let etcd = etcd.clone();
            async move { etcd.revision().await }
        });
        let ending = || Err(crate::Error::Unavailable("the store is shutting down".into()));
        answer.await.unwrap_or_else(ending)
    }

    /// Somebody has waited in vain for a revision that etcd says exists.
    pub(crate) fn report_stuck(&self) {
        if self.connected() {
            self.stuck.notify_one();
        }
    }

    async fn run(self: Arc<Self>) {
        let mut pause = Duration::from_millis(20);
        loop {
            let started = Instant::now();
            let end = tokio::select! {
                () = self.cancel.cancelled() => break,
                end = self.session() => end,
            };
            self.connected.store(false, Ordering::Release);
            match end {
                End::Gap(why) => {
                    tracing::warn!(why, "Loading everything from etcd again");
                    self.positioned.store(false, Ordering::SeqCst);
                }
                End::Lost(error) => tracing::warn!(%error, "The watch of etcd was interrupted"),
            }
            if started.elapsed() > Duration::from_secs(10) {
                pause = Duration::from_millis(20);
            }
            let jittered = pause.mul_f64(0.5 + rand::random::<f64>());
            tokio::select! {
                () = self.cancel.cancelled() => break,
                () = tokio::time::sleep(jittered) => {}
            }
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        for resource in self.resources() {
            resource.close();
        }
        self.routes.store(Arc::default());
    }

    /// Asks etcd for the size of its database from time to time (`--etcd-db-metric-poll-interval`).
    async fn weigh(self: Arc<Self>) {
        if self.config.size_interval.is_zero() {
            return;
        }
        let mut look = tokio::time::interval(self.config.size_interval);
        loop {
            tokio::select! {
                () = self.cancel.cancelled() => return,
                _ = look.tick() => {}
            }
            if let Ok(size) = self.etcd.size().await {
                self.size.store(size, Ordering::Relaxed);
            }
        }
    }

    async fn session(self: &Arc<Self>) -> End {
        match self.start().await {
            Ok((stream, promised)) => {
                self.connected.store(true, Ordering::Release);
                self.pump(stream, promised).await
            }
            Err(end) => end,
        }
    }

    async fn start(self: &Arc<Self>) -> Result<(WatchStream, i64), End> {
        let resume = self.positioned.load(Ordering::SeqCst);
        let applied = if resume { self.progress.applied() } else { self.etcd.revision().await? };
        let options = WatchOptions::new().with_from_key().with_start_revision(applied + 1);
        let mut watch = self.etcd.watch();
        let mut stream = self.etcd.call(watch.watch(vec![0u8], Some(options))).await?;
        let created = self.etcd.call(stream.message()).await?;
        let Some(created) = created else {
            return Err(Error::Unavailable("etcd closed the watch".into()).into());
        };
        check(&created)?;
        let now = created.header().map_or(0, |h| h.revision());
        // A member may lag behind; only the leader's word counts as going back in time.
        if now < applied && self.etcd.revision().await? < applied {
            return Err(End::Gap("etcd's revision went back"));
        }
        if !resume {
            // First all readers must find their resource loading, then the revision may move.
            self.positioned.store(true, Ordering::SeqCst);
            for resource in rest::awake(self.resources()) {
                resource.begin_load();
            }
            if self.progress.applied() == 0 {
                self.tasks.spawn(crate::resource::past::recall(self.clone(), applied));
            }
            self.progress.publish(applied);
        }
        Ok((stream, now))
    }

    /// `promised`: etcd's revision when the stream began; all up to there is history and must come.
    async fn pump(&self, mut stream: WatchStream, promised: i64) -> End {
        let mut quiet = false;
        let mut rounds = tokio::time::interval_at(Instant::now() + ROUND, ROUND);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                message = stream.message() => match message {
                    Ok(Some(response)) => {
                        quiet = false;
                        if let Err(end) = check(&response) {
                            return end;
                        }
                        self.prepare(&response).await;
                        if let Err(end) = self.apply(&response) {
                            return end;
                        }
                    }
                    Ok(None) => return End::Lost(Error::Unavailable("etcd closed the watch".into())),
                    Err(e) => return fault(e).into(),
                },
                () = self.stuck.notified() => {
                    // First suspect the connection; if a new one does not help, the history.
                    let applied = self.progress.applied();
                    if self.stuck_at.swap(applied, Ordering::Relaxed) == applied {
                        return End::Gap("revisions are missing from the stream");
                    }
                    return End::Lost(Error::Timeout("the stream stands still".into()));
                }
                _ = rounds.tick() => {
                    if quiet && self.progress.applied() < promised {
                        return End::Gap("the stream lacks the last revision");
                    }
                    quiet = true;
                    self.round();
                }
            }
        }
    }

    /// Fetches the keys that the values of this response need.
    async fn prepare(&self, response: &WatchResponse) {
        for kv in response.events().iter().filter_map(|e| e.kv()) {
            // Nothing else ever needs a key from outside.
            if kv.value().starts_with(b"k8s:enc:kms:")
                && let Some(resource) = kv.key_str().ok().and_then(|k| self.resource_of(k))
            {
                resource.prepare_value(kv.value()).await;
            }
        }
    }

    /// Applies one response: first to all caches, then readers may see the revision, then
    /// watchers are served.
    ///
    /// Every revision changes at least one key and we watch all keys, so the revisions of the
    /// stream must be without a hole. Whatever loses an event (etcd has done so for deletions at
    /// the edge of a compaction) is noticed here, before anything is applied.
    fn apply(&self, response: &WatchResponse) -> Result<(), End> {
        let routes = self.routes.load();
        let mut batches: SmallVec<[(&Arc<Resource>, Vec<Raw>); 4]> = SmallVec::new();
        let applied = self.progress.applied();
        let mut revision = applied;
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            if kv.mod_revision() <= applied {
                continue;
            }
            if kv.mod_revision() != revision && kv.mod_revision() != revision + 1 {
                return Err(End::Gap("the stream lacks a revision"));
            }
            revision = kv.mod_revision();
            let Some((key, resource)) = kv.key_str().ok().and_then(|k| Some((k, find(&routes, k)?))) else {
                continue;
            };
            let raw = Raw::new(key, kv, event.event_type() == EventType::Delete);
            match batches.iter_mut().find(|(r, _)| Arc::ptr_eq(r, resource)) {
                Some((_, batch)) => batch.push(raw),
                None => batches.push((resource, vec![raw])),
            }
        }
        let served: SmallVec<[_; 4]> =
            batches.into_iter().map(|(resource, batch)| (resource, resource.apply(batch))).collect();
        self.progress.publish(revision);
        for (resource, changes) in served {
            resource.dispatch(&changes);
        }
        Ok(())
    }

    /// Between responses everything applied has also been dispatched: the moment for bookmarks.
    fn round(&self) {
        let applied = self.progress.applied();
        for resource in self.routes.load().values() {
            resource.round(applied);
        }
    }
}

fn check(response: &WatchResponse) -> Result<(), End> {
    if response.compact_revision() > 0 {
        return Err(End::Gap("history was compacted"));
    }
    if response.canceled() {
        let why = format!("etcd cancelled the watch: {}", response.cancel_reason());
        return Err(Error::Unavailable(why).into());
    }
    Ok(())
}

/// The resource a key belongs to: the longest registered prefix that ends with a slash.
fn find<'a>(routes: &'a Routes, key: &str) -> Option<&'a Arc<Resource>> {
    key.bytes().enumerate().rev().filter(|(_, b)| *b == b'/').find_map(|(at, _)| routes.get(&key[..=at]))
}

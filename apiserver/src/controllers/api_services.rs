//! APIServices: those of what this server has itself are kept, and the servers behind the others are watched:
//! whether they can be asked (condition `Available`), and what they say of their resources.
//!
//! One task a server behind an APIService, so that one that hangs holds up nobody else.

use aggregator::check::{self, Verdict};
use aggregator::client::Identity;
use aggregator::local::{self, Step, Wanted};
use aggregator::service::{Service, is_available};
use aggregator::{API_SERVICES as GR, Found, discovery, schemas};
use api::Value;
use api::resources::Table;
use api::status::Result;
use component::metrics::{CounterVec, GaugeVec, counter_vec, gauge_vec};
use endpoints::server::Server;
use endpoints::write::now;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::task::AbortOnDropHandle;

const CRDS: (&str, &str) = ("apiextensions.k8s.io", "customresourcedefinitions");
/// How often a server that answers is asked again, and the longest pause before one that does not.
const AGAIN: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(100);
/// How often documents are read again though nothing has changed.
const REFRESH: Duration = Duration::from_secs(60);
/// Writes at a time when many APIServices are missing.
const WRITES: usize = 8;

/// Keeps them until the server stops. `builtin` is the table of this server's own resources.
pub async fn run(server: Arc<Server>, builtin: Arc<Table>, identity: Option<(PathBuf, PathBuf)>) {
    server.store.wait_ready().await;
    let subscribed = |gr: (&str, &str)| {
        let row = server.storage_row(gr.0, gr.1)?;
        Some(row.stored().ok()?.resource.subscribe())
    };
    let (Some(mut changes), Some(mut definitions)) = (subscribed(GR), subscribed(CRDS)) else { return };
    let mut keeper = Keeper::new(server.clone(), builtin, identity);
    loop {
        let done = keeper.round().await;
        let failed = done.is_err();
        super::note("APIServices", done);
        tokio::select! {
            () = sleep(RETRY * 10), if failed => {}
            () = sleep(AGAIN) => {}
            changed = changes.changed() => if changed.is_err() { return },
            changed = definitions.changed() => if changed.is_err() { return },
        }
    }
}

struct Metrics {
    unavailable: GaugeVec,
    failures: CounterVec,
}

/// A server that is being watched.
struct Watched {
    service: Arc<Service>,
    _task: AbortOnDropHandle<()>,
}

struct Keeper {
    server: Arc<Server>,
    builtin: Arc<Table>,
    files: Option<(PathBuf, PathBuf)>,
    identity: Identity,
    metrics: Arc<Metrics>,
    at_start: BTreeSet<String>,
    done: BTreeSet<String>,
    watched: HashMap<String, Watched>,
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

impl Keeper {
    fn new(server: Arc<Server>, builtin: Arc<Table>, files: Option<(PathBuf, PathBuf)>) -> Keeper {
        let at_start = server.registry.list(GR, None).iter().map(|o| name_of(o).to_owned()).collect();
        let metrics = Metrics {
            unavailable: gauge_vec(
                "aggregator_unavailable_apiservice",
                "Whether the server behind an APIService cannot be asked.",
                &["name"],
            ),
            failures: counter_vec(
                "aggregator_unavailable_apiservice_total",
                "How often an APIService became unavailable, by reason.",
                &["name", "reason"],
            ),
        };
        Keeper {
            server,
            builtin,
            files,
            identity: Identity::default(),
            metrics: Arc::new(metrics),
            at_start,
            done: BTreeSet::new(),
            watched: HashMap::new(),
        }
    }

    async fn round(&mut self) -> Result<()> {
        match Identity::read(self.files.as_ref()) {
            Ok(identity) => self.identity = identity,
            Err(error) => tracing::warn!(%error, "the certificate of the front proxy cannot be read"),
        }
        self.watch();
        let kept = self.keep_local().await;
        let told = self.tell_local().await;
        kept?;
        told?;
        self.server.special.registered.store(true, Ordering::Release);
        Ok(())
    }

    /// Brings the APIServices of this server's own groups in line.
    async fn keep_local(&mut self) -> Result<()> {
        let this = &*self;
        let registry = &this.server.registry;
        let crds = registry.list(CRDS, None);
        let wanted = local::wanted(&this.builtin, crds.iter().map(|c| &**c));
        let present: BTreeMap<String, Arc<Value>> =
            registry.list(GR, None).into_iter().map(|o| (name_of(&o).to_owned(), o)).collect();
        let names: BTreeSet<&String> = wanted.keys().chain(present.keys()).collect();
        let mut steps: Vec<BoxFuture<'_, Result<String>>> = Vec::new();
        for name in names {
            let (w, p) = (wanted.get(name), present.get(name));
            let (done, at_start) = (this.done.contains(name), this.at_start.contains(name));
            let step = local::step(w, p.map(|p| &**p), done, at_start);
            steps.push(async move { this.take(step, name, w, p).await.map(|()| name.clone()) }.boxed());
        }
        let all: Vec<Result<String>> = futures::stream::iter(steps).buffer_unordered(WRITES).collect().await;
        let mut failed = Ok(());
        for one in all {
            match one {
                Ok(name) => drop(self.done.insert(name)),
                Err(e) => failed = Err(e),
            }
        }
        failed
    }

    async fn take(
        &self,
        step: Step,
        name: &str,
        wanted: Option<&Wanted>,
        present: Option<&Arc<Value>>,
    ) -> Result<()> {
        let registry = &self.server.registry;
        match (step, wanted, present) {
            (Step::Create, Some(wanted), _) => {
                super::settled(registry.create(GR, "", wanted.object(name)).await)
            }
            (Step::Update, Some(wanted), Some(present)) => {
                let mut new = (**present).clone();
                new["spec"] = wanted.spec.clone();
                super::settled(registry.update(GR, "", new).await)
            }
            (Step::Delete, ..) => super::settled(registry.delete(GR, "", name).await),
            _ => Ok(()),
        }
    }

    /// Local ones are always available.
    async fn tell_local(&self) -> Result<()> {
        let all = self.server.registry.list(GR, None);
        let server = &*self.server;
        let mut told: Vec<BoxFuture<'_, Result<()>>> = Vec::new();
        for object in all.into_iter().filter(|o| !o["spec"]["service"].is_object()) {
            told.push(async move { tell(server, &object, &check::local()).await }.boxed());
        }
        let all: Vec<Result<()>> = futures::stream::iter(told).buffer_unordered(WRITES).collect().await;
        all.into_iter().collect()
    }

    /// Watches the servers behind the others.
    fn watch(&mut self) {
        let before = &self.watched;
        let all = self.server.registry.list(GR, None);
        let services: Vec<Arc<Service>> = all
            .iter()
            .filter_map(|o| {
                let old = before.get(name_of(o)).map(|w| &w.service);
                Service::of(o, &self.identity, old).map(Arc::new)
            })
            .collect();
        self.server.aggregation.set_services(services.clone());
        let metrics = &self.metrics;
        self.watched.retain(|name, _| {
            let stays = services.iter().any(|s| s.name == *name);
            if !stays {
                metrics.unavailable.remove(&[name]);
            }
            stays
        });
        for service in services {
            let available = if service.available { 0.0 } else { 1.0 };
            metrics.unavailable.with(&[&service.name]).set(available);
            if let Some(old) = self.watched.get_mut(&service.name)
                && old.service.leads_where(&service)
            {
                old.service = service;
                continue;
            }
            let task = tokio::spawn(attend(self.server.clone(), service.clone(), metrics.clone()));
            let watched = Watched { service: service.clone(), _task: AbortOnDropHandle::new(task) };
            self.watched.insert(service.name.clone(), watched);
        }
    }
}

/// Writes the condition if it says something new.
async fn tell(server: &Server, object: &Value, verdict: &Verdict) -> Result<()> {
    match check::told(object, verdict, &now()) {
        Some(new) => super::settled(server.registry.update(GR, "status", new).await),
        None => Ok(()),
    }
}

/// Asks one server again and again.
async fn attend(server: Arc<Server>, service: Arc<Service>, metrics: Arc<Metrics>) {
    let registry = server.registry.clone();
    let routing = server.special.aggregated.routing;
    let mut pause = RETRY;
    let mut read: Option<Instant> = None;
    loop {
        let basis = check::basis(&*registry, &service);
        let verdict = check::check(&*registry, &service, routing).await;
        if let Some(object) = registry.get(GR, "", &service.name) {
            if !verdict.available && (is_available(&object) || object["status"].is_null()) {
                metrics.failures.with(&[&service.name, verdict.reason]).inc();
            }
            super::note("an APIService's condition", tell(&server, &object, &verdict).await);
        }
        let wait = if verdict.available {
            pause = RETRY;
            if read.is_none_or(|r| r.elapsed() >= REFRESH) {
                read = documents(&server, &service, routing).await.then(Instant::now);
            }
            if read.is_some() { AGAIN } else { RETRY * 20 }
        } else {
            read = None;
            grow_old(&server, &service);
            pause = (pause * 2).min(AGAIN);
            pause
        };
        moved(&server, &service, &basis, Instant::now() + wait).await;
    }
}

/// Waits until something of the Service is different, at most until `end`.
async fn moved(server: &Server, service: &Service, basis: &[String], end: Instant) {
    let subscribed = |group, resource| {
        let row = server.storage_row(group, resource)?;
        Some(row.stored().ok()?.resource.subscribe())
    };
    let (Some(mut services), Some(mut slices)) =
        (subscribed("", "services"), subscribed("discovery.k8s.io", "endpointslices"))
    else {
        return sleep_until(end).await;
    };
    let changed = async {
        while check::basis(&*server.registry, service) == basis {
            let closed = tokio::select! {
                c = services.changed() => c.is_err(),
                c = slices.changed() => c.is_err(),
            };
            if closed {
                return;
            }
        }
    };
    let _ = timeout_at(end, changed).await;
}

/// Reads what a server says of its resources. Returns whether discovery has worked.
async fn documents(server: &Server, service: &Service, routing: bool) -> bool {
    let registry = &*server.registry;
    let entry = match discovery::read(registry, service, routing).await {
        Ok(entry) => entry,
        Err(error) => {
            tracing::warn!(name = service.name, error, "an aggregated server's discovery cannot be read");
            grow_old(server, service);
            return false;
        }
    };
    let (v2, v3) =
        tokio::join!(schemas::v2(registry, service, routing), schemas::v3(registry, service, routing));
    server.aggregation.set_found(&service.name, Found { discovery: entry, v2, v3 });
    true
}

/// What was read stays, marked as old.
fn grow_old(server: &Server, service: &Service) {
    let state = server.aggregation.state();
    let before = state.found.get(&service.name);
    let entry = discovery::stale(before.map(|f| &f.discovery), &service.version);
    let found = before.map_or_else(Found::default, |f| Found {
        discovery: Value::Null,
        v2: f.v2.clone(),
        v3: f.v3.clone(),
    });
    server.aggregation.set_found(&service.name, Found { discovery: entry, ..found });
}

//! All pods of this node: takes what the sources say, starts a worker for each pod, and tells the workers of changes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::api::Api;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::allocation::resize;
use crate::kubelet::Kubelet;
use crate::pod::{HASH_ANNOTATION, PodExt, SOURCE_ANNOTATION};
use crate::sources::Source;
use crate::worker::{Decree, Desired};
use crate::{admission, mirror};

mod begin;
mod echo;

pub use begin::end_orphan;
use begin::start;
use echo::{conditions_of_others, same_meta};

/// Resizes that wait are looked at again this long after anything happened, should a hint have been missed.
const RETRY_RESIZES: Duration = Duration::from_secs(180);

/// What a source says.
#[derive(Debug)]
pub enum Update {
    /// The apiserver's pods, all of them.
    Listed(Vec<Pod>),
    /// A pod of the apiserver is new or has changed.
    Applied(Box<Pod>),
    /// A pod of the apiserver is gone.
    Deleted(Box<Pod>),
    /// The static pods of a source, all of them.
    Static(Source, Vec<Pod>),
}

/// A pod and the way to its worker.
struct Entry {
    desired: watch::Sender<Desired>,
    wake: Arc<Notify>,
    /// Becomes true when nothing of it runs any more; its resources are free then.
    ended: watch::Sender<bool>,
    /// Becomes true when it is removed.
    done: watch::Sender<bool>,
    admitted: u64,
    /// It had ended before this kubelet first saw it.
    over: bool,
}

impl Entry {
    fn new(desired: watch::Sender<Desired>, wake: Arc<Notify>, admitted: u64) -> Self {
        let over = desired.borrow().pod.is_terminal();
        Self { desired, wake, ended: watch::channel(false).0, done: watch::channel(false).0, admitted, over }
    }

    /// Whether it holds resources: one that has ended or was never let in does not.
    fn is_active(&self) -> bool {
        let rejected = || self.desired.borrow().decree.as_ref().is_some_and(|d| d.rejected);
        !self.over && !*self.ended.borrow() && !rejected()
    }
}

/// The pods of this node by the UID they run under.
#[derive(Default)]
pub struct Pods {
    entries: Mutex<HashMap<String, Entry>>,
    /// Mirror pods by namespace and name.
    mirrors: Mutex<HashMap<(String, String), Arc<Pod>>>,
    /// Static pods that came back while they were being ended, by UID.
    reborn: Mutex<HashMap<String, Pod>>,
    /// The sources that have not spoken yet.
    awaited: Mutex<HashSet<Source>>,
    counter: std::sync::atomic::AtomicU64,
    client: ArcSwapOption<kube::Client>,
}

impl Pods {
    /// No pods yet of these sources; runtime classes are read with `client`.
    pub fn new(client: Option<kube::Client>, sources: HashSet<Source>) -> Self {
        let awaited = Mutex::new(sources);
        Self { client: ArcSwapOption::from_pointee(client), awaited, ..Default::default() }
    }

    /// Tells the worker of a pod to look again. `false` if there is no such pod.
    pub fn wake(&self, uid: &str) -> bool {
        let entries = self.entries.lock();
        let Some(entry) = entries.get(uid) else { return false };
        entry.wake.notify_one();
        true
    }

    /// Notes that nothing of a pod runs any more.
    pub fn ended(&self, uid: &str) {
        if let Some(entry) = self.entries.lock().get(uid) {
            entry.ended.send_replace(true);
        }
    }

    /// Whether a pod that was taken away is asked for again.
    pub fn is_reborn(&self, uid: &str) -> bool {
        self.reborn.lock().contains_key(uid)
    }

    /// Notes that a pod is removed.
    pub fn removed(&self, uid: &str) {
        if let Some(entry) = self.entries.lock().remove(uid) {
            entry.done.send_replace(true);
        }
    }

    /// All pods in the order they came.
    pub fn all(&self) -> Vec<Desired> {
        let entries = self.entries.lock();
        let mut list: Vec<_> = entries.values().map(|e| (e.admitted, e.desired.borrow().clone())).collect();
        list.sort_by_key(|(admitted, _)| *admitted);
        list.into_iter().map(|(_, desired)| desired).collect()
    }

    /// The pods that hold resources.
    pub fn active(&self) -> Vec<Arc<Pod>> {
        let entries = self.entries.lock();
        entries.values().filter(|e| e.is_active()).map(|e| e.desired.borrow().pod.clone()).collect()
    }

    /// One pod.
    pub fn get(&self, uid: &str) -> Option<Desired> {
        self.entries.lock().get(uid).map(|e| e.desired.borrow().clone())
    }

    /// Whether all sources have spoken at least once, so that what they did not name is an orphan.
    pub fn all_known(&self) -> bool {
        self.awaited.lock().is_empty()
    }

    /// Whether the apiserver has told its pods.
    pub fn api_known(&self) -> bool {
        !self.awaited.lock().contains(&Source::Api)
    }

    /// Whether all sources of static pods have spoken.
    fn statics_known(&self) -> bool {
        self.awaited.lock().iter().all(|source| *source == Source::Api)
    }

    /// A pod was granted other resources: its worker gives them.
    pub fn reallocated(&self, kubelet: &Kubelet, uid: &str) {
        if let Some(entry) = self.entries.lock().get(uid) {
            entry.desired.send_modify(|desired| {
                if let Some(target) = &desired.target {
                    desired.pod = kubelet.allocations.view(target);
                }
            });
        }
    }

    /// What tells when a pod has ended.
    pub fn end_of(&self, uid: &str) -> Option<watch::Receiver<bool>> {
        self.entries.lock().get(uid).map(|entry| entry.ended.subscribe())
    }

    /// Ends a pod by decree.
    pub fn decree(&self, uid: &str, decree: Decree) {
        if let Some(entry) = self.entries.lock().get(uid) {
            entry.desired.send_if_modified(|desired| {
                let first = desired.decree.is_none();
                if first {
                    desired.decree = Some(decree);
                }
                first
            });
        }
    }

    /// The handler that the pod's RuntimeClass names; empty for the default one.
    pub async fn runtime_handler(&self, pod: &Pod) -> Result<String, String> {
        let Some(name) = pod.spec().runtime_class_name.as_deref().filter(|n| !n.is_empty()) else {
            return Ok(String::new());
        };
        let client = self.client.load_full().ok_or("no apiserver to read RuntimeClasses from")?;
        let api: Api<RuntimeClass> = Api::all(client.as_ref().clone());
        match api.get_opt(name).await {
            Ok(Some(class)) => Ok(class.handler),
            Ok(None) => Err(format!("runtimeclass.node.k8s.io {name:?} not found")),
            Err(error) => Err(crate::objects::words(&error)),
        }
    }
}

/// Follows the sources until the shutdown.
pub async fn run(kubelet: Arc<Kubelet>, mut updates: mpsc::Receiver<Update>, shutdown: CancellationToken) {
    let mut workers = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = workers.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "A pod worker failed");
                }
                begin_again(&kubelet, &mut workers, &shutdown);
            }
            () = tokio::time::sleep(RETRY_RESIZES) => resize::retry(&kubelet, "periodic_retry"),
            update = updates.recv() => match update {
                Some(update) => {
                    if misplaced(&kubelet, &update) {
                        crate::node::look(&kubelet).await;
                    }
                    take(&kubelet, update, &mut workers, &shutdown);
                }
                None => break,
            },
        }
    }
    while workers.join_next().await.is_some() {}
}

type Workers = tokio::task::JoinSet<()>;

/// Whether a new pod seems to be on the wrong node: the scheduler may have seen labels that we have not.
fn misplaced(kubelet: &Kubelet, update: &Update) -> bool {
    let wrong = |pod: &Pod| {
        let new = !pod.is_mirror() && !pod.is_deleting() && kubelet.pods.get(pod.uid()).is_none();
        new && admission::misplaced(kubelet, pod)
    };
    match update {
        Update::Listed(list) => list.iter().any(wrong),
        Update::Applied(pod) => wrong(pod),
        Update::Deleted(_) | Update::Static(..) => false,
    }
}

fn take(kubelet: &Arc<Kubelet>, update: Update, workers: &mut Workers, shutdown: &CancellationToken) {
    match update {
        Update::Listed(list) => {
            let uids: HashSet<String> = list.iter().map(|p| p.uid().to_string()).collect();
            let mut list = list;
            list.sort_by_key(|p| p.metadata.creation_timestamp.as_ref().map(|t| t.0));
            let mirrors: HashSet<(String, String)> =
                list.iter().filter(|p| p.is_mirror()).map(full_name).collect();
            let lost: Vec<Arc<Pod>> = {
                let known = kubelet.pods.mirrors.lock();
                known.iter().filter(|(key, _)| !mirrors.contains(*key)).map(|(_, pod)| pod.clone()).collect()
            };
            for pod in lost {
                mirror_gone(kubelet, &pod);
            }
            for pod in list {
                apply(kubelet, pod, workers, shutdown);
            }
            for desired in kubelet.pods.all() {
                if !desired.pod.is_static() && !uids.contains(desired.pod.uid()) {
                    set_removed(kubelet, desired.pod.uid());
                }
            }
            kubelet.pods.awaited.lock().remove(&Source::Api);
            drop_orphan_mirrors(kubelet);
            forget_objects(kubelet);
            forget_resources(kubelet);
            kubelet.relist.notify_one();
        }
        Update::Applied(pod) => apply(kubelet, *pod, workers, shutdown),
        Update::Deleted(pod) => {
            if pod.is_mirror() {
                mirror_gone(kubelet, &pod);
            } else {
                set_removed(kubelet, pod.uid());
                forget_objects(kubelet);
            }
        }
        Update::Static(source, list) => {
            let uids: HashSet<String> = list.iter().map(|p| p.uid().to_string()).collect();
            for desired in kubelet.pods.all() {
                if is_from(&desired.pod, source) && !uids.contains(desired.pod.uid()) {
                    set_removed(kubelet, desired.pod.uid());
                    kubelet.pods.reborn.lock().remove(desired.pod.uid());
                }
            }
            let mut names = HashSet::new();
            for pod in list {
                let name = full_name(&pod);
                if !names.insert(name) {
                    let (what, name) = (pod.formatted(), pod.name());
                    let message = format!(
                        "Error validating pod {what} from {} due to duplicate pod name {name:?}, ignoring",
                        source.name()
                    );
                    kubelet.events.pod(&pod, "Warning", "FailedValidation", &message);
                    continue;
                }
                match kubelet.pods.get(pod.uid()) {
                    None => start_static(kubelet, pod, workers, shutdown),
                    // It has to end first.
                    Some(known) if known.removed => {
                        kubelet.pods.reborn.lock().insert(pod.uid().to_string(), pod);
                    }
                    Some(_) => {}
                }
            }
            kubelet.pods.awaited.lock().remove(&source);
            drop_orphan_mirrors(kubelet);
            forget_resources(kubelet);
            kubelet.relist.notify_one();
        }
    }
}

fn start_static(kubelet: &Arc<Kubelet>, pod: Pod, workers: &mut Workers, shutdown: &CancellationToken) {
    let target = kubelet.pods.mirrors.lock().get(&full_name(&pod)).cloned();
    start(kubelet, pod, target, workers, shutdown);
}

/// Starts the static pods that came back while they were being ended, as far as they have ended.
fn begin_again(kubelet: &Arc<Kubelet>, workers: &mut Workers, shutdown: &CancellationToken) {
    let ready: Vec<Pod> = {
        let mut reborn = kubelet.pods.reborn.lock();
        let entries = kubelet.pods.entries.lock();
        let free: Vec<String> = reborn.keys().filter(|uid| !entries.contains_key(*uid)).cloned().collect();
        free.iter().filter_map(|uid| reborn.remove(uid)).collect()
    };
    for pod in ready {
        crate::metrics::pods::restarted();
        start_static(kubelet, pod, workers, shutdown);
    }
}

fn is_from(pod: &Pod, source: Source) -> bool {
    pod.annotation(SOURCE_ANNOTATION) == Some(source.name())
}

fn full_name(pod: &Pod) -> (String, String) {
    (pod.namespace().to_string(), pod.name().to_string())
}

fn forget_objects(kubelet: &Kubelet) {
    if let Some(store) = &kubelet.store {
        let pods = kubelet.pods.active();
        store.retain(pods.iter().map(Arc::as_ref));
    }
}

/// What was granted to pods that are no more is forgotten once all sources have spoken.
fn forget_resources(kubelet: &Kubelet) {
    if kubelet.pods.all_known() {
        let uids = kubelet.pods.all().iter().map(|d| d.pod.uid().to_string()).collect();
        kubelet.allocations.retain(&uids);
    }
}

fn set_removed(kubelet: &Kubelet, uid: &str) {
    if let Some(entry) = kubelet.pods.entries.lock().get(uid) {
        entry.desired.send_if_modified(|desired| !std::mem::replace(&mut desired.removed, true));
    }
}

/// A pod of the apiserver is new or has changed.
fn apply(kubelet: &Arc<Kubelet>, pod: Pod, workers: &mut Workers, shutdown: &CancellationToken) {
    if pod.is_mirror() {
        let pod = Arc::new(pod);
        kubelet.pods.mirrors.lock().insert(full_name(&pod), pod.clone());
        set_target(kubelet, &full_name(&pod), Some(pod));
        drop_orphan_mirrors(kubelet);
        return;
    }
    let known = kubelet.pods.get(pod.uid());
    match known {
        Some(known) => {
            let version = |pod: &Pod| pod.metadata.resource_version.clone();
            if version(&known.pod) == version(&pod) && !known.removed {
                return;
            }
            let pod = Arc::new(pod);
            let before = known.target.as_ref().unwrap_or(&known.pod);
            // A change of nothing but the status is our own echo: it must not wake the worker.
            let echo = before.spec == pod.spec && same_meta(before, &pod);
            let view = kubelet.allocations.view(&pod);
            if let Some(entry) = kubelet.pods.entries.lock().get(pod.uid()) {
                entry.desired.send_if_modified(|desired| {
                    let others = conditions_of_others(&desired.pod) != conditions_of_others(&pod);
                    desired.pod = view;
                    desired.target = Some(pod.clone());
                    !echo || others || pod.is_terminal()
                });
            }
            if before.spec != pod.spec {
                crate::metrics::resizes::requested(before, &pod);
                tell_of_missing_features(kubelet, before, &pod);
                resize::notice(kubelet, &pod);
            }
        }
        None => {
            let target = Some(Arc::new(pod.clone()));
            start(kubelet, pod, target, workers, shutdown);
        }
    }
}

/// A change may need what this kubelet has declared not to have: nothing can refuse it any more, but people are told.
fn tell_of_missing_features(kubelet: &Kubelet, before: &Pod, pod: &Pod) {
    let missing = crate::node::declared::missing_for_update(&kubelet.gates, before, pod);
    if !missing.is_empty() {
        let message = format!("Pod requires node features that are not available: {}", missing.join(", "));
        kubelet.events.pod(pod, "Warning", "FailedNodeDeclaredFeaturesCheck", &message);
    }
}

fn set_target(kubelet: &Kubelet, name: &(String, String), target: Option<Arc<Pod>>) {
    for entry in kubelet.pods.entries.lock().values() {
        let hit = {
            let desired = entry.desired.borrow();
            desired.pod.is_static() && !desired.removed && full_name(&desired.pod) == *name
        };
        if hit {
            entry.desired.send_if_modified(|desired| {
                let uid = |pod: &Option<Arc<Pod>>| pod.as_ref().map(|p| p.uid().to_string());
                let deleting = target.as_ref().is_some_and(|t| t.is_deleting());
                let changed = uid(&desired.target) != uid(&target) || deleting;
                desired.target = target.clone();
                changed
            });
        }
    }
}

fn mirror_gone(kubelet: &Kubelet, pod: &Pod) {
    let name = full_name(pod);
    kubelet.pods.mirrors.lock().remove(&name);
    set_target(kubelet, &name, None);
}

/// Deletes mirrors of static pods that are no more. One that is being ended keeps its mirror until it has.
pub fn drop_orphan_mirrors(kubelet: &Kubelet) {
    let Some(client) = kubelet.client.clone().filter(|_| kubelet.pods.statics_known()) else { return };
    let hashes: HashSet<String> = {
        let entries = kubelet.pods.entries.lock();
        let alive = entries.values().filter(|e| !e.desired.borrow().removed || !*e.ended.borrow());
        let hash = |e: &Entry| e.desired.borrow().pod.annotation(HASH_ANNOTATION).map(str::to_string);
        alive.filter_map(hash).collect()
    };
    let orphans: Vec<Arc<Pod>> = {
        let known = kubelet.pods.mirrors.lock();
        let strange = |pod: &&Arc<Pod>| {
            !hashes.contains(pod.annotation(crate::pod::MIRROR_ANNOTATION).unwrap_or_default())
        };
        known.values().filter(strange).cloned().collect()
    };
    for orphan in orphans {
        let client = client.clone();
        tokio::spawn(async move {
            if let Err(error) = mirror::delete(&client, &orphan).await {
                tracing::warn!(pod = orphan.formatted(), %error, "Failed deleting a mirror pod");
            }
        });
    }
}

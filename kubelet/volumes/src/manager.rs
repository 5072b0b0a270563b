//! Brings the volumes of pods up, keeps them fresh, and takes them down.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use k8s_openapi::api::core::v1::{self, Pod};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedMutexGuard};
use tokio::time::Instant;

use crate::csi::Drivers;
use crate::source::{self, Found};
use crate::{Error, Facts, Mounted, Objects, Recorder, Result, Setup, csi, layout, teardown};

/// How long a pod waits for its volumes before it says so.
pub const PATIENCE: Duration = Duration::from_secs(123);

/// How long one try may take at least, however little time there is.
const ONE_TRY: Duration = Duration::from_secs(10);

/// The first and the longest pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(122);

/// The volumes of this node.
pub struct Manager {
    /// The kubelet's folder.
    pub root: PathBuf,
    /// This node.
    pub node_name: String,
    /// Where objects come from.
    pub objects: Arc<dyn Objects>,
    /// Where events go.
    pub recorder: Arc<dyn Recorder>,
    /// The CSI drivers on this node.
    pub drivers: Drivers,
    /// Told when what [`Manager::in_use`] says has changed.
    pub in_use_changed: Notify,
    devices: Mutex<BTreeMap<String, Device>>,
    locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    mounted: Mutex<HashMap<String, BTreeMap<String, Mounted>>>,
}

/// A volume of a driver, whoever uses it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Device {
    /// The pods that use it.
    pub pods: HashSet<String>,
    /// It has to be attached by the cluster; `None` if it was found on the disk and nobody has said yet.
    pub attachable: Option<bool>,
    /// There is something to be unstaged.
    pub staged: bool,
    /// It was staged by this kubelet process, so that doing so again is not needed.
    pub confirmed: bool,
    /// The driver refuses to grow it while it is in use, until then.
    pub not_expandable: bool,
}

/// What the worker of a pod keeps of its volumes.
#[derive(Debug, Default)]
pub struct PodVolumes {
    slots: BTreeMap<String, Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    mounted: Option<Mounted>,
    spec_name: String,
    failures: u32,
    next_try: Option<Instant>,
    fresh_at: Option<Instant>,
    last: Option<Trouble>,
}

#[derive(Debug, Clone)]
struct Trouble {
    unprocessed: bool,
    unattached: bool,
    text: String,
}

/// Not all volumes are ready. The text is that of upstream's event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReady(pub String);

impl PodVolumes {
    /// The volumes that are ready.
    pub fn mounted(&self) -> BTreeMap<String, Mounted> {
        self.slots.iter().filter_map(|(name, s)| Some((name.clone(), s.mounted.clone()?))).collect()
    }

    /// Whether all volumes of the pod are ready.
    pub fn complete(&self, pod: &Pod) -> bool {
        specs(pod).all(|spec| self.slots.get(&spec.name).is_some_and(|s| s.mounted.is_some()))
    }

    /// Whether some of them want to be refreshed at times.
    pub fn refreshing(&self) -> bool {
        self.slots.values().filter_map(|s| s.mounted.as_ref()).any(|m| m.refreshes)
    }

    /// An object has changed: makes the next call of [`Manager::bring_up`] refresh what shows objects, and try again
    /// what failed.
    pub fn hurry(&mut self) {
        // Of volumes behind claims nothing is watched.
        let shows = |slot: &&mut Slot| slot.mounted.as_ref().is_none_or(|m| m.claim.is_none());
        for slot in self.slots.values_mut().filter(shows) {
            slot.fresh_at = None;
            slot.next_try = None;
        }
    }
}

/// The volumes of a pod that a container uses and that are not the runtime's own business.
fn specs(pod: &Pod) -> impl Iterator<Item = &v1::Volume> {
    let used = used(pod);
    let all = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    all.filter(move |v| v.image.is_none() && used.contains(v.name.as_str()))
}

/// The volumes that containers name.
fn used(pod: &Pod) -> HashSet<&str> {
    let Some(spec) = &pod.spec else { return HashSet::new() };
    let plain = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let plain = plain.map(|c| (&c.volume_mounts, &c.volume_devices));
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let all = plain.chain(ephemeral.map(|c| (&c.volume_mounts, &c.volume_devices)));
    all.flat_map(|(mounts, devices)| {
        let mounts = mounts.iter().flatten().map(|m| m.name.as_str());
        mounts.chain(devices.iter().flatten().map(|d| d.name.as_str()))
    })
    .collect()
}

impl Manager {
    /// The volumes of a node, with what a kubelet before left on the disk.
    pub fn new(
        root: PathBuf,
        node_name: String,
        objects: Arc<dyn Objects>,
        recorder: Arc<dyn Recorder>,
    ) -> Arc<Self> {
        let manager = Arc::new(Self {
            drivers: Drivers::default(),
            root,
            node_name,
            objects,
            recorder,
            in_use_changed: Notify::new(),
            devices: Mutex::default(),
            locks: Mutex::default(),
            mounted: Mutex::default(),
        });
        csi::reconstruct(&manager);
        manager
    }

    /// Makes the volumes of a pod ready and refreshes those that are older than `max_age`. Returns when all are
    /// ready, or have not become so within `patience`, or if one of them cannot be at present.
    pub async fn bring_up(
        self: &Arc<Self>,
        pod: &Pod,
        facts: &Facts,
        state: &mut PodVolumes,
        max_age: Duration,
        patience: Duration,
    ) -> std::result::Result<(), NotReady> {
        let pod_dir = layout::pod_dir(&self.root, pod.metadata.uid.as_deref().unwrap_or_default());
        let deadline = Instant::now() + patience;
        for spec in specs(pod) {
            state.slots.entry(spec.name.clone()).or_default();
        }
        let by_name: BTreeMap<&str, &v1::Volume> = specs(pod).map(|s| (s.name.as_str(), s)).collect();
        let work = state.slots.iter_mut().filter_map(|(name, slot)| {
            let spec = *by_name.get(name.as_str())?;
            Some(self.bring_up_one(pod, spec, &pod_dir, facts, slot, max_age, deadline))
        });
        futures::future::join_all(work).await;
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        self.mounted.lock().insert(uid, state.mounted());
        if state.complete(pod) { Ok(()) } else { Err(not_ready(pod, state)) }
    }

    #[expect(clippy::too_many_arguments, reason = "all of it is the volume")]
    async fn bring_up_one(
        self: &Arc<Self>,
        pod: &Pod,
        spec: &v1::Volume,
        pod_dir: &Path,
        facts: &Facts,
        slot: &mut Slot,
        max_age: Duration,
        deadline: Instant,
    ) {
        if slot.mounted.is_some() {
            return self.refresh(pod, spec, pod_dir, facts, slot, max_age).await;
        }
        loop {
            if let Some(at) = slot.next_try {
                tokio::select! {
                    () = tokio::time::sleep_until(at.min(deadline)) => {}
                    () = self.objects.changed() => {}
                }
                if Instant::now() >= deadline && at > deadline {
                    return;
                }
            }
            let until = deadline.max(Instant::now() + ONE_TRY);
            let tried =
                tokio::time::timeout_at(until, self.set_up(pod, spec, pod_dir, facts, &mut slot.spec_name));
            match tried.await {
                Ok(Ok(mounted)) => {
                    *slot = Slot {
                        spec_name: std::mem::take(&mut slot.spec_name),
                        mounted: Some(mounted),
                        fresh_at: Some(Instant::now()),
                        ..Slot::default()
                    };
                    return;
                }
                Ok(Err(error)) => {
                    let unprocessed = matches!(error, Error::Unprocessed(_));
                    self.note_failure(pod, spec, slot, error);
                    if unprocessed {
                        return;
                    }
                }
                Err(_) => {
                    let text = "context deadline exceeded".to_string();
                    slot.last = Some(Trouble { unprocessed: false, unattached: true, text });
                    return;
                }
            }
            if Instant::now() >= deadline {
                return;
            }
        }
    }

    fn note_failure(&self, pod: &Pod, spec: &v1::Volume, slot: &mut Slot, error: Error) {
        let pause = (FIRST_PAUSE * 2u32.pow(slot.failures.min(8))).min(LONGEST_PAUSE);
        slot.failures += 1;
        slot.next_try = Some(Instant::now() + pause);
        let (unprocessed, unattached) =
            (matches!(error, Error::Unprocessed(_)), matches!(error, Error::Unattached(_)));
        let text = error.to_string();
        if !unprocessed && !unattached {
            let step = match &error {
                Error::Step(step, _) => step,
                _ => "MountVolume.SetUp",
            };
            let name = if slot.spec_name.is_empty() { &spec.name } else { &slot.spec_name };
            let message = format!("{step} failed for volume {name:?} : {text}");
            let reason = if step.starts_with("MapVolume") { "FailedMapVolume" } else { "FailedMount" };
            tracing::warn!(pod = pod.metadata.name, message, "Volume is not ready");
            self.recorder.pod(pod, "Warning", reason, &message);
        }
        slot.last = Some(Trouble { unprocessed, unattached, text });
    }

    async fn set_up(
        self: &Arc<Self>,
        pod: &Pod,
        spec: &v1::Volume,
        pod_dir: &Path,
        facts: &Facts,
        spec_name: &mut String,
    ) -> Result<Mounted> {
        let found = source::find(spec, pod, self.objects.as_ref()).await?;
        spec_name.clone_from(&found.name);
        let Found { name, volume, read_only, block, claim } = found;
        let setup = Setup { pod, name: &name, pod_dir, facts, manager: self };
        let began = std::time::Instant::now();
        let made = volume.set_up(&setup).await;
        let plugin = made.as_ref().ok().and_then(|path| layout::plugin_of(path));
        let plugin = plugin.unwrap_or_else(|| source::plugin(spec).to_string());
        let operation = if block { "map_volume" } else { "volume_mount" };
        self.recorder.operation(operation, &plugin, made.is_ok(), began.elapsed());
        let path = made?;
        Ok(Mounted { path, read_only, refreshes: volume.refreshes(), block, claim })
    }

    /// Brings a ready volume up to date. A failure is told, but what is there stays as it was.
    async fn refresh(
        self: &Arc<Self>,
        pod: &Pod,
        spec: &v1::Volume,
        pod_dir: &Path,
        facts: &Facts,
        slot: &mut Slot,
        max_age: Duration,
    ) {
        let due = slot.fresh_at.is_none_or(|at| at.elapsed() >= max_age);
        let held = slot.next_try.is_some_and(|at| at > Instant::now());
        if !due || held || !slot.mounted.as_ref().is_some_and(|m| m.refreshes) {
            return;
        }
        let done = async {
            let found = source::find(spec, pod, self.objects.as_ref()).await?;
            let setup = Setup { pod, name: &found.name, pod_dir, facts, manager: self };
            found.volume.refresh(&setup).await
        };
        match done.await {
            Ok(()) => {
                slot.fresh_at = Some(Instant::now());
                slot.failures = 0;
                slot.next_try = None;
            }
            Err(error) => self.note_failure(pod, spec, slot, error),
        }
    }

    /// The drivers of those volumes of a pod that cannot be attached for want of room on the node, as far as their
    /// drivers want to be asked how much there is.
    pub async fn exhausted(&self, state: &PodVolumes) -> BTreeSet<String> {
        let unattached = state.slots.values().filter(|slot| slot.mounted.is_none());
        let unattached = unattached.filter(|slot| slot.last.as_ref().is_some_and(|t| t.unattached));
        let mut drivers = BTreeSet::new();
        for slot in unattached {
            let Ok(volume) = self.objects.persistent_volume(&slot.spec_name).await else { continue };
            let Some(csi) = volume.spec.as_ref().and_then(|s| s.csi.as_ref()) else { continue };
            let driver = self.objects.csi_driver(&csi.driver).await.ok().flatten();
            let period = driver.and_then(|d| d.spec.node_allocatable_update_period_seconds).unwrap_or(0);
            let name = csi::attachment_name(&csi.volume_handle, &csi.driver, &self.node_name);
            if period > 0 && self.objects.node_is_full(&name).await.unwrap_or(false) {
                drivers.insert(csi.driver.clone());
            }
        }
        drivers
    }

    /// Takes all volumes of a pod down. Safe to call again after a failure, and for pods that nobody knows any more.
    pub async fn tear_down(self: &Arc<Self>, uid: &str) -> Result<()> {
        let dir = layout::pod_dir(&self.root, uid);
        let plain = dir.clone();
        blocking(move || teardown::subpaths(&plain)).await?;
        csi::tear_down_pod(self, uid).await?;
        let root = self.root.clone();
        let plain = dir.clone();
        blocking(move || teardown::volumes(&root, &plain)).await?;
        crate::iscsi::tear_down_unused(self).await?;
        self.mounted.lock().remove(uid);
        self.release(uid);
        Ok(())
    }

    /// The volumes of a pod that are ready.
    pub fn mounted(&self, uid: &str) -> BTreeMap<String, Mounted> {
        self.mounted.lock().get(uid).cloned().unwrap_or_default()
    }

    /// What the node's status calls in use. `before` is what it said before this kubelet started: of volumes that
    /// are only known from the disk it says whether they are of the kind that is attached.
    pub fn in_use(&self, before: &[String]) -> Vec<String> {
        let devices = self.devices.lock();
        let used = devices.iter().filter(|(name, device)| {
            (device.staged || !device.pods.is_empty())
                && device.attachable.unwrap_or_else(|| before.contains(name))
        });
        used.map(|(name, _)| name.clone()).collect()
    }

    pub(crate) fn device<T>(&self, name: &str, change: impl FnOnce(&mut Device) -> T) -> T {
        let mut devices = self.devices.lock();
        let device = devices.entry(name.to_string()).or_default();
        let before = (device.attachable, device.staged || !device.pods.is_empty());
        let result = change(device);
        let after = (device.attachable, device.staged || !device.pods.is_empty());
        if !after.1 {
            devices.remove(name);
        }
        if before != after {
            self.in_use_changed.notify_one();
        }
        result
    }

    /// The pods that use a device.
    pub(crate) fn users(&self, name: &str) -> HashSet<String> {
        self.devices.lock().get(name).map(|d| d.pods.clone()).unwrap_or_default()
    }

    /// Forgets a pod that wanted volumes but may never have got them.
    fn release(&self, uid: &str) {
        let names: BTreeSet<String> = {
            let devices = self.devices.lock();
            devices.iter().filter(|(_, d)| d.pods.contains(uid)).map(|(name, _)| name.clone()).collect()
        };
        for name in names {
            self.device(&name, |device| device.pods.remove(uid));
        }
    }

    /// Only one at a time works on a device.
    pub(crate) async fn lock(&self, device: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock();
            locks.retain(|_, lock| lock.strong_count() > 0);
            match locks.get(device).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(tokio::sync::Mutex::new(()));
                    locks.insert(device.to_string(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}

/// Runs what blocks beside the tasks.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::other(e.to_string()))?
}

fn not_ready(pod: &Pod, state: &PodVolumes) -> NotReady {
    let troubled = |want: &dyn Fn(&Slot) -> bool| {
        let names = specs(pod).filter(|s| state.slots.get(&s.name).is_some_and(want));
        let mut names: Vec<&str> = names.map(|s| s.name.as_str()).collect();
        names.sort_unstable();
        names.join(" ")
    };
    let last =
        |want: fn(&Trouble) -> bool| move |s: &Slot| s.mounted.is_none() && s.last.as_ref().is_some_and(want);
    let unmounted = troubled(&|slot| slot.mounted.is_none());
    let unattached = troubled(&last(|t| t.unattached));
    let unprocessed = troubled(&last(|t| t.unprocessed));
    let errors: Vec<&str> = state
        .slots
        .values()
        .filter(|s| s.mounted.is_none())
        .filter_map(|s| s.last.as_ref().filter(|t| t.unprocessed).map(|t| t.text.as_str()))
        .collect();
    let why = if errors.is_empty() { "context deadline exceeded".to_string() } else { errors.join("; ") };
    NotReady(format!(
        "unmounted volumes=[{unmounted}], unattached volumes=[{unattached}], failed to process volumes=[{unprocessed}]: {why}"
    ))
}

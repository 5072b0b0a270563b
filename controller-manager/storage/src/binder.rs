//! persistentvolume-binder-controller: binds claims to volumes, one to one, and says what became of each.
//!
//! A binding is four writes (volume, its status, claim, its status); each is made only if it is missing, so
//! that it goes on from wherever it was left.

pub(crate) mod matching;

use std::fmt;
use std::sync::Arc;

use controller_kit::meta::MetaExt;
use controller_kit::{Context, Events, Key, Queue, Requeue, Shared, errors};
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::api::PostParams;

use matching::{claim_class, refers_to};

const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_US: &str = "pv.kubernetes.io/bound-by-controller";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const BETA_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

#[derive(Clone, PartialEq, Eq, Hash)]
enum Task {
    Claim(Key),
    Volume(String),
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Task::Claim(key) => write!(f, "claim {key}"),
            Task::Volume(name) => write!(f, "volume {name}"),
        }
    }
}

struct Controller {
    ctx: Context,
    events: Events,
    queue: Queue<Task>,
    claims: Arc<Shared<PersistentVolumeClaim>>,
    volumes: Arc<Shared<PersistentVolume>>,
    classes: Arc<Shared<StorageClass>>,
    pods: Arc<Shared<Pod>>,
}

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let controller = Controller {
        events: ctx.events("persistentvolume-controller"),
        queue: Queue::new(),
        claims: ctx.informer(),
        volumes: ctx.informer(),
        classes: ctx.informer(),
        pods: ctx.informer(),
        ctx,
    };
    controller.claims.synced().await;
    controller.volumes.synced().await;
    controller.classes.synced().await;
    controller.pods.synced().await;
    controller.watch();
    // One worker: two claims must never be given the same volume.
    let workers = controller.ctx.workers("persistentvolume-binder", "pv-binder", 1);
    let c = &controller;
    let queue = controller.queue.clone();
    workers.run(queue, |task| async move { c.reconcile(task).await }).await;
    Ok(())
}

fn unbound(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Bound")
}

impl Controller {
    fn watch(&self) {
        let q = self.queue.clone();
        self.claims.watch(move |change| {
            let claim = change.object();
            if !change.deleted() {
                q.add(Task::Claim(claim.key()));
            }
            if let Some(volume) =
                claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|v| !v.is_empty())
            {
                q.add(Task::Volume(volume));
            }
        });
        let (q, cache) = (self.queue.clone(), self.claims.clone());
        self.volumes.watch(move |change| {
            let volume = change.object();
            q.add(Task::Volume(volume.name().to_owned()));
            match volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) {
                Some(r) => q.add(Task::Claim(Key::new(
                    r.namespace.clone().unwrap_or_default(),
                    r.name.clone().unwrap_or_default(),
                ))),
                // A free volume may be what some claim waits for.
                None => cache.list().iter().filter(|c| unbound(c)).for_each(|c| q.add(Task::Claim(c.key()))),
            }
        });
        let (q, cache) = (self.queue.clone(), self.claims.clone());
        self.classes.watch(move |change| {
            if !change.deleted() {
                cache.list().iter().filter(|c| unbound(c)).for_each(|c| q.add(Task::Claim(c.key())));
            }
        });
    }

    async fn reconcile(&self, task: Task) -> anyhow::Result<Requeue> {
        match task {
            Task::Claim(key) => {
                if let Some(claim) = self.claims.get(&key) {
                    self.claim((*claim).clone()).await?;
                }
            }
            Task::Volume(name) => {
                if let Some(volume) = self.volumes.get(&Key::cluster(name)) {
                    self.volume(&volume).await?;
                }
            }
        }
        Ok(None)
    }

    async fn claim(&self, claim: PersistentVolumeClaim) -> anyhow::Result<()> {
        let volume_name = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|v| !v.is_empty());
        if claim.annotation(BIND_COMPLETED).is_some() {
            return self.bound_claim(claim, volume_name).await;
        }
        let Some(name) = volume_name else { return self.unbound_claim(claim).await };
        // A user, or a half-done binding, named the volume.
        match self.volumes.get(&Key::cluster(&name)) {
            Some(volume) => {
                let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.clone());
                if reference.is_none_or(|r| refers_to(&r, &claim)) {
                    return self.bind(&volume, claim).await;
                }
                self.claim_phase(claim, "Pending", None).await
            }
            None => self.claim_phase(claim, "Pending", None).await,
        }
    }

    async fn bound_claim(&self, claim: PersistentVolumeClaim, volume: Option<String>) -> anyhow::Result<()> {
        let lost = |reason: &'static str, text: &'static str| Some((reason, text));
        let Some(name) = volume else {
            let why = lost(
                "ClaimLost",
                "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
            );
            return self.claim_phase(claim, "Lost", why).await;
        };
        let volume = match self.volumes.get(&Key::cluster(&name)) {
            Some(volume) => volume,
            None => {
                // Only the server knows: losing a claim cannot be taken back.
                let api: Api<PersistentVolume> = Api::all(self.ctx.client.clone());
                match errors::optional(api.get(&name).await)? {
                    Some(volume) => Arc::new(volume),
                    None => {
                        let why = lost(
                            "ClaimLost",
                            "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
                        );
                        return self.claim_phase(claim, "Lost", why).await;
                    }
                }
            }
        };
        match volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) {
            Some(r) if r.uid.as_deref() != Some(claim.uid()) && !refers_to(r, &claim) => {
                let why = lost(
                    "ClaimMisbound",
                    "Two claims are bound to the same volume, this one is bound incorrectly",
                );
                self.claim_phase(claim, "Lost", why).await
            }
            _ => self.bind(&volume, claim).await,
        }
    }

    async fn unbound_claim(&self, mut claim: PersistentVolumeClaim) -> anyhow::Result<()> {
        if claim.deleting() {
            return Ok(());
        }
        if claim_class(&claim).is_none()
            && let Some(class) = self.default_class()
        {
            claim.spec.get_or_insert_default().storage_class_name = Some(class);
            let api: Api<PersistentVolumeClaim> = Api::namespaced(self.ctx.client.clone(), claim.ns());
            claim = api.replace(claim.name(), &PostParams::default(), &claim).await?;
        }
        let class_name = claim_class(&claim).unwrap_or_default().to_owned();
        let class = self.classes.get(&Key::cluster(&class_name));
        let waits =
            class.as_ref().is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
                && claim.annotation(SELECTED_NODE).is_none();
        let volumes = self.volumes.list();
        let found = matching::best(&claim, &volumes);
        let meant = found.as_ref().is_some_and(|v| v.spec.as_ref().is_some_and(|s| s.claim_ref.is_some()));
        if let Some(volume) = found.filter(|_| !waits || meant) {
            return self.bind(&volume, claim).await;
        }
        if waits {
            let (reason, text) = self.waiting_for(&claim);
            self.events.normal(&claim, reason, text);
        } else if class_name.is_empty() {
            let text = "no persistent volumes available for this claim and no storage class is set";
            self.events.normal(&claim, "FailedBinding", text);
        } else {
            match class {
                None => {
                    let text = format!("storageclass.storage.k8s.io \"{class_name}\" not found");
                    self.events.warning(&claim, "ProvisioningFailed", text);
                }
                Some(class) => claim = self.provision(claim, &class).await?,
            }
        }
        self.claim_phase(claim, "Pending", None).await
    }

    /// The newest class that is marked as default.
    fn default_class(&self) -> Option<String> {
        let all = self.classes.list();
        let marked = all.iter().filter(|c| c.annotation(DEFAULT_CLASS) == Some("true"));
        marked
            .max_by_key(|c| (c.created(), std::cmp::Reverse(c.name().to_owned())))
            .map(|c| c.name().to_owned())
    }

    fn waiting_for(&self, claim: &PersistentVolumeClaim) -> (&'static str, String) {
        let pods = self.pods.namespace(claim.ns());
        let user = pods
            .iter()
            .find(|p| crate::protection::uses(p, claim.name()) && !controller_kit::pod::finished(p));
        match user.filter(|p| controller_kit::pod::node(p).is_empty()) {
            Some(pod) => ("WaitForPodScheduled", format!("waiting for pod {} to be scheduled", pod.name())),
            None => {
                ("WaitForFirstConsumer", "waiting for first consumer to be created before binding".into())
            }
        }
    }

    /// Asks the class's provisioner for a volume, which runs elsewhere.
    async fn provision(
        &self,
        mut claim: PersistentVolumeClaim,
        class: &StorageClass,
    ) -> anyhow::Result<PersistentVolumeClaim> {
        let provisioner = class.provisioner.clone();
        if provisioner == NO_PROVISIONER {
            let text = "no persistent volumes available for this claim and no storage class is set";
            self.events.normal(&claim, "FailedBinding", text);
            return Ok(claim);
        }
        let annotations = claim.metadata.annotations.get_or_insert_default();
        let noted = annotations.get(PROVISIONER) == Some(&provisioner)
            && annotations.get(BETA_PROVISIONER) == Some(&provisioner);
        if !noted {
            annotations.insert(PROVISIONER.into(), provisioner.clone());
            annotations.insert(BETA_PROVISIONER.into(), provisioner.clone());
            let api: Api<PersistentVolumeClaim> = Api::namespaced(self.ctx.client.clone(), claim.ns());
            claim = api.replace(claim.name(), &PostParams::default(), &claim).await?;
        }
        let text = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
        );
        self.events.normal(&claim, "ExternalProvisioning", text);
        Ok(claim)
    }

    async fn claim_phase(
        &self,
        mut claim: PersistentVolumeClaim,
        phase: &str,
        why: Option<(&str, &str)>,
    ) -> anyhow::Result<()> {
        let status = claim.status.get_or_insert_default();
        if status.phase.as_deref() == Some(phase) {
            return Ok(());
        }
        status.phase = Some(phase.to_owned());
        if phase != "Bound" {
            status.access_modes = None;
            status.capacity = None;
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.ctx.client.clone(), claim.ns());
        errors::optional(api.replace_status(claim.name(), &PostParams::default(), &claim).await)?;
        if let Some((reason, text)) = why {
            self.events.warning(&claim, reason, text);
        }
        Ok(())
    }

    async fn bind(&self, volume: &PersistentVolume, claim: PersistentVolumeClaim) -> anyhow::Result<()> {
        let volume = self.point_volume(volume, &claim).await?;
        let volume = self.volume_phase(volume, "Bound").await?;
        let claim = self.point_claim(claim, &volume).await?;
        let mut next = claim.clone();
        let spec = volume.spec.clone().unwrap_or_default();
        let status = next.status.get_or_insert_default();
        let first = status.phase.as_deref() != Some("Bound");
        status.phase = Some("Bound".into());
        status.access_modes = spec.access_modes;
        // Later the node's or the driver's word on the size counts.
        if first || status.capacity.is_none() {
            status.capacity = spec.capacity;
        }
        status.current_volume_attributes_class_name =
            spec.volume_attributes_class_name.filter(|n| !n.is_empty());
        if next.status != claim.status {
            let api: Api<PersistentVolumeClaim> = Api::namespaced(self.ctx.client.clone(), claim.ns());
            errors::optional(api.replace_status(claim.name(), &PostParams::default(), &next).await)?;
        }
        Ok(())
    }

    async fn point_volume(
        &self,
        volume: &PersistentVolume,
        claim: &PersistentVolumeClaim,
    ) -> anyhow::Result<PersistentVolume> {
        let old = volume.spec.as_ref().and_then(|s| s.claim_ref.clone());
        if old.as_ref().is_some_and(|r| r.uid.as_deref() == Some(claim.uid())) {
            return Ok(volume.clone());
        }
        let mut next = volume.clone();
        if old.is_none() {
            next.metadata.annotations.get_or_insert_default().insert(BOUND_BY_US.into(), "yes".into());
        }
        next.spec.get_or_insert_default().claim_ref = Some(ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("PersistentVolumeClaim".into()),
            namespace: claim.metadata.namespace.clone(),
            name: claim.metadata.name.clone(),
            uid: claim.metadata.uid.clone(),
            resource_version: claim.metadata.resource_version.clone(),
            field_path: None,
        });
        let api: Api<PersistentVolume> = Api::all(self.ctx.client.clone());
        Ok(api.replace(volume.name(), &PostParams::default(), &next).await?)
    }

    async fn point_claim(
        &self,
        claim: PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> anyhow::Result<PersistentVolumeClaim> {
        let named = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()) == Some(volume.name());
        if named && claim.annotation(BIND_COMPLETED).is_some() {
            return Ok(claim);
        }
        let mut next = claim.clone();
        let annotations = next.metadata.annotations.get_or_insert_default();
        annotations.insert(BIND_COMPLETED.into(), "yes".into());
        if !named {
            annotations.insert(BOUND_BY_US.into(), "yes".into());
        }
        next.spec.get_or_insert_default().volume_name = Some(volume.name().to_owned());
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.ctx.client.clone(), claim.ns());
        Ok(api.replace(claim.name(), &PostParams::default(), &next).await?)
    }

    async fn volume_phase(&self, volume: PersistentVolume, phase: &str) -> anyhow::Result<PersistentVolume> {
        if volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some(phase) {
            return Ok(volume);
        }
        let mut next = volume;
        let status = next.status.get_or_insert_default();
        status.phase = Some(phase.to_owned());
        status.message = None;
        status.reason = None;
        status.last_phase_transition_time = Some(controller_kit::now_time());
        let api: Api<PersistentVolume> = Api::all(self.ctx.client.clone());
        let name = next.name().to_owned();
        Ok(errors::optional(api.replace_status(&name, &PostParams::default(), &next).await)?.unwrap_or(next))
    }

    async fn volume(&self, volume: &PersistentVolume) -> anyhow::Result<()> {
        let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.clone());
        let Some(reference) = reference else {
            self.volume_phase(volume.clone(), "Available").await?;
            return Ok(());
        };
        if reference.uid.as_deref().is_none_or(str::is_empty) {
            self.volume_phase(volume.clone(), "Available").await?;
            return Ok(());
        }
        let key = Key::new(
            reference.namespace.clone().unwrap_or_default(),
            reference.name.clone().unwrap_or_default(),
        );
        let mut claim = self.claims.get(&key).map(|c| (*c).clone());
        if claim.as_ref().is_none_or(|c| Some(c.uid()) != reference.uid.as_deref()) {
            // A volume is given up only on the server's word.
            let api: Api<PersistentVolumeClaim> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
            claim = errors::optional(api.get(&key.name).await)?;
        }
        match claim.filter(|c| Some(c.uid()) == reference.uid.as_deref()) {
            None => self.release(volume).await,
            Some(claim) => {
                match claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default() {
                    "" => {
                        self.queue.add(Task::Claim(key));
                        Ok(())
                    }
                    name if name == volume.name() => {
                        self.volume_phase(volume.clone(), "Bound").await.map(|_| ())
                    }
                    // The claim went elsewhere.
                    _ if volume.annotation(BOUND_BY_US).is_some() => self.unbind(volume).await,
                    _ => self.volume_phase(volume.clone(), "Available").await.map(|_| ()),
                }
            }
        }
    }

    async fn unbind(&self, volume: &PersistentVolume) -> anyhow::Result<()> {
        let mut next = volume.clone();
        next.spec.get_or_insert_default().claim_ref = None;
        next.metadata.annotations.get_or_insert_default().remove(BOUND_BY_US);
        let api: Api<PersistentVolume> = Api::all(self.ctx.client.clone());
        let Some(next) = errors::optional(api.replace(volume.name(), &PostParams::default(), &next).await)?
        else {
            return Ok(());
        };
        self.volume_phase(next, "Available").await?;
        Ok(())
    }

    /// Its claim is gone. What provisioned the volume also deletes it; what it holds is kept otherwise.
    async fn release(&self, volume: &PersistentVolume) -> anyhow::Result<()> {
        let volume = self.volume_phase(volume.clone(), "Released").await?;
        let policy = volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
        if policy == Some("Recycle") {
            self.events.warning(
                &volume,
                "VolumeUnknownReclaimPolicy",
                "Volume has an unrecognized PersistentVolumeReclaimPolicy",
            );
        }
        Ok(())
    }
}

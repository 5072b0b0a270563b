//! garbage-collector-controller: objects whose owners are gone go too, in the order their owners asked for.
//!
//! A graph of owner references over every deletable resource is kept from metadata watches. It only says
//! where to look: before anything is deleted, the object and its owners are read from the server, and the
//! deletion names the uid that was read.

mod graph;
mod monitor;

use std::collections::VecDeque;
use std::sync::Arc;

use controller_kit::discovery::Discovery;
use controller_kit::meta::MetaExt;
use controller_kit::{Context, Queue, Requeue, errors};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{
    DeleteParams, DynamicObject, PartialObjectMeta, Patch, PatchParams, Preconditions, PropagationPolicy,
};
use kube::{Api, Client};
use parking_lot::{Mutex, RwLock};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use graph::{FOREGROUND, Graph, Identity, Node, ORPHAN, Owners, Uid, Verdict, Work};

type Object = PartialObjectMeta<DynamicObject>;

/// Uids known to be gone for good, so that a thousand children of one owner ask for it once.
#[derive(Default)]
pub(crate) struct Absent(Mutex<(std::collections::HashSet<Uid>, VecDeque<Uid>)>);

impl Absent {
    fn insert(&self, uid: &str) {
        let mut inner = self.0.lock();
        let uid: Uid = uid.into();
        if !inner.0.insert(uid.clone()) {
            return;
        }
        inner.1.push_back(uid);
        if inner.1.len() > 500
            && let Some(oldest) = inner.1.pop_front()
        {
            inner.0.remove(&oldest);
        }
    }

    fn contains(&self, uid: &str) -> bool {
        self.0.lock().0.contains(uid)
    }
}

pub(crate) struct Collector {
    client: Client,
    graph: Mutex<Graph>,
    resources: RwLock<Discovery>,
    resources_changed: Notify,
    absent: Absent,
    delete: Queue<String>,
    orphan: Queue<String>,
    shutdown: CancellationToken,
}

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let collector = Arc::new(Collector {
        client: ctx.client.clone(),
        graph: Mutex::default(),
        resources: RwLock::default(),
        resources_changed: Notify::new(),
        absent: Absent::default(),
        delete: Queue::new(),
        orphan: Queue::new(),
        shutdown: ctx.shutdown.clone(),
    });
    let (ready, mut is_ready) = watch::channel(false);
    let monitors = tokio::spawn(monitor::keep(collector.clone(), ready, ctx.shutdown.clone()));
    tokio::select! {
        () = ctx.shutdown.cancelled() => {}
        _ = is_ready.wait_for(|ready| *ready) => {}
    }
    let deleters = ctx.workers("garbage-collector", "gc", 20);
    let orphaners = ctx.workers("garbage-collector-orphans", "gc", 20);
    let c = &collector;
    tokio::join!(
        deleters.run(collector.delete.clone(), |uid| async move { c.attempt_delete(&uid).await }),
        orphaners.run(collector.orphan.clone(), |uid| async move { c.attempt_orphan(&uid).await }),
    );
    monitors.await?;
    Ok(())
}

impl Collector {
    fn enqueue(&self, work: Work) {
        work.delete.into_iter().for_each(|uid| self.delete.add(uid.to_string()));
        work.orphan.into_iter().for_each(|uid| self.orphan.add(uid.to_string()));
    }

    /// The API of a kind, at the place of an object; `None` where the kind is not served.
    fn api(&self, api_version: &str, kind: &str, namespace: &str) -> Option<(Api<DynamicObject>, bool)> {
        let resources = self.resources.read();
        let found = resources.by_kind(api_version, kind)?;
        let dynamic = found.dynamic();
        let api = if found.namespaced && !namespace.is_empty() {
            Api::namespaced_with(self.client.clone(), namespace, &dynamic)
        } else {
            Api::all_with(self.client.clone(), &dynamic)
        };
        Some((api, found.namespaced))
    }

    fn api_of(&self, id: &Identity) -> anyhow::Result<Option<Api<DynamicObject>>> {
        match self.api(&id.api_version, &id.kind, &id.namespace) {
            // A namespaced kind named by a cluster-scoped object is nowhere to be found.
            Some((_, true)) if id.namespace.is_empty() => Ok(None),
            Some((api, _)) => Ok(Some(api)),
            None => {
                self.resources_changed.notify_one();
                anyhow::bail!("no resource is known for {} {}", id.api_version, id.kind)
            }
        }
    }

    async fn attempt_delete(&self, uid: &str) -> anyhow::Result<Requeue> {
        let Some(node) = self.graph.lock().nodes.get(uid).cloned() else { return Ok(None) };
        if node.deleting && !node.waits {
            return Ok(None);
        }
        let Some(api) = self.api_of(&node.identity)? else { return Ok(None) };
        let live = errors::optional(api.get_metadata(&node.identity.name).await)?;
        let Some(live) = live.filter(|o| o.uid() == uid) else {
            self.absent.insert(uid);
            let work = self.graph.lock().forget(uid);
            self.enqueue(work);
            return Ok(None);
        };
        if node.waits {
            return self.release_when_alone(uid, &node, &api, &live).await;
        }
        let references = live.metadata.owner_references.clone().unwrap_or_default();
        if references.is_empty() {
            return Ok(None);
        }
        let Some(owners) = self.classify(references, &node.identity).await? else { return Ok(None) };
        match graph::judge(&owners, !node.dependents.is_empty()) {
            Verdict::Keep => {}
            Verdict::DropOwners(gone) => self.drop_owners(&api, &live, &gone).await?,
            Verdict::DeleteForeground => {
                self.break_circle(uid, &node).await?;
                self.delete(&api, &live, PropagationPolicy::Foreground).await?;
            }
            Verdict::Delete => self.delete(&api, &live, policy(&live)).await?,
        }
        Ok(None)
    }

    /// An owner that waits goes when nothing blocks it; until then its dependents are seen to.
    async fn release_when_alone(
        &self,
        uid: &str,
        node: &Node,
        api: &Api<DynamicObject>,
        live: &Object,
    ) -> anyhow::Result<Requeue> {
        let (blocking, idle): (Vec<Uid>, Vec<Uid>) = {
            let graph = self.graph.lock();
            let blocking = graph.blocking(uid);
            let idle =
                blocking.iter().filter(|d| graph.nodes.get(*d).is_some_and(|n| !n.waits)).cloned().collect();
            (blocking, idle)
        };
        if blocking.is_empty() {
            self.remove_finalizer(api, live, FOREGROUND).await?;
            return Ok(None);
        }
        tracing::debug!(object = %node.identity.name, blocking = blocking.len(), "waits for its dependents");
        idle.into_iter().for_each(|d| self.delete.add(d.to_string()));
        Ok(None)
    }

    /// Sorts owners by what the server says of them; `None` when an owner can never be resolved.
    async fn classify(
        &self,
        references: Vec<OwnerReference>,
        child: &Identity,
    ) -> anyhow::Result<Option<Owners>> {
        let mut owners = Owners::default();
        for reference in references {
            if self.absent.contains(&reference.uid) {
                owners.dangling.push(reference);
                continue;
            }
            let id = Identity {
                api_version: reference.api_version.as_str().into(),
                kind: reference.kind.as_str().into(),
                namespace: child.namespace.clone(),
                name: reference.name.as_str().into(),
            };
            let Some(api) = self.api_of(&id)? else {
                tracing::warn!(object = %child.name, owner = %reference.name, "a cluster-scoped object cannot have a namespaced owner");
                return Ok(None);
            };
            match errors::optional(api.get_metadata(&reference.name).await)? {
                Some(owner) if owner.uid() == reference.uid => {
                    if owner.deleting() && owner.has_finalizer(FOREGROUND) {
                        owners.waiting.push(reference);
                    } else {
                        owners.solid.push(reference);
                    }
                }
                _ => {
                    self.absent.insert(&reference.uid);
                    owners.dangling.push(reference);
                }
            }
        }
        Ok(Some(owners))
    }

    /// Objects that own each other in a circle and are all deleted in the foreground would wait for ever:
    /// a dependent that waits itself no longer blocks anyone.
    async fn break_circle(&self, uid: &str, node: &Node) -> anyhow::Result<()> {
        let circular = {
            let graph = self.graph.lock();
            node.dependents.iter().any(|d| graph.nodes.get(d).is_some_and(|n| n.waits))
        };
        if !circular {
            return Ok(());
        }
        let Some(api) = self.api_of(&node.identity)? else { return Ok(()) };
        let owners: Vec<Value> = node
            .owners
            .iter()
            .map(|o| {
                let mut o = o.clone();
                o.block_owner_deletion = Some(false);
                json!(o)
            })
            .collect();
        let patch = json!({"metadata": {"ownerReferences": owners, "uid": uid}});
        self.patch(&api, &node.identity.name, &patch).await
    }

    async fn drop_owners(
        &self,
        api: &Api<DynamicObject>,
        live: &Object,
        gone: &[String],
    ) -> anyhow::Result<()> {
        let left: Vec<_> =
            live.metadata.owner_references.iter().flatten().filter(|o| !gone.contains(&o.uid)).collect();
        let patch = json!({"metadata": {"ownerReferences": left, "uid": live.uid(),
            "resourceVersion": live.metadata.resource_version}});
        self.patch(api, live.name(), &patch).await
    }

    async fn remove_finalizer(
        &self,
        api: &Api<DynamicObject>,
        live: &Object,
        finalizer: &str,
    ) -> anyhow::Result<()> {
        let left: Vec<_> = live.metadata.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
        if left.len() == live.metadata.finalizers.as_ref().map_or(0, Vec::len) {
            return Ok(());
        }
        let patch = json!({"metadata": {"finalizers": left, "uid": live.uid(),
            "resourceVersion": live.metadata.resource_version}});
        self.patch(api, live.name(), &patch).await
    }

    async fn patch(&self, api: &Api<DynamicObject>, name: &str, patch: &Value) -> anyhow::Result<()> {
        let patched = api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        match patched {
            Err(error) if !errors::not_found(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn delete(
        &self,
        api: &Api<DynamicObject>,
        live: &Object,
        policy: PropagationPolicy,
    ) -> anyhow::Result<()> {
        tracing::debug!(object = %live.key(), uid = live.uid(), ?policy, "deleting");
        let only = Preconditions {
            uid: live.metadata.uid.clone(),
            resource_version: live.metadata.resource_version.clone(),
        };
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(only),
            ..DeleteParams::default()
        };
        errors::optional(api.delete(live.name(), &params).await)?;
        Ok(())
    }

    /// Frees every dependent of an owner and then the owner itself.
    async fn attempt_orphan(&self, uid: &str) -> anyhow::Result<Requeue> {
        let Some(node) = self.graph.lock().nodes.get(uid).cloned() else { return Ok(None) };
        for dependent in &node.dependents {
            let Some(child) = self.graph.lock().nodes.get(dependent).cloned() else { continue };
            let Some(api) = self.api_of(&child.identity)? else { continue };
            let Some(live) = errors::optional(api.get_metadata(&child.identity.name).await)? else {
                continue;
            };
            let owned = live.metadata.owner_references.iter().flatten().any(|o| o.uid == uid);
            if live.uid() == &**dependent && owned {
                self.drop_owners(&api, &live, &[uid.to_owned()]).await?;
            }
        }
        let Some(api) = self.api_of(&node.identity)? else { return Ok(None) };
        let live = errors::optional(api.get_metadata(&node.identity.name).await)?;
        if let Some(live) = live.filter(|o| o.uid() == uid) {
            self.remove_finalizer(&api, &live, ORPHAN).await?;
        }
        Ok(None)
    }
}

/// The policy an earlier delete of the object asked for.
fn policy(live: &Object) -> PropagationPolicy {
    if live.has_finalizer(ORPHAN) {
        PropagationPolicy::Orphan
    } else if live.has_finalizer(FOREGROUND) {
        PropagationPolicy::Foreground
    } else {
        PropagationPolicy::Background
    }
}

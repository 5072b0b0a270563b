//! Adoption and release: which objects a controller may call its own.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::errors;
use crate::informer::Shared;
use crate::meta::{Labels, MetaExt, controller_of};

/// What can be claimed: a namespaced object.
pub trait Claimable:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + DeserializeOwned
    + Debug
    + Send
    + Sync
    + 'static
{
}
impl<K> Claimable for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static
{
}

/// Who claims.
pub struct Claimant<'a, O> {
    pub client: &'a Client,
    pub owner: &'a O,
    pub reference: OwnerReference,
    pub selector: Labels,
    /// A finalizer that adoption adds and release takes away, as jobs do.
    pub finalizer: Option<&'static str>,
}

enum Decision {
    Keep,
    Adopt,
    Release,
    Ignore,
}

impl<O: Claimable> Claimant<'_, O> {
    /// Every object of the owner's namespace that is or becomes its own; objects that no longer match are
    /// released. An object that vanishes or is claimed by another meanwhile is left out.
    pub async fn claim<K: Claimable>(&self, cache: &Shared<K>) -> anyhow::Result<Vec<Arc<K>>> {
        let mut candidates = cache.owned(self.owner.uid());
        candidates.extend(cache.orphans(self.owner.ns()));
        let mut own = Vec::new();
        let mut may_adopt = None;
        for object in candidates {
            match self.decide(&*object) {
                Decision::Keep => own.push(object),
                Decision::Release => self.release(&*object).await?,
                Decision::Ignore => {}
                Decision::Adopt => {
                    let allowed = match may_adopt {
                        Some(known) => known,
                        None => *may_adopt.insert(self.still_there().await?),
                    };
                    anyhow::ensure!(
                        allowed,
                        "{} is gone or being deleted, it adopts nothing",
                        self.owner.key()
                    );
                    if let Some(adopted) = self.adopt(&*object).await? {
                        own.push(Arc::new(adopted));
                    }
                }
            }
        }
        Ok(own)
    }

    fn decide<K: Claimable>(&self, object: &K) -> Decision {
        let matches = self.selector.matches(object.m().labels.as_ref());
        match controller_of(object.m()) {
            Some(owner) if owner.uid == self.owner.uid() && matches => Decision::Keep,
            Some(owner) if owner.uid == self.owner.uid() && !self.owner.deleting() => Decision::Release,
            Some(_) => Decision::Ignore,
            None if matches && !self.owner.deleting() && !object.deleting() => Decision::Adopt,
            None => Decision::Ignore,
        }
    }

    /// The cache may be old: only the server knows whether this very owner still lives.
    async fn still_there(&self) -> anyhow::Result<bool> {
        let api: Api<O> = Api::namespaced(self.client.clone(), self.owner.ns());
        let live = errors::optional(api.get(self.owner.name()).await)?;
        Ok(live.is_some_and(|o| o.uid() == self.owner.uid() && !o.deleting()))
    }

    async fn adopt<K: Claimable>(&self, object: &K) -> anyhow::Result<Option<K>> {
        let mut meta = json!({"ownerReferences": [self.reference], "uid": object.uid()});
        if let Some(finalizer) = self.finalizer {
            meta["finalizers"] = json!([finalizer]);
        }
        let patch = json!({"metadata": meta});
        self.patch(object, &patch).await
    }

    async fn release<K: Claimable>(&self, object: &K) -> anyhow::Result<()> {
        let mut meta = json!({
            "ownerReferences": [{"$patch": "delete", "uid": self.owner.uid()}],
            "uid": object.uid(),
        });
        if let Some(finalizer) = self.finalizer {
            meta["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
        }
        self.patch(object, &json!({"metadata": meta})).await?;
        Ok(())
    }

    async fn patch<K: Claimable>(&self, object: &K, patch: &serde_json::Value) -> anyhow::Result<Option<K>> {
        let api: Api<K> = Api::namespaced(self.client.clone(), object.ns());
        match api.patch(object.name(), &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(object) => Ok(Some(object)),
            // Gone, or it is a new object under the old name: not ours either way.
            Err(error) if errors::not_found(&error) || errors::invalid(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether labels or the controlling owner of an orphan changed, so that someone may want it now.
pub fn claim_may_change<K: Resource>(old: Option<&Arc<K>>, new: &K) -> bool {
    let Some(old) = old else { return true };
    let labels = |k: &K| -> BTreeMap<String, String> { k.meta().labels.clone().unwrap_or_default() };
    labels(old) != labels(new) || controller_of(old.meta()) != controller_of(new.meta())
}

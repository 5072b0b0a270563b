//! Keeping the revisions of stateful sets and daemon sets: find or make the one of the template, drop old ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use controller_kit::claim::{Claimable, Claimant};
use controller_kit::meta::{Labels, MetaExt, controller_ref};
use controller_kit::{Context, Shared, errors, revision};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::Value;

/// The revisions of one owner.
pub(crate) struct History {
    /// Oldest first; the update revision among them.
    pub all: Vec<Arc<ControllerRevision>>,
    pub update: Arc<ControllerRevision>,
    pub collisions: i32,
}

/// What the owner's revisions are to be found by and made from.
pub(crate) struct Subject<'a, O> {
    pub owner: &'a O,
    pub selector: &'a LabelSelector,
    pub template: &'a PodTemplateSpec,
    pub labels: BTreeMap<String, String>,
    pub collisions: i32,
}

/// Claims the owner's revisions and makes sure the template's is the newest.
pub(crate) async fn sync<O: Claimable>(
    ctx: &Context,
    cache: &Shared<ControllerRevision>,
    subject: &Subject<'_, O>,
) -> anyhow::Result<History> {
    let claimant = Claimant {
        client: &ctx.client,
        owner: subject.owner,
        reference: controller_ref(subject.owner),
        selector: Labels::new(subject.selector),
        finalizer: None,
    };
    let mut all = claimant.claim(cache).await?;
    revision::sort(&mut all);
    let data = revision::data(subject.template);
    let next = revision::next(&all);
    let mut collisions = subject.collisions;
    let update = match equal(&all, &data) {
        Some(found) if all.last().is_some_and(|last| last.uid() == found.uid()) => found,
        Some(found) => Arc::new(renumber(ctx, &found, next).await?),
        None => {
            let new = revision::New {
                namespace: subject.owner.ns(),
                owner: controller_ref(subject.owner),
                labels: subject.labels.clone(),
                data,
                revision: next,
            };
            Arc::new(new.store(&ctx.client, &mut collisions).await?)
        }
    };
    all.retain(|r| r.uid() != update.uid());
    all.push(update.clone());
    Ok(History { all, update, collisions })
}

/// The newest revision of the same data, compared as values: a revision written by another implementation or
/// an older version may differ in its bytes.
fn equal(all: &[Arc<ControllerRevision>], data: &Value) -> Option<Arc<ControllerRevision>> {
    let same = |r: &&Arc<ControllerRevision>| r.data.as_ref().is_some_and(|d| alike(&d.0, data));
    all.iter().rev().find(same).cloned()
}

/// Equal but for fields that older versions wrote as null or empty objects.
fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let null = |v: Option<&Value>| v.is_none_or(Value::is_null);
            x.iter().all(
                |(k, v)| if v.is_null() { null(y.get(k)) } else { y.get(k).is_some_and(|w| alike(v, w)) },
            ) && y.iter().all(|(k, v)| x.contains_key(k) || v.is_null())
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(v, w)| alike(v, w)),
        _ => a == b,
    }
}

/// Rolling back makes an old revision the newest again.
async fn renumber(
    ctx: &Context,
    found: &ControllerRevision,
    number: i64,
) -> anyhow::Result<ControllerRevision> {
    let api: Api<ControllerRevision> = Api::namespaced(ctx.client.clone(), found.ns());
    let next = ControllerRevision { revision: number, ..found.clone() };
    Ok(api.replace(found.name(), &PostParams::default(), &next).await?)
}

/// Deletes the oldest revisions that nothing uses, beyond the limit.
pub(crate) async fn truncate(
    ctx: &Context,
    all: &[Arc<ControllerRevision>],
    limit: i32,
    live: impl Fn(&ControllerRevision) -> bool,
) -> anyhow::Result<()> {
    let idle: Vec<_> = all.iter().filter(|r| !live(r)).collect();
    let surplus = idle.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
    for revision in idle.into_iter().take(surplus) {
        let api: Api<ControllerRevision> = Api::namespaced(ctx.client.clone(), revision.ns());
        errors::optional(api.delete(revision.name(), &DeleteParams::default()).await)?;
    }
    Ok(())
}

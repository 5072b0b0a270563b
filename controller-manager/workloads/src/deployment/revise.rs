//! The current replica set of a deployment: found, numbered, or made.

use std::collections::BTreeMap;
use std::sync::Arc;

use controller_kit::meta::{MetaExt, controller_of, controller_ref};
use controller_kit::{condition, errors, hash, now_time};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;

use super::plan::{self, DESIRED, HASH, MAX, REVISION, REVISION_HISTORY, Sets};
use super::{Controller, status};

type Annotations = BTreeMap<String, String>;

const HISTORY_LIMIT: usize = 2000;
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// Writes down for which size of the deployment a replica set was sized; says whether that changed.
pub(super) fn note_sizes(annotations: &mut Annotations, d: &Deployment) -> bool {
    let (desired, max) = (plan::wanted(d), plan::wanted(d) + plan::max_surge(d));
    let mut changed = put(annotations, DESIRED, &desired.to_string());
    changed |= put(annotations, MAX, &max.to_string());
    changed
}

fn put(annotations: &mut Annotations, key: &str, value: &str) -> bool {
    if annotations.get(key).is_some_and(|v| v == value) {
        return false;
    }
    annotations.insert(key.to_owned(), value.to_owned());
    true
}

/// Copies the deployment's annotations to its replica set and numbers it; a set that is rolled back to keeps
/// its former numbers in a history. Says whether anything changed.
pub(super) fn annotate(annotations: &mut Annotations, d: &Deployment, revision: i64) -> bool {
    let mut changed = false;
    for (key, value) in d.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            changed |= put(annotations, key, value);
        }
    }
    let old = annotations.get(REVISION).cloned();
    let Ok(number) = old.as_deref().filter(|r| !r.is_empty()).map_or(Ok(0), str::parse::<i64>) else {
        return false;
    };
    if number >= revision {
        return changed;
    }
    annotations.insert(REVISION.into(), revision.to_string());
    if let Some(old) = old {
        let history = extend_history(annotations.get(REVISION_HISTORY).map_or("", String::as_str), &old);
        annotations.insert(REVISION_HISTORY.into(), history);
    }
    true
}

fn extend_history(history: &str, old: &str) -> String {
    let mut entries: Vec<&str> = history.split(',').filter(|e| !e.is_empty()).collect();
    entries.push(old);
    while entries.len() > 1 && entries.iter().map(|e| e.len() + 1).sum::<usize>() - 1 > HISTORY_LIMIT {
        entries.remove(0);
    }
    entries.join(",")
}

fn name(deployment: &str, hash: &str) -> String {
    let most = 253 - 1 - hash.len();
    format!("{}-{hash}", &deployment[..deployment.len().min(most)])
}

fn new_set(d: &Deployment, old: &Sets, revision: i64) -> ReplicaSet {
    let spec = d.spec.clone().unwrap_or_default();
    let hash = hash::template_hash(&spec.template, d.status.as_ref().and_then(|s| s.collision_count));
    let mut template = spec.template;
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH.into(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH.into(), hash.clone());
    let mut annotations = Annotations::new();
    annotate(&mut annotations, d, revision);
    note_sizes(&mut annotations, d);
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(name(d.name(), &hash)),
            namespace: d.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![controller_ref(d)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(plan::new_size(d, plan::total(old), 0)),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

impl Controller {
    /// The replica set of the current template (made if `create`) and the others. `d` follows what is written.
    pub(super) async fn current(
        &self,
        d: &mut Deployment,
        sets: &Sets,
        create: bool,
    ) -> anyhow::Result<(Option<Arc<ReplicaSet>>, Sets)> {
        let (new, old) = plan::split(d, sets);
        let revision = old.iter().map(|s| plan::revision(s)).max().unwrap_or(0) + 1;
        let new = match new {
            Some(found) => Some(self.keep_numbered(d, found, revision).await?),
            None if create => self.create(d, &old, revision).await?,
            None => None,
        };
        Ok((new, old))
    }

    async fn keep_numbered(
        &self,
        d: &mut Deployment,
        set: Arc<ReplicaSet>,
        revision: i64,
    ) -> anyhow::Result<Arc<ReplicaSet>> {
        let min_ready = d.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
        let mut next = (*set).clone();
        let mut changed = annotate(next.metadata.annotations.get_or_insert_default(), d, revision);
        let spec = next.spec.get_or_insert_default();
        if spec.min_ready_seconds.unwrap_or(0) != min_ready {
            spec.min_ready_seconds = Some(min_ready);
            changed = true;
        }
        if changed {
            let api: Api<ReplicaSet> = Api::namespaced(self.ctx.client.clone(), d.ns());
            return Ok(Arc::new(api.replace(set.name(), &PostParams::default(), &next).await?));
        }
        let number = set.annotation(REVISION).unwrap_or_default().to_owned();
        let mut write = put(d.metadata.annotations.get_or_insert_default(), REVISION, &number);
        let status = d.status.get_or_insert_default();
        if condition::find(&status.conditions, "Progressing").is_none() && status::deadline(d).is_some() {
            let text = format!("Found new replica set \"{}\"", set.name());
            let found = status::new_condition("Progressing", "True", "FoundNewReplicaSet", text, &now_time());
            condition::set(&mut d.status.get_or_insert_default().conditions, found, false);
            write = true;
        }
        if write {
            self.write_through(d).await?;
        }
        Ok(set)
    }

    async fn create(
        &self,
        d: &mut Deployment,
        old: &Sets,
        revision: i64,
    ) -> anyhow::Result<Option<Arc<ReplicaSet>>> {
        let wanted = new_set(d, old, revision);
        let api: Api<ReplicaSet> = Api::namespaced(self.ctx.client.clone(), d.ns());
        let (set, fresh) = match api.create(&PostParams::default(), &wanted).await {
            Ok(set) => (set, true),
            Err(error) if errors::already_exists(&error) => {
                let Some(existing) = errors::optional(api.get(wanted.name()).await)? else {
                    return Err(error.into());
                };
                if !self.is_ours(d, &existing) {
                    let status = d.status.get_or_insert_default();
                    status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
                    self.write_through(d).await?;
                    return Err(error.into());
                }
                (existing, false)
            }
            Err(error) if errors::namespace_terminating(&error) => return Ok(None),
            Err(error) => {
                self.report_failure(d, &wanted, &error).await;
                return Err(error.into());
            }
        };
        let size = plan::size(&set);
        if fresh && size > 0 {
            let text = format!("Scaled up replica set {} from 0 to {size}", set.name());
            self.events.normal(d, "ScalingReplicaSet", text);
        }
        let mut write = put(d.metadata.annotations.get_or_insert_default(), REVISION, &revision.to_string());
        if fresh && status::deadline(d).is_some() {
            let text = format!("Created new replica set \"{}\"", set.name());
            let created =
                status::new_condition("Progressing", "True", "NewReplicaSetCreated", text, &now_time());
            write |= condition::set(&mut d.status.get_or_insert_default().conditions, created, false);
        }
        if write {
            self.write_through(d).await?;
        }
        Ok(Some(Arc::new(set)))
    }

    fn is_ours(&self, d: &Deployment, set: &ReplicaSet) -> bool {
        let template = d.spec.as_ref().map(|s| &s.template);
        let same = match (template, set.spec.as_ref().and_then(|s| s.template.as_ref())) {
            (Some(a), Some(b)) => plan::same_template(a, b),
            _ => false,
        };
        same && controller_of(&set.metadata).is_some_and(|o| o.uid == d.uid())
    }

    async fn report_failure(&self, d: &mut Deployment, set: &ReplicaSet, error: &kube::Error) {
        let text = format!("Failed to create new replica set \"{}\": {}", set.name(), errors::text(error));
        self.events.warning(d, "ReplicaSetCreateError", &text);
        if status::deadline(d).is_none() {
            return;
        }
        let failed =
            status::new_condition("Progressing", "False", "ReplicaSetCreateError", text, &now_time());
        condition::set(&mut d.status.get_or_insert_default().conditions, failed, false);
        if let Err(error) = self.write_through(d).await {
            tracing::debug!(deployment = %d.key(), %error, "the failure could not be noted in the status");
        }
    }

    /// A Progressing condition says whether the deployment is paused, so that time spent paused does not
    /// count against the deadline.
    pub(super) async fn note_pause(&self, d: &mut Deployment) -> anyhow::Result<()> {
        if status::deadline(d).is_none() {
            return Ok(());
        }
        let paused = d.spec.as_ref().and_then(|s| s.paused) == Some(true);
        let status = d.status.get_or_insert_default();
        let reason = condition::find(&status.conditions, "Progressing").and_then(|c| c.reason.clone());
        if reason.as_deref() == Some(status::TIMED_OUT) {
            return Ok(());
        }
        let noted = reason.as_deref() == Some("DeploymentPaused");
        let (reason, text) = match (paused, noted) {
            (true, false) => ("DeploymentPaused", "Deployment is paused"),
            (false, true) => ("DeploymentResumed", "Deployment is resumed"),
            _ => return Ok(()),
        };
        let new = status::new_condition("Progressing", "Unknown", reason, text.into(), &now_time());
        condition::set(&mut status.conditions, new, false);
        self.write_through(d).await
    }

    async fn write_through(&self, d: &mut Deployment) -> anyhow::Result<()> {
        if let Some(written) = self.write(d).await? {
            d.metadata.resource_version = written.metadata.resource_version;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rolling_back_keeps_the_former_numbers() {
        let d: Deployment = serde_json::from_value(json!({"metadata": {"name": "d", "annotations": {
            "kubernetes.io/change-cause": "because", REVISION: "9"}}}))
        .unwrap();
        let mut a = Annotations::new();
        assert!(annotate(&mut a, &d, 1));
        assert_eq!((a[REVISION].as_str(), a["kubernetes.io/change-cause"].as_str()), ("1", "because"));
        assert!(!a.contains_key(REVISION_HISTORY));
        assert!(annotate(&mut a, &d, 3));
        assert!(annotate(&mut a, &d, 5));
        assert!(!annotate(&mut a, &d, 4));
        assert_eq!((a[REVISION].as_str(), a[REVISION_HISTORY].as_str()), ("5", "1,3"));
    }
}

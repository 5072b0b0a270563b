//! Carries statuses to the apiserver: at once when they change, again when it failed, one write a pod at a time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::conditions::OWNED;
use crate::pod::PodExt;

/// Writes under way at the same time.
const PARALLEL: usize = 32;

/// The status of a pod that is on its way.
struct Entry {
    /// The pod at the apiserver: the mirror of a static pod, the pod itself otherwise.
    target: Option<Arc<Pod>>,
    status: PodStatus,
    /// Counts changes; a write that was overtaken is followed by another.
    version: u64,
    written: u64,
    /// Since when there is something to write.
    since: Option<std::time::Instant>,
    /// What the apiserver was last told or said.
    known: Value,
    /// The resource version of that.
    known_version: u64,
    /// All of the pod is gone from this node: once the status is written, the object may go too.
    finished: bool,
}

/// The statuses of all pods of this node, by the UID they run under.
pub struct Statuses {
    entries: Mutex<HashMap<String, Entry>>,
    wake: mpsc::UnboundedSender<String>,
}

impl Statuses {
    /// A manager and the task that writes.
    pub fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<String>) {
        let (wake, woken) = mpsc::unbounded_channel();
        (Arc::new(Self { entries: Mutex::default(), wake }), woken)
    }

    /// The newest status of a pod.
    pub fn get(&self, uid: &str) -> Option<PodStatus> {
        self.entries.lock().get(uid).map(|e| e.status.clone())
    }

    /// Sets the status of a pod. `target` is the object that shows it, if there is one yet.
    pub fn set(&self, uid: &str, target: Option<Arc<Pod>>, status: PodStatus) {
        let mut entries = self.entries.lock();
        // What a status told before this kubelet began is no news.
        let shown = || target.as_ref().and_then(|t| t.status.clone()).unwrap_or_default();
        let entry = entries.entry(uid.to_string()).or_insert_with(|| Entry {
            target: None,
            status: shown(),
            version: 0,
            since: None,
            written: 0,
            known: Value::Null,
            known_version: 0,
            finished: false,
        });
        let new_target = uid_of(&entry.target) != uid_of(&target);
        if let Some(target) = target {
            // What the object shows is what the next difference is made against, unless it is older than what
            // the apiserver answered to the last write.
            let version = version_of(&target);
            if new_target || (entry.written == entry.version && version >= entry.known_version) {
                entry.known = status_value(target.status.as_ref());
                entry.known_version = version;
            }
            entry.target = Some(target);
        }
        if entry.status != status || entry.version == 0 || new_target {
            crate::metrics::pods::terminated(&entry.status, &status);
            entry.status = status;
            entry.version += 1;
            entry.since.get_or_insert_with(std::time::Instant::now);
            let _ = self.wake.send(uid.to_string());
        }
    }

    /// Says that nothing of the pod is left on this node. If its deletion was asked for, its object is deleted.
    pub fn finish(&self, uid: &str, target: Option<Arc<Pod>>) {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(uid) else { return };
        if target.is_some() {
            entry.target = target;
        }
        entry.finished = true;
        let _ = self.wake.send(uid.to_string());
    }

    /// Forgets a pod.
    pub fn forget(&self, uid: &str) {
        self.entries.lock().remove(uid);
    }

    /// Writes statuses until the shutdown.
    pub async fn run(
        self: Arc<Self>,
        client: Option<kube::Client>,
        mut woken: mpsc::UnboundedReceiver<String>,
        shutdown: CancellationToken,
    ) {
        let Some(client) = client else { return };
        let slots = Arc::new(tokio::sync::Semaphore::new(PARALLEL));
        let busy: Arc<Mutex<HashSet<String>>> = Arc::default();
        let mut tasks = tokio::task::JoinSet::new();
        loop {
            let uid = tokio::select! {
                () = shutdown.cancelled() => return,
                Some(_) = tasks.join_next() => continue,
                uid = woken.recv() => match uid { Some(uid) => uid, None => return },
            };
            if !busy.lock().insert(uid.clone()) {
                // The write under way looks again when it is done.
                continue;
            }
            let (this, client, slots, busy) = (self.clone(), client.clone(), slots.clone(), busy.clone());
            tasks.spawn(async move {
                let _slot = slots.acquire().await;
                let mut delay = Duration::from_millis(200);
                loop {
                    match this.write(&client, &uid).await {
                        Ok(true) => delay = Duration::from_millis(200),
                        Ok(false) => {
                            busy.lock().remove(&uid);
                            if this.is_dirty(&uid) && busy.lock().insert(uid.clone()) {
                                continue;
                            }
                            return;
                        }
                        Err(error) => {
                            tracing::warn!(uid, %error, "Failed to update status for pod");
                            tokio::time::sleep(delay).await;
                            delay = (delay * 2).min(Duration::from_secs(10));
                        }
                    }
                }
            });
        }
    }

    fn is_dirty(&self, uid: &str) -> bool {
        let entries = self.entries.lock();
        entries.get(uid).is_some_and(|e| e.target.is_some() && (e.written != e.version || e.deletable()))
    }

    /// Writes what is new of one pod. `false` when there is nothing to do.
    async fn write(&self, client: &kube::Client, uid: &str) -> kube::Result<bool> {
        let (target, version, patch, deletable) = {
            let entries = self.entries.lock();
            let Some(entry) = entries.get(uid) else { return Ok(false) };
            let Some(target) = entry.target.clone() else { return Ok(false) };
            let patch = (entry.written != entry.version).then(|| difference(&entry.known, &entry.status));
            (target, entry.version, patch, entry.deletable())
        };
        let api: Api<Pod> = Api::namespaced(client.clone(), target.namespace());
        match patch {
            Some(patch) if !patch.is_empty() => {
                let body = json!({"metadata": {"uid": target.uid()}, "status": patch});
                match api.patch_status(target.name(), &PatchParams::default(), &Patch::Strategic(body)).await
                {
                    Ok(written) => self.note(uid, version, &written),
                    // Gone, or another of the same name took its place.
                    Err(error) if is_code(&error, 404) || is_uid_conflict(&error) => {
                        self.settle(uid, version)
                    }
                    Err(error) if is_code(&error, 422) => {
                        tracing::error!(pod = target.formatted(), %error, "The apiserver refuses the status");
                        self.settle(uid, version);
                    }
                    Err(error) => return Err(error),
                }
                Ok(true)
            }
            Some(_) => {
                self.settle(uid, version);
                Ok(true)
            }
            None if deletable => {
                let params = DeleteParams {
                    grace_period_seconds: Some(0),
                    preconditions: Some(Preconditions {
                        uid: Some(target.uid().into()),
                        resource_version: None,
                    }),
                    ..Default::default()
                };
                match api.delete(target.name(), &params).await {
                    Ok(_) => {}
                    Err(error) if is_code(&error, 404) || is_code(&error, 409) => {}
                    Err(error) => return Err(error),
                }
                self.entries.lock().remove(uid);
                Ok(false)
            }
            None => Ok(false),
        }
    }

    fn note(&self, uid: &str, version: u64, written: &Pod) {
        if let Some(entry) = self.entries.lock().get_mut(uid) {
            entry.written = version;
            if let Some(since) = entry.since.take() {
                crate::metrics::pods::status_synced(since.elapsed());
            }
            entry.known = status_value(written.status.as_ref());
            entry.known_version = version_of(written);
        }
    }

    fn settle(&self, uid: &str, version: u64) {
        if let Some(entry) = self.entries.lock().get_mut(uid) {
            entry.written = version;
        }
    }
}

impl Entry {
    fn deletable(&self) -> bool {
        self.finished
            && self.written == self.version
            && self.target.as_ref().is_some_and(|t| t.is_deleting() && !t.is_mirror())
    }
}

fn uid_of(pod: &Option<Arc<Pod>>) -> Option<&str> {
    pod.as_ref().map(|p| p.uid())
}

/// The resource version as a number; zero if it is none.
fn version_of(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

fn is_uid_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 && status.message.contains("uid"))
}

fn status_value(status: Option<&PodStatus>) -> Value {
    status.and_then(|s| serde_json::to_value(s).ok()).unwrap_or(Value::Null)
}

/// A strategic merge patch from what is known to what is new. Others' conditions are left alone.
fn difference(known: &Value, status: &PodStatus) -> Map<String, Value> {
    let fresh = status_value(Some(status));
    let none = Map::new();
    let (old, new) = (known.as_object().unwrap_or(&none), fresh.as_object().unwrap_or(&none));
    let mut patch = Map::new();
    for (key, value) in new {
        if old.get(key) == Some(value) {
            continue;
        }
        let change = match key.as_str() {
            "conditions" => match conditions(old.get(key), value) {
                list if list.is_empty() => continue,
                list => Value::Array(list),
            },
            // Merged by address, so an address that left has to be replaced away.
            "podIPs" | "hostIPs" | "resourceClaimStatuses" => {
                let mut list = vec![json!({"$patch": "replace"})];
                list.extend(value.as_array().into_iter().flatten().cloned());
                Value::Array(list)
            }
            _ => value.clone(),
        };
        patch.insert(key.clone(), change);
    }
    if !new.contains_key("conditions") {
        let gone = conditions(old.get("conditions"), &Value::Null);
        if !gone.is_empty() {
            patch.insert("conditions".into(), Value::Array(gone));
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        // What the kubelet does not write it does not clear.
        if !matches!(
            key.as_str(),
            "resize"
                | "nominatedNodeName"
                | "resourceClaimStatuses"
                | "conditions"
                | "extendedResourceClaimStatus"
        ) {
            patch.insert(key.clone(), Value::Null);
        }
    }
    patch
}

fn conditions(old: Option<&Value>, new: &Value) -> Vec<Value> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let old = old.map(list).unwrap_or_default();
    let new = list(new);
    let kind = |c: &Value| c["type"].as_str().unwrap_or_default().to_string();
    let ours = |c: &Value| OWNED.contains(&kind(c).as_str()) || kind(c) == "DisruptionTarget";
    let mut changes: Vec<Value> = new
        .iter()
        .filter(|c| ours(c) && !old.contains(c))
        .map(|c| {
            let mut change = c.clone();
            // A field that is no longer there has to be cleared.
            let before = old.iter().find(|o| kind(o) == kind(c)).and_then(Value::as_object);
            let before = before.into_iter().flat_map(|b| b.keys().map(String::as_str));
            for key in before.chain(["reason", "message"]) {
                if c.get(key).is_none() {
                    change[key] = Value::Null;
                }
            }
            change
        })
        .collect();
    let gone = old.iter().filter(|o| ours(o) && !new.iter().any(|c| kind(c) == kind(o)));
    changes.extend(gone.map(|o| json!({"$patch": "delete", "type": kind(o)})));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_only_what_changed_and_only_ours() {
        let known = json!({"phase": "Pending", "reason": "x", "nominatedNodeName": "n",
            "podIPs": [{"ip": "1.1.1.1"}],
            "conditions": [{"type": "Ready", "status": "False", "reason": "R"}, {"type": "theirs", "status": "True"}]});
        let status: PodStatus =
            serde_json::from_value(json!({"phase": "Running", "podIPs": [{"ip": "2.2.2.2"}],
            "conditions": [{"type": "Ready", "status": "True"}]}))
            .unwrap();
        let patch = Value::Object(difference(&known, &status));
        assert_eq!(
            patch,
            json!({"phase": "Running", "reason": null,
                "podIPs": [{"$patch": "replace"}, {"ip": "2.2.2.2"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": null, "message": null}]})
        );
        let rejected = PodStatus { phase: Some("Failed".into()), ..Default::default() };
        let patch = difference(&known, &rejected);
        assert_eq!(patch["conditions"], json!([{"$patch": "delete", "type": "Ready"}]));
        let same: PodStatus = serde_json::from_value(known.clone()).unwrap();
        assert!(difference(&known, &same).is_empty());
    }
}

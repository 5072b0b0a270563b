//! A job's new pods, and the pods that jobs left behind: without their job their finalizer would keep them.

use std::sync::Arc;

use controller_kit::meta::{MetaExt, controller_of, controller_ref};
use controller_kit::{Key, Queue, Requeue, Shared, template};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::policy::{Meaning, meaning};
use super::view::{FAILURES, FINALIZER, IGNORED, INDEX, failure_count, finished, per_index, spec};
use super::{Controller, externally_managed};

const INDEX_ENV: &str = "JOB_COMPLETION_INDEX";

/// A pod of the job; one with an index knows it by name, host name, annotation, label and environment.
pub(super) fn new_pod(job: &Job, index: Option<i32>, replaced: Option<&Pod>) -> Pod {
    let mut pod = template::pod(&spec(job).template, job.ns(), controller_ref(job));
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        finalizers.push(FINALIZER.into());
    }
    let Some(index) = index else { return pod };
    let text = index.to_string();
    pod.metadata.labels.get_or_insert_default().insert(INDEX.into(), text.clone());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.into(), text);
    if per_index(job) {
        let (failures, ignored) = replaced.map_or((0, 0), |old| counts_after(job, old));
        annotations.insert(FAILURES.into(), failures.to_string());
        if ignored > 0 {
            annotations.insert(IGNORED.into(), ignored.to_string());
        }
    }
    let suffix = format!("-{index}-");
    let name: String = job.name().chars().take(58 - suffix.len()).collect();
    pod.metadata.generate_name = Some(format!("{name}{suffix}"));
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.hostname = Some(format!("{}-{index}", job.name()));
    let all = pod_spec.containers.iter_mut().chain(pod_spec.init_containers.iter_mut().flatten());
    for container in all {
        let env = container.env.get_or_insert_default();
        if !env.iter().any(|e| e.name == INDEX_ENV) {
            env.push(index_env());
        }
    }
    pod
}

fn index_env() -> EnvVar {
    let field = ObjectFieldSelector {
        field_path: format!("metadata.labels['{INDEX}']"),
        ..ObjectFieldSelector::default()
    };
    EnvVar {
        name: INDEX_ENV.into(),
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
        ..EnvVar::default()
    }
}

fn counts_after(job: &Job, old: &Pod) -> (i32, i32) {
    let ignored = meaning(spec(job).pod_failure_policy.as_ref(), old) == Meaning::Ignored;
    let (failures, ignores) = (failure_count(old, FAILURES), failure_count(old, IGNORED));
    if ignored { (failures, ignores + 1) } else { (failures + 1, ignores) }
}

/// Enqueues pods whose job is gone, over, or no longer theirs.
pub(super) fn watch(queue: &Queue, jobs: &Arc<Shared<Job>>, pods: &Arc<Shared<Pod>>) {
    let (q, cache) = (queue.clone(), jobs.clone());
    pods.watch(move |change| {
        let pod = change.object();
        if !change.deleted() && pod.has_finalizer(FINALIZER) && left_behind(&cache, pod) {
            q.add(pod.key());
        }
    });
    let (q, cache) = (queue.clone(), pods.clone());
    jobs.watch(move |change| {
        let job = change.object();
        if change.deleted() || finished(job) {
            let own = cache.owned(job.uid()).into_iter().filter(|p| p.has_finalizer(FINALIZER));
            own.for_each(|p| q.add(p.key()));
        }
    });
}

fn left_behind(jobs: &Shared<Job>, pod: &Pod) -> bool {
    let Some(owner) = controller_of(&pod.metadata) else { return true };
    if owner.kind != "Job" || !owner.api_version.starts_with("batch/") {
        return false;
    }
    let job = jobs.get(&Key::new(pod.ns(), &owner.name)).filter(|j| j.uid() == owner.uid);
    job.is_none_or(|j| finished(&j) && !externally_managed(&j))
}

impl Controller {
    /// Takes the finalizer of a pod that was left behind.
    pub(super) async fn sweep(&self, key: &Key) -> anyhow::Result<Requeue> {
        if let Some(pod) = self.pods.get(key)
            && pod.has_finalizer(FINALIZER)
            && left_behind(&self.jobs, &pod)
        {
            self.release(&pod).await?;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn indexed_pods_know_their_index() {
        let job: Job = serde_json::from_value(
            json!({"metadata": {"name": "j", "namespace": "n"}, "spec": {"backoffLimitPerIndex": 1,
            "template": {"spec": {"containers": [{"name": "c"}]}}}}),
        )
        .unwrap();
        let old: Pod = serde_json::from_value(json!({"metadata": {"annotations": {FAILURES: "1"}}})).unwrap();
        let pod = new_pod(&job, Some(3), Some(&old));
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("j-3-"));
        assert_eq!(
            (pod.annotation(INDEX), pod.label(INDEX), pod.annotation(FAILURES)),
            (Some("3"), Some("3"), Some("2"))
        );
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(spec.hostname.as_deref(), Some("j-3"));
        assert_eq!(spec.containers[0].env.as_ref().unwrap()[0].name, INDEX_ENV);
        assert!(pod.has_finalizer(FINALIZER));
        assert_eq!(new_pod(&job, None, None).metadata.generate_name.as_deref(), Some("j-"));
    }
}

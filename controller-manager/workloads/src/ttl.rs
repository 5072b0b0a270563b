//! ttl-after-finished-controller: jobs that are over are deleted when their time to live is up.

use std::time::Duration;

use controller_kit::meta::MetaExt;
use controller_kit::{Context, Key, Queue, Requeue, errors, now};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, Preconditions, PropagationPolicy};
use kube::{Api, Client};

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let jobs = ctx.informer::<Job>();
    jobs.synced().await;
    let q = queue.clone();
    jobs.watch(move |change| {
        if !change.deleted() && left(change.object(), now()).is_some() {
            q.add(change.object().key());
        }
    });
    let workers = ctx.workers("ttl-after-finished", "ttl-after-finished", 5);
    let client = &ctx.client;
    workers.run(queue, |key| async move { reconcile(client, &key).await }).await;
    Ok(())
}

/// Seconds a finished job has left; `None` where nothing is to be done.
fn left(job: &Job, now: jiff::Timestamp) -> Option<i64> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    if job.deleting() {
        return None;
    }
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let over =
        conditions.iter().find(|c| (c.type_ == "Complete" || c.type_ == "Failed") && c.status == "True")?;
    let at = over.last_transition_time.as_ref()?;
    Some(i64::from(ttl) - now.duration_since(at.0).as_secs())
}

async fn reconcile(client: &Client, key: &Key) -> anyhow::Result<Requeue> {
    let api: Api<Job> = Api::namespaced(client.clone(), &key.namespace);
    // The cache may not know yet that the time to live was changed: only the server's word deletes.
    let Some(job) = errors::optional(api.get(&key.name).await)? else { return Ok(None) };
    match left(&job, now()) {
        None => Ok(None),
        Some(seconds) if seconds > 0 => Ok(Some(Duration::from_secs(seconds.unsigned_abs()))),
        Some(_) => {
            let only = Preconditions {
                uid: job.metadata.uid.clone(),
                resource_version: job.metadata.resource_version.clone(),
            };
            let params = DeleteParams {
                propagation_policy: Some(PropagationPolicy::Foreground),
                preconditions: Some(only),
                ..DeleteParams::default()
            };
            errors::optional(api.delete(&key.name, &params).await)?;
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_finished_jobs_with_a_ttl_expire() {
        let job = |ttl: serde_json::Value, kind: &str| -> Job {
            serde_json::from_value(
                json!({"spec": {"ttlSecondsAfterFinished": ttl, "template": {}}, "status": {"conditions": [
                {"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}),
            )
            .unwrap()
        };
        let now = "2026-01-01T00:00:10Z".parse().unwrap();
        assert_eq!(left(&job(json!(30), "Complete"), now), Some(20));
        assert_eq!(left(&job(json!(0), "Failed"), now), Some(-10));
        assert_eq!(left(&job(json!(null), "Complete"), now), None);
        assert_eq!(left(&job(json!(30), "Suspended"), now), None);
    }
}

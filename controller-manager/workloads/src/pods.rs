//! Making and deleting pods for an owner, with the events users look for.

use std::future::Future;

use controller_kit::meta::MetaExt;
use controller_kit::{Events, errors};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, Resource};

/// How many pods one reconcile creates or deletes at most.
pub const BURST: usize = 500;

/// The maker of one owner's pods.
pub struct PodControl<'a, O> {
    pub client: &'a Client,
    pub events: &'a Events,
    pub owner: &'a O,
}

impl<O: Resource<DynamicType = ()>> PodControl<'_, O> {
    /// Creates a pod and says so on the owner.
    pub async fn create(&self, pod: &Pod) -> Result<Pod, kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), self.owner.ns());
        match api.create(&PostParams::default(), pod).await {
            Ok(created) => {
                self.events.normal(
                    self.owner,
                    "SuccessfulCreate",
                    format!("Created pod: {}", created.name()),
                );
                Ok(created)
            }
            Err(error) => {
                // Nothing can be created in a namespace that goes away: no news to anyone.
                if !errors::namespace_terminating(&error) {
                    let text = format!("Error creating: {}", errors::text(&error));
                    self.events.warning(self.owner, "FailedCreate", text);
                }
                Err(error)
            }
        }
    }

    /// Deletes that very pod and says so on the owner; a pod already gone is fine.
    pub async fn delete(&self, pod: &Pod) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), self.owner.ns());
        let only = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
        match api.delete(pod.name(), &params).await {
            Ok(_) => {
                self.events.normal(self.owner, "SuccessfulDelete", format!("Deleted pod: {}", pod.name()));
                Ok(())
            }
            Err(error) if errors::not_found(&error) || errors::conflict(&error) => Ok(()),
            Err(error) => {
                let text = format!("Error deleting: {}", errors::text(&error));
                self.events.warning(self.owner, "FailedDelete", text);
                Err(error)
            }
        }
    }
}

/// Calls `create` `count` times in batches of 1, 2, 4, …; after a batch with a failure no further one
/// starts, so that a quota that is spent is not asked for each pod. Says how many succeeded.
pub async fn slow_start<F, R>(count: usize, create: F) -> (usize, Option<kube::Error>)
where
    F: Fn(usize) -> R,
    R: Future<Output = Result<(), kube::Error>>,
{
    let (mut done, mut succeeded, mut batch) = (0, 0, 1);
    while done < count {
        let size = batch.min(count - done);
        let results = join_all((done..done + size).map(&create)).await;
        done += size;
        batch *= 2;
        let mut failed = None;
        for result in results {
            match result {
                Ok(()) => succeeded += 1,
                Err(error) => failed = Some(error),
            }
        }
        if failed.is_some() {
            return (succeeded, failed);
        }
    }
    (succeeded, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn slow_start_stops_after_the_failing_batch() {
        let calls = AtomicUsize::new(0);
        let (ok, error) = slow_start(100, |i| {
            calls.fetch_add(1, Ordering::SeqCst);
            async move { if i < 4 { Ok(()) } else { Err(kube::Error::LinesCodecMaxLineLengthExceeded) } }
        })
        .await;
        assert_eq!((ok, calls.load(Ordering::SeqCst)), (4, 7));
        assert!(error.is_some());
    }
}

//! Where pods come from: the apiserver, a folder and a URL of static pods.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::watcher;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::pods::Update;

pub mod files;
mod manifest;
pub mod url;

/// A source of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    Api,
    File,
    Http,
}

impl Source {
    /// As the pod's annotation names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::File => "file",
            Self::Http => "http",
        }
    }
}

/// Follows the pods that are bound to this node.
pub async fn api(
    client: kube::Client,
    node: String,
    updates: mpsc::Sender<Update>,
    shutdown: CancellationToken,
) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut events = std::pin::pin!(watcher(Api::<Pod>::all(client), config));
    let mut listing = Vec::new();
    let mut delay = Duration::from_millis(200);
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => return,
            event = events.next() => event,
        };
        let update = match event {
            Some(Ok(event)) => {
                delay = Duration::from_millis(200);
                match event {
                    watcher::Event::Init => {
                        listing = Vec::new();
                        continue;
                    }
                    watcher::Event::InitApply(pod) => {
                        listing.push(slim(pod));
                        continue;
                    }
                    watcher::Event::InitDone => Update::Listed(std::mem::take(&mut listing)),
                    watcher::Event::Apply(pod) => Update::Applied(Box::new(slim(pod))),
                    watcher::Event::Delete(pod) => Update::Deleted(Box::new(slim(pod))),
                }
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "Watching pods failed");
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(Duration::from_secs(15));
                continue;
            }
            None => return,
        };
        if updates.send(update).await.is_err() {
            return;
        }
    }
}

/// A pod without what the kubelet never reads.
fn slim(mut pod: Pod) -> Pod {
    pod.metadata.managed_fields = None;
    pod
}

//! What the runtime has, read once for all who ask at the same time.
//!
//! A runtime goes through all its containers for every list, whatever its filter. When many pods begin or end together
//! their workers therefore share lists; nobody is given one that was begun before they asked.

use std::sync::Arc;

use cri::v1;

use crate::labels;

/// All sandboxes and containers, at one moment.
#[derive(Debug, Default)]
pub struct Listing {
    pub sandboxes: Vec<v1::PodSandbox>,
    pub containers: Vec<v1::Container>,
}

impl Listing {
    /// The sandboxes of a pod.
    pub fn sandboxes_of(&self, uid: &str) -> impl Iterator<Item = &v1::PodSandbox> {
        self.sandboxes.iter().filter(move |s| s.metadata.as_ref().is_some_and(|m| m.uid == uid))
    }

    /// The containers of a pod.
    pub fn containers_of(&self, uid: &str) -> impl Iterator<Item = &v1::Container> {
        self.containers.iter().filter(move |c| c.labels.get(labels::POD_UID).is_some_and(|u| u == uid))
    }
}

/// Lists for all who ask at the same time.
pub struct Lister {
    runtime: cri::Runtime,
    question: Arc<gather::Shared<cri::Result<Arc<Listing>>>>,
}

impl Lister {
    /// Lists what `runtime` has.
    pub fn new(runtime: cri::Runtime) -> Self {
        Self { runtime, question: gather::Shared::new() }
    }

    /// What there is now.
    pub async fn fresh(&self) -> cri::Result<Arc<Listing>> {
        let runtime = self.runtime.clone();
        let answer = self.question.ask(move || list(runtime.clone())).await;
        answer.unwrap_or_else(|| Err(cri::Error::cancelled("ListContainers")))
    }
}

async fn list(runtime: cri::Runtime) -> cri::Result<Arc<Listing>> {
    let (sandboxes, containers) =
        tokio::try_join!(runtime.list_pod_sandbox(None), runtime.list_containers(None))?;
    Ok(Arc::new(Listing { sandboxes, containers }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pod_has_its_own() {
        let sandbox = |id: &str, uid: &str| v1::PodSandbox {
            id: id.into(),
            metadata: Some(v1::PodSandboxMetadata { uid: uid.into(), ..Default::default() }),
            ..Default::default()
        };
        let container = |id: &str, uid: &str| v1::Container {
            id: id.into(),
            labels: [(labels::POD_UID.to_string(), uid.to_string())].into(),
            ..Default::default()
        };
        let listing = Listing {
            sandboxes: vec![sandbox("s1", "a"), sandbox("s2", "b"), v1::PodSandbox::default()],
            containers: vec![container("c1", "b"), container("c2", "a"), v1::Container::default()],
        };
        assert_eq!(listing.sandboxes_of("a").map(|s| s.id.as_str()).collect::<Vec<_>>(), ["s1"]);
        assert_eq!(listing.containers_of("a").map(|c| c.id.as_str()).collect::<Vec<_>>(), ["c2"]);
        assert_eq!(listing.containers_of("z").count(), 0);
    }
}

//! What a pod asks for, as far as anyone here needs to know.

use std::collections::BTreeMap;

/// A pod's wishes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodRequest {
    /// Its UID.
    pub uid: String,
    /// Every container's limits equal its requests.
    pub guaranteed: bool,
    /// Its resources are stated for the pod as a whole; no container has CPUs or memory to itself then.
    pub pod_level: bool,
    /// Init containers in their order, then main containers.
    pub containers: Vec<ContainerRequest>,
}

/// A container's wishes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerRequest {
    /// Its name.
    pub name: String,
    /// What kind of container it is.
    pub kind: ContainerKind,
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Whole units of all else: bytes of `memory` and `hugepages-*`, number of devices.
    pub others: BTreeMap<String, u64>,
}

/// What kind of container it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ContainerKind {
    /// Runs to its end before the next; what it had is used again by those after it.
    Init,
    /// Runs beside the main ones.
    Sidecar,
    /// An ordinary one.
    #[default]
    Main,
}

impl PodRequest {
    /// The most that the pod uses at one time of what `of` says each container uses.
    pub fn peak(&self, of: impl Fn(&ContainerRequest) -> u64) -> u64 {
        let (mut sidecars, mut init, mut main) = (0, 0, 0);
        for container in &self.containers {
            match container.kind {
                ContainerKind::Sidecar => sidecars += of(container),
                ContainerKind::Init => init = init.max(sidecars + of(container)),
                ContainerKind::Main => main += of(container),
            }
        }
        init.max(main + sidecars)
    }
}

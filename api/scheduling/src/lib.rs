//! Where a pod may run and what it needs: the rules that the scheduler, the kubelet's admission and the DaemonSet
//! controller must agree on. Pure functions on the typed API.

pub mod affinity;
pub mod resources;
pub mod selector;
pub mod taints;

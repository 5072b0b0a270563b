//! Who gets which CPUs, memory and devices of a node: pure decisions, kept in files that upstream's kubelet reads too.
//!
//! [`cpu`] gives whole CPUs to containers that may have them to themselves, [`memory`] gives memory of NUMA nodes,
//! [`topology`] makes those and whoever else has an opinion ([`Provider`]) agree on NUMA nodes. [`machine`] is what the
//! machine looks like. Nothing here runs by itself or knows the Kubernetes API: a pod is a [`PodRequest`].

pub mod checkpoint;
pub mod cpu;
pub mod cpuset;
pub mod hints;
pub mod machine;
//M
pub mod memory;
pub mod request;
pub mod topology;

pub use cpuset::CpuSet;
pub use hints::{Hint, Hints, Mask, Provider, Refusal};
pub use machine::Machine;
pub use request::{ContainerKind, ContainerRequest, PodRequest};

//! The `storage.k8s.io` group.

pub mod class;
pub mod csi;
pub mod migration;
pub mod volumeattachment;

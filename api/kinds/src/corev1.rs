//! The core group, but pods.

pub mod configmap;
pub mod endpoints;
pub mod event;
pub mod limits;
pub mod namespace;
pub mod node;
pub mod pv;
pub mod pvc;
pub mod rc;
pub mod secret;
pub mod service;
pub mod serviceaccount;

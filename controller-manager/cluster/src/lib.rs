//! The controllers that keep a cluster in order: namespaces, service accounts, garbage, nodes, quotas and
//! certificates.

pub mod csr;
pub mod gc;
pub mod namespace;
pub mod nodes;
pub mod quota;
pub mod rootca;
pub mod serviceaccount;

//! The controllers that keep a cluster in order: namespaces, service accounts, garbage, nodes, quotas and
//! certificates.

pub mod aggregation;
pub mod bootstrap;
pub mod csr;
pub mod gc;
pub mod namespace;
pub mod nodes;
pub mod policystatus;
pub mod quota;
pub mod rootca;
pub mod serviceaccount;
pub mod tokens;

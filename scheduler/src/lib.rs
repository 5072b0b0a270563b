//! kube-scheduler: finds a node for every pod that has none.
//!
//! - [`watch`] feeds [`cache`] and [`queue`] from the apiserver
//! - [`scheduler`] takes pods from the queue; [`schedule`] finds a node in a snapshot of the cache
//! - [`framework`] names the extension points, [`plugins`] fills them, [`profile`] runs them in order
//! - [`config`] reads `KubeSchedulerConfiguration`, [`build`] makes profiles of it
//!
//! A cycle never waits for the apiserver; binding happens beside the next cycles, with the pod already counted on its
//! node. Nothing here is kept that cannot be rebuilt from the watches: it may be killed at any moment.

pub mod build;
pub mod cache;
pub mod config;
pub mod framework;
pub mod metrics;
pub mod node_info;
pub mod plugins;
pub mod pod_info;
pub mod profile;
pub mod queue;
pub mod schedule;
pub mod scheduler;
pub mod status;
pub mod views;
pub mod volumes;
pub mod watch;

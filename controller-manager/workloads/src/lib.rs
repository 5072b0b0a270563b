//! The controllers that keep pods running: replica sets, deployments, stateful sets, daemon sets, jobs and
//! what looks after them.

pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod disruption;
mod history;
pub mod hpa;
pub mod job;
pub mod pods;
pub mod replicaset;
pub mod replication;
pub mod statefulset;
pub mod ttl;

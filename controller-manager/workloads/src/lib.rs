//! The controllers that keep pods running: replica sets, deployments, stateful sets, daemon sets, jobs and
//! what looks after them.

pub mod deployment;
pub mod pods;
pub mod replicaset;
pub mod replication;

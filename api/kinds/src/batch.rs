//! The `batch` group.

pub mod cronjob;
pub mod job;
mod jobpolicies;
mod jobstatus;
pub mod schedule;

//! The `batch` group.

pub mod cronjob;
pub mod job;
mod jobstatus;
pub mod schedule;

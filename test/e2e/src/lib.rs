//! End-to-end tests: real clusters on the testbed, driven as a user would, with kubectl and kube-rs.
//!
//! - [`bed`]: a cluster that is taken down however the tests end
//! - [`command`]: programs with a deadline and a checked outcome
//! - [`run`]: the steps of a test file, in order, on one cluster
//! - [`wait`]: conditions that have to come true in time
//!
//! `BINNACLE_BIN_DIR` names the folder of the binaries (`target/release`, else `target/debug`, without it),
//! `BINNACLE_MANIFESTS` that of the system's manifests (`manifests/addons`), and `BINNACLE_REPLACE` other binaries
//! for some components (`kubelet=/path,…`).

pub mod bed;
pub mod command;
pub mod run;
pub mod wait;

pub use bed::Bed;
pub use wait::eventually;

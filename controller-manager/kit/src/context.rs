//! What a controller is given when it starts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::events::Events;
use crate::informer::{Informers, Shared, Watched};
use crate::run::Workers;

/// The flags that controllers read, already checked.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `--concurrent-*-syncs`, by the name between the two words.
    pub workers: BTreeMap<String, usize>,
    pub root_ca: Option<String>,
    pub service_account_key: Option<PathBuf>,
    pub cluster_name: String,
    pub signing: Signing,
    pub nodes: Nodes,
    pub ipam: Ipam,
    pub hpa: Hpa,
    pub collect_garbage: bool,
    pub terminated_pod_threshold: i64,
    pub quota_resync: Duration,
    pub legacy_token_clean_up: Duration,
    pub attach_detach_sync: Duration,
    /// Volumes are not taken from a node that is not ready however long it is so.
    pub no_force_detach: bool,
    pub pv_sync: Duration,
    pub gates: BTreeMap<String, bool>,
}

/// Certificate and key of each signer.
#[derive(Clone, Debug, Default)]
pub struct Signing {
    pub duration: Duration,
    /// By signer name; the empty name stands for every signer without its own.
    pub files: BTreeMap<String, (PathBuf, PathBuf)>,
}

/// Node lifecycle.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    pub grace: Duration,
    pub startup_grace: Duration,
    pub eviction_rate: f64,
    pub secondary_eviction_rate: f64,
    pub unhealthy_zone: f64,
    pub large_cluster: usize,
}

/// Node address ranges.
#[derive(Clone, Debug, Default)]
pub struct Ipam {
    pub allocate: bool,
    pub cluster_cidrs: Vec<String>,
    pub service_cidrs: Vec<String>,
    pub mask_v4: u8,
    pub mask_v6: u8,
}

/// Horizontal pod autoscaling.
#[derive(Clone, Debug, Default)]
pub struct Hpa {
    pub sync_period: Duration,
    pub downscale_stabilization: Duration,
    pub tolerance: f64,
    pub cpu_initialization: Duration,
    pub initial_readiness: Duration,
}

impl Settings {
    /// Workers for `what`, or `default` when the flag family has no such member.
    pub fn workers(&self, what: &str, default: usize) -> usize {
        self.workers.get(what).copied().filter(|n| *n > 0).unwrap_or(default)
    }

    /// Whether a feature gate is on.
    pub fn gate(&self, name: &str) -> bool {
        self.gates.get(name).copied().unwrap_or(false)
    }
}

/// A controller's access to the cluster. Cloning is cheap.
#[derive(Clone)]
pub struct Context {
    pub client: Client,
    pub informers: Arc<Informers>,
    pub settings: Arc<Settings>,
    pub shutdown: CancellationToken,
}

impl Context {
    /// The shared informer of a type.
    pub fn informer<K: Watched>(&self) -> Arc<Shared<K>> {
        self.informers.get()
    }

    /// An event recorder under a component's name.
    pub fn events(&self, component: &str) -> Events {
        Events::new(self.client.clone(), component)
    }

    /// Workers for a controller.
    pub fn workers(&self, name: &'static str, flag: &str, default: usize) -> Workers {
        Workers { name, count: self.settings.workers(flag, default), shutdown: self.shutdown.clone() }
    }
}

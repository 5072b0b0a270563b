//! How to reach etcd.

use std::path::PathBuf;
use std::time::Duration;

/// Files for TLS to etcd.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// `--etcd-cafile`.
    pub ca_file: Option<PathBuf>,
    /// `--etcd-certfile`.
    pub cert_file: Option<PathBuf>,
    /// `--etcd-keyfile`.
    pub key_file: Option<PathBuf>,
}

/// One entry of `--etcd-servers-overrides`: resources below `prefix` live on other servers.
#[derive(Debug, Clone)]
pub struct Override {
    /// Resource prefix in etcd, e.g. `/registry/events/`.
    pub prefix: String,
    /// Servers.
    pub endpoints: Vec<String>,
}

/// `--encryption-provider-config` and what belongs to it.
#[derive(Debug, Clone)]
pub struct EncryptionFile {
    /// The file.
    pub path: PathBuf,
    /// `--encryption-provider-config-automatic-reload`.
    pub reload: bool,
    /// This server's identity, for the metrics.
    pub server: String,
}

/// How to reach etcd, and how much to keep.
#[derive(Debug, Clone)]
pub struct Config {
    /// `--etcd-servers`.
    pub endpoints: Vec<String>,
    /// TLS files; used with `https://` servers.
    pub tls: Tls,
    /// `--etcd-prefix`.
    pub prefix: String,
    /// `--etcd-servers-overrides`.
    pub overrides: Vec<Override>,
    /// Encryption at rest, if there is any.
    pub encryption: Option<EncryptionFile>,
    /// `--etcd-compaction-interval`; zero for never.
    pub compaction_interval: Duration,
    /// `--etcd-healthcheck-timeout`.
    pub health_timeout: Duration,
    /// `--etcd-readycheck-timeout`.
    pub ready_timeout: Duration,
    /// `--lease-reuse-duration-seconds`: objects that expire share a lease this long.
    pub lease_reuse: Duration,
    /// How long one question to etcd may take.
    pub request_timeout: Duration,
    /// Events that a resource remembers for watches from an older revision.
    pub history_events: usize,
    /// The bytes they may pin.
    pub history_bytes: usize,
    /// Events that wait for one watcher before it counts as too slow.
    pub watcher_buffer: usize,
    /// How often watchers that asked for them get bookmarks.
    pub bookmark_interval: Duration,
    /// `--etcd-db-metric-poll-interval`; zero for never.
    pub size_interval: Duration,
    /// Bytes of lazily made JSON to keep in all objects together.
    pub json_budget: usize,
}

impl Config {
    /// The defaults of the flags, for these servers.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Config {
        Config {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            tls: Tls::default(),
            prefix: "/registry".to_owned(),
            overrides: Vec::new(),
            encryption: None,
            compaction_interval: Duration::from_secs(300),
            health_timeout: Duration::from_secs(2),
            ready_timeout: Duration::from_secs(2),
            lease_reuse: Duration::from_secs(60),
            request_timeout: Duration::from_secs(10),
            history_events: 8192,
            history_bytes: 8 << 20,
            watcher_buffer: 1024,
            bookmark_interval: Duration::from_secs(60),
            size_interval: Duration::from_secs(30),
            json_budget: 24 << 20,
        }
    }
}

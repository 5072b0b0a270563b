//! The parts of the configuration that have fields of their own.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Who may use the kubelet's API.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Authentication {
    /// By client certificate.
    pub x509: X509,
    /// By token, asked of the apiserver.
    pub webhook: WebhookAuthentication,
    /// Without any.
    pub anonymous: Enabled,
}

/// Client certificates.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct X509 {
    /// The authorities of clients.
    #[serde(rename = "clientCAFile")]
    pub client_ca_file: String,
}

/// Token review.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WebhookAuthentication {
    /// Whether tokens are taken at all.
    pub enabled: bool,
    /// How long an answer is kept.
    #[serde(rename = "cacheTTL", with = "component::duration")]
    pub cache_ttl: Duration,
}

/// A switch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Enabled {
    /// On.
    pub enabled: bool,
}

/// Who may do what with the kubelet's API.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Authorization {
    /// `AlwaysAllow` or `Webhook`.
    pub mode: String,
    /// Subject access review.
    pub webhook: WebhookAuthorization,
}

/// Subject access review.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WebhookAuthorization {
    /// How long a yes is kept.
    #[serde(rename = "cacheAuthorizedTTL", with = "component::duration")]
    pub cache_authorized_ttl: Duration,
    /// How long a no is kept.
    #[serde(rename = "cacheUnauthorizedTTL", with = "component::duration")]
    pub cache_unauthorized_ttl: Duration,
}

/// Memory of a NUMA node that is not for pods.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemoryReservation {
    /// The node.
    pub numa_node: i32,
    /// How much, by resource.
    pub limits: BTreeMap<String, Quantity>,
}

/// Restart back-off.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CrashLoopBackOff {
    /// The longest wait.
    #[serde(with = "component::duration::option")]
    pub max_container_restart_period: Option<Duration>,
}

/// How pods may use swap.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemorySwap {
    /// `NoSwap` (also if empty) or `LimitedSwap`.
    pub swap_behavior: String,
}

/// How the kubelet logs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Logging {
    /// `text` or `json`.
    pub format: String,
    /// How often what is logged is written, at the latest.
    pub flush_frequency: Value,
    /// How much is logged.
    pub verbosity: u32,
    /// How much by file.
    pub vmodule: Vec<FileVerbosity>,
    /// Options by format.
    pub options: Value,
}

/// How much a source file logs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FileVerbosity {
    /// The file's name without its ending; a `*` at the end stands for any rest.
    pub file_pattern: String,
    /// How much.
    pub verbosity: u32,
}

/// Pods of this priority and above get so many seconds when the node shuts down.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GraceOfPriority {
    /// The priority.
    pub priority: i32,
    /// The seconds.
    pub shutdown_grace_period_seconds: i64,
}

/// Where traces go.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tracing {
    /// The collector.
    pub endpoint: Option<String>,
    /// How many of a million.
    pub sampling_rate_per_million: Option<i32>,
}

/// User namespaces.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UserNamespaces {
    /// Ids of each pod.
    pub ids_per_pod: Option<i64>,
}

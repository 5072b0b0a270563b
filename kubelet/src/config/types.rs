//! `KubeletConfiguration` v1beta1: every field, with its default.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The configuration of the kubelet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct KubeletConfiguration {
    pub enable_server: bool,
    pub static_pod_path: String,
    pub pod_logs_dir: String,
    #[serde(with = "component::duration")]
    pub sync_frequency: Duration,
    #[serde(with = "component::duration")]
    pub file_check_frequency: Duration,
    #[serde(with = "component::duration")]
    pub http_check_frequency: Duration,
    #[serde(rename = "staticPodURL")]
    pub static_pod_url: String,
    #[serde(rename = "staticPodURLHeader")]
    pub static_pod_url_header: BTreeMap<String, Vec<String>>,
    pub address: String,
    pub port: i32,
    pub read_only_port: i32,
    pub tls_cert_file: String,
    pub tls_private_key_file: String,
    pub tls_cipher_suites: Vec<String>,
    pub tls_curve_preferences: Vec<i32>,
    pub tls_min_version: String,
    pub rotate_certificates: bool,
    #[serde(rename = "serverTLSBootstrap")]
    pub server_tls_bootstrap: bool,
    pub authentication: Authentication,
    pub authorization: Authorization,
    #[serde(rename = "registryPullQPS")]
    pub registry_pull_qps: i32,
    pub registry_burst: i32,
    pub image_pull_credentials_verification_policy: String,
    pub preloaded_images_verification_allowlist: Vec<String>,
    #[serde(rename = "eventRecordQPS")]
    pub event_record_qps: i32,
    pub event_burst: i32,
    pub enable_debugging_handlers: bool,
    pub enable_contention_profiling: bool,
    pub healthz_port: i32,
    pub healthz_bind_address: String,
    pub oom_score_adj: i32,
    pub cluster_domain: String,
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Vec<String>,
    #[serde(with = "component::duration")]
    pub streaming_connection_idle_timeout: Duration,
    #[serde(with = "component::duration")]
    pub node_status_update_frequency: Duration,
    #[serde(with = "component::duration")]
    pub node_status_report_frequency: Duration,
    pub node_lease_duration_seconds: i32,
    #[serde(rename = "imageMinimumGCAge", with = "component::duration")]
    pub image_minimum_gc_age: Duration,
    #[serde(rename = "imageMaximumGCAge", with = "component::duration")]
    pub image_maximum_gc_age: Duration,
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: i32,
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: i32,
    #[serde(with = "component::duration")]
    pub volume_stats_agg_period: Duration,
    pub kubelet_cgroups: String,
    pub system_cgroups: String,
    pub cgroup_root: String,
    #[serde(rename = "cgroupsPerQOS")]
    pub cgroups_per_qos: bool,
    pub cgroup_driver: String,
    pub cpu_manager_policy: String,
    #[serde(rename = "singleProcessOOMKill")]
    pub single_process_oom_kill: Option<bool>,
    pub cpu_manager_policy_options: BTreeMap<String, String>,
    #[serde(with = "component::duration")]
    pub cpu_manager_reconcile_period: Duration,
    pub memory_manager_policy: String,
    pub topology_manager_policy: String,
    pub topology_manager_scope: String,
    pub topology_manager_policy_options: BTreeMap<String, String>,
    pub qos_reserved: BTreeMap<String, String>,
    #[serde(with = "component::duration")]
    pub runtime_request_timeout: Duration,
    pub hairpin_mode: String,
    pub max_pods: i32,
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    pub pod_pids_limit: i64,
    pub resolv_conf: String,
    pub run_once: bool,
    #[serde(rename = "cpuCFSQuota")]
    pub cpu_cfs_quota: bool,
    #[serde(rename = "cpuCFSQuotaPeriod", with = "component::duration")]
    pub cpu_cfs_quota_period: Duration,
    pub node_status_max_images: i32,
    pub max_open_files: i64,
    pub content_type: String,
    #[serde(rename = "kubeAPIQPS")]
    pub kube_api_qps: i32,
    #[serde(rename = "kubeAPIBurst")]
    pub kube_api_burst: i32,
    pub serialize_image_pulls: bool,
    pub max_parallel_image_pulls: Option<i32>,
    pub eviction_hard: BTreeMap<String, String>,
    pub eviction_soft: BTreeMap<String, String>,
    pub eviction_soft_grace_period: BTreeMap<String, String>,
    #[serde(with = "component::duration")]
    pub eviction_pressure_transition_period: Duration,
    pub eviction_max_pod_grace_period: i32,
    pub eviction_minimum_reclaim: BTreeMap<String, String>,
    pub merge_default_eviction_settings: bool,
    pub pods_per_core: i32,
    pub enable_controller_attach_detach: bool,
    pub protect_kernel_defaults: bool,
    #[serde(rename = "makeIPTablesUtilChains")]
    pub make_iptables_util_chains: bool,
    pub iptables_masquerade_bit: i32,
    pub iptables_drop_bit: i32,
    pub feature_gates: BTreeMap<String, bool>,
    pub fail_swap_on: bool,
    pub memory_swap: Value,
    pub container_log_max_size: String,
    pub container_log_max_files: i32,
    pub container_log_max_workers: i32,
    #[serde(with = "component::duration")]
    pub container_log_monitor_interval: Duration,
    pub config_map_and_secret_change_detection_strategy: String,
    pub system_reserved: BTreeMap<String, String>,
    pub kube_reserved: BTreeMap<String, String>,
    #[serde(rename = "reservedSystemCPUs")]
    pub reserved_system_cpus: String,
    pub show_hidden_metrics_for_version: String,
    pub system_reserved_cgroup: String,
    pub kube_reserved_cgroup: String,
    pub enforce_node_allocatable: Vec<String>,
    pub allowed_unsafe_sysctls: Vec<String>,
    pub volume_plugin_dir: String,
    #[serde(rename = "providerID")]
    pub provider_id: String,
    pub kernel_memcg_notification: bool,
    pub logging: Value,
    pub enable_system_log_handler: bool,
    pub enable_system_log_query: Option<bool>,
    #[serde(with = "component::duration")]
    pub shutdown_grace_period: Duration,
    #[serde(with = "component::duration")]
    pub shutdown_grace_period_critical_pods: Duration,
    pub shutdown_grace_period_by_pod_priority: Vec<Value>,
    pub crash_loop_back_off: CrashLoopBackOff,
    pub reserved_memory: Vec<Value>,
    pub enable_profiling_handler: bool,
    pub enable_debug_flags_handler: bool,
    pub seccomp_default: bool,
    pub memory_throttling_factor: f64,
    pub memory_reservation_policy: String,
    pub register_with_taints: Vec<Taint>,
    pub register_node: bool,
    pub tracing: Option<Value>,
    pub local_storage_capacity_isolation: bool,
    pub container_runtime_endpoint: String,
    pub image_service_endpoint: String,
    pub fail_cgroup_v1: bool,
    pub user_namespaces: Option<Value>,
}

/// Who may use the kubelet's API.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
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
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct X509 {
    /// The authorities of clients.
    #[serde(rename = "clientCAFile")]
    pub client_ca_file: String,
}

/// Token review.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct WebhookAuthentication {
    /// Whether tokens are taken at all.
    pub enabled: bool,
    /// How long an answer is kept.
    #[serde(rename = "cacheTTL", with = "component::duration")]
    pub cache_ttl: Duration,
}

/// A switch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Enabled {
    /// On.
    pub enabled: bool,
}

/// Who may do what with the kubelet's API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Authorization {
    /// `AlwaysAllow` or `Webhook`.
    pub mode: String,
    /// Subject access review.
    pub webhook: WebhookAuthorization,
}

/// Subject access review.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct WebhookAuthorization {
    /// How long a yes is kept.
    #[serde(rename = "cacheAuthorizedTTL", with = "component::duration")]
    pub cache_authorized_ttl: Duration,
    /// How long a no is kept.
    #[serde(rename = "cacheUnauthorizedTTL", with = "component::duration")]
    pub cache_unauthorized_ttl: Duration,
}

/// Restart back-off.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CrashLoopBackOff {
    /// The longest wait.
    #[serde(with = "component::duration::option")]
    pub max_container_restart_period: Option<Duration>,
}

fn duration(text: &str) -> Duration {
    component::duration::parse(text).unwrap_or_default()
}

impl Default for WebhookAuthentication {
    fn default() -> Self {
        Self { enabled: true, cache_ttl: duration("2m") }
    }
}

impl Default for Authorization {
    fn default() -> Self {
        Self { mode: "Webhook".into(), webhook: WebhookAuthorization::default() }
    }
}

impl Default for WebhookAuthorization {
    fn default() -> Self {
        Self { cache_authorized_ttl: duration("5m"), cache_unauthorized_ttl: duration("30s") }
    }
}

/// A configuration without a word in it.
fn empty() -> KubeletConfiguration {
    // Written out by serde from its zero values.
    KubeletConfiguration {
        enable_server: Default::default(),
        static_pod_path: Default::default(),
        pod_logs_dir: Default::default(),
        sync_frequency: Default::default(),
        file_check_frequency: Default::default(),
        http_check_frequency: Default::default(),
        static_pod_url: Default::default(),
        static_pod_url_header: Default::default(),
        address: Default::default(),
        port: Default::default(),
        read_only_port: Default::default(),
        tls_cert_file: Default::default(),
        tls_private_key_file: Default::default(),
        tls_cipher_suites: Default::default(),
        tls_curve_preferences: Default::default(),
        tls_min_version: Default::default(),
        rotate_certificates: Default::default(),
        server_tls_bootstrap: Default::default(),
        authentication: Default::default(),
        authorization: Default::default(),
        registry_pull_qps: Default::default(),
        registry_burst: Default::default(),
        image_pull_credentials_verification_policy: Default::default(),
        preloaded_images_verification_allowlist: Default::default(),
        event_record_qps: Default::default(),
        event_burst: Default::default(),
        enable_debugging_handlers: Default::default(),
        enable_contention_profiling: Default::default(),
        healthz_port: Default::default(),
        healthz_bind_address: Default::default(),
        oom_score_adj: Default::default(),
        cluster_domain: Default::default(),
        cluster_dns: Default::default(),
        streaming_connection_idle_timeout: Default::default(),
        node_status_update_frequency: Default::default(),
        node_status_report_frequency: Default::default(),
        node_lease_duration_seconds: Default::default(),
        image_minimum_gc_age: Default::default(),
        image_maximum_gc_age: Default::default(),
        image_gc_high_threshold_percent: Default::default(),
        image_gc_low_threshold_percent: Default::default(),
        volume_stats_agg_period: Default::default(),
        kubelet_cgroups: Default::default(),
        system_cgroups: Default::default(),
        cgroup_root: Default::default(),
        cgroups_per_qos: Default::default(),
        cgroup_driver: Default::default(),
        cpu_manager_policy: Default::default(),
        single_process_oom_kill: Default::default(),
        cpu_manager_policy_options: Default::default(),
        cpu_manager_reconcile_period: Default::default(),
        memory_manager_policy: Default::default(),
        topology_manager_policy: Default::default(),
        topology_manager_scope: Default::default(),
        topology_manager_policy_options: Default::default(),
        qos_reserved: Default::default(),
        runtime_request_timeout: Default::default(),
        hairpin_mode: Default::default(),
        max_pods: Default::default(),
        pod_cidr: Default::default(),
        pod_pids_limit: Default::default(),
        resolv_conf: Default::default(),
        run_once: Default::default(),
        cpu_cfs_quota: Default::default(),
        cpu_cfs_quota_period: Default::default(),
        node_status_max_images: Default::default(),
        max_open_files: Default::default(),
        content_type: Default::default(),
        kube_api_qps: Default::default(),
        kube_api_burst: Default::default(),
        serialize_image_pulls: Default::default(),
        max_parallel_image_pulls: Default::default(),
        eviction_hard: Default::default(),
        eviction_soft: Default::default(),
        eviction_soft_grace_period: Default::default(),
        eviction_pressure_transition_period: Default::default(),
        eviction_max_pod_grace_period: Default::default(),
        eviction_minimum_reclaim: Default::default(),
        merge_default_eviction_settings: Default::default(),
        pods_per_core: Default::default(),
        enable_controller_attach_detach: Default::default(),
        protect_kernel_defaults: Default::default(),
        make_iptables_util_chains: Default::default(),
        iptables_masquerade_bit: Default::default(),
        iptables_drop_bit: Default::default(),
        feature_gates: Default::default(),
        fail_swap_on: Default::default(),
        memory_swap: Default::default(),
        container_log_max_size: Default::default(),
        container_log_max_files: Default::default(),
        container_log_max_workers: Default::default(),
        container_log_monitor_interval: Default::default(),
        config_map_and_secret_change_detection_strategy: Default::default(),
        system_reserved: Default::default(),
        kube_reserved: Default::default(),
        reserved_system_cpus: Default::default(),
        show_hidden_metrics_for_version: Default::default(),
        system_reserved_cgroup: Default::default(),
        kube_reserved_cgroup: Default::default(),
        enforce_node_allocatable: Default::default(),
        allowed_unsafe_sysctls: Default::default(),
        volume_plugin_dir: Default::default(),
        provider_id: Default::default(),
        kernel_memcg_notification: Default::default(),
        logging: Default::default(),
        enable_system_log_handler: Default::default(),
        enable_system_log_query: Default::default(),
        shutdown_grace_period: Default::default(),
        shutdown_grace_period_critical_pods: Default::default(),
        shutdown_grace_period_by_pod_priority: Default::default(),
        crash_loop_back_off: Default::default(),
        reserved_memory: Default::default(),
        enable_profiling_handler: Default::default(),
        enable_debug_flags_handler: Default::default(),
        seccomp_default: Default::default(),
        memory_throttling_factor: Default::default(),
        memory_reservation_policy: Default::default(),
        register_with_taints: Default::default(),
        register_node: Default::default(),
        tracing: Default::default(),
        local_storage_capacity_isolation: Default::default(),
        container_runtime_endpoint: Default::default(),
        image_service_endpoint: Default::default(),
        fail_cgroup_v1: Default::default(),
        user_namespaces: Default::default(),
    }
}

impl Default for KubeletConfiguration {
    fn default() -> Self {
        Self {
            enable_server: true,
            pod_logs_dir: "/var/log/pods".into(),
            sync_frequency: duration("1m0s"),
            file_check_frequency: duration("20s"),
            http_check_frequency: duration("20s"),
            address: "0.0.0.0".into(),
            port: 10_250,
            registry_pull_qps: 5,
            registry_burst: 10,
            image_pull_credentials_verification_policy: "NeverVerifyPreloadedImages".into(),
            event_record_qps: 50,
            event_burst: 100,
            enable_debugging_handlers: true,
            healthz_port: 10_248,
            healthz_bind_address: "127.0.0.1".into(),
            oom_score_adj: -999,
            streaming_connection_idle_timeout: duration("4h0m0s"),
            node_status_update_frequency: duration("10s"),
            node_status_report_frequency: duration("5m0s"),
            node_lease_duration_seconds: 40,
            image_minimum_gc_age: duration("2m0s"),
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            volume_stats_agg_period: duration("1m0s"),
            cgroups_per_qos: true,
            cgroup_driver: "cgroupfs".into(),
            cpu_manager_policy: "none".into(),
            cpu_manager_reconcile_period: duration("10s"),
            memory_manager_policy: "None".into(),
            topology_manager_policy: "none".into(),
            topology_manager_scope: "container".into(),
            runtime_request_timeout: duration("2m0s"),
            hairpin_mode: "promiscuous-bridge".into(),
            max_pods: 110,
            pod_pids_limit: -1,
            resolv_conf: "/etc/resolv.conf".into(),
            cpu_cfs_quota: true,
            cpu_cfs_quota_period: duration("100ms"),
            node_status_max_images: 50,
            max_open_files: 1_000_000,
            content_type: "application/vnd.kubernetes.protobuf".into(),
            kube_api_qps: 50,
            kube_api_burst: 100,
            serialize_image_pulls: true,
            eviction_pressure_transition_period: duration("5m0s"),
            enable_controller_attach_detach: true,
            make_iptables_util_chains: true,
            iptables_masquerade_bit: 14,
            iptables_drop_bit: 15,
            fail_swap_on: true,
            container_log_max_size: "10Mi".into(),
            container_log_max_files: 5,
            container_log_max_workers: 1,
            container_log_monitor_interval: duration("10s"),
            config_map_and_secret_change_detection_strategy: "Watch".into(),
            enforce_node_allocatable: vec!["pods".into()],
            volume_plugin_dir: "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/".into(),
            enable_system_log_handler: true,
            enable_profiling_handler: true,
            enable_debug_flags_handler: true,
            memory_throttling_factor: 0.9,
            memory_reservation_policy: "None".into(),
            register_node: true,
            local_storage_capacity_isolation: true,
            container_runtime_endpoint: "unix:///run/containerd/containerd.sock".into(),
            fail_cgroup_v1: true,
            ..empty()
        }
    }
}

/// Fields for which `null` and zero differ: all others take their default at zero, as upstream.
pub const NULLABLE: &[&str] = &[
    "enableServer",
    "registryPullQPS",
    "eventRecordQPS",
    "enableDebuggingHandlers",
    "healthzPort",
    "oomScoreAdj",
    "imageGCHighThresholdPercent",
    "imageGCLowThresholdPercent",
    "cgroupsPerQOS",
    "singleProcessOOMKill",
    "podPidsLimit",
    "resolvConf",
    "cpuCFSQuota",
    "cpuCFSQuotaPeriod",
    "nodeStatusMaxImages",
    "kubeAPIQPS",
    "serializeImagePulls",
    "maxParallelImagePulls",
    "mergeDefaultEvictionSettings",
    "enableControllerAttachDetach",
    "makeIPTablesUtilChains",
    "iptablesMasqueradeBit",
    "iptablesDropBit",
    "failSwapOn",
    "containerLogMaxFiles",
    "containerLogMaxWorkers",
    "containerLogMonitorInterval",
    "enableSystemLogHandler",
    "enableSystemLogQuery",
    "enableProfilingHandler",
    "enableDebugFlagsHandler",
    "seccompDefault",
    "memoryThrottlingFactor",
    "registerNode",
    "tracing",
    "localStorageCapacityIsolation",
    "failCgroupV1",
    "userNamespaces",
];

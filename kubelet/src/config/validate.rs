//! What a configuration may not say, in upstream's words.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use component::gates::Gates;
use kubelet_resources::CpuSet;
use volumes::quantity;

use super::KubeletConfiguration;
use crate::backoff::go_duration;
use crate::eviction::thresholds;

/// All that is wrong.
pub fn errors(config: &KubeletConfiguration, gates: &Gates) -> Vec<String> {
    let mut out = Vec::new();
    numbers(config, &mut out);
    images(config, gates, &mut out);
    managers(config, &mut out);
    reservations(config, &mut out);
    shutdown(config, gates, &mut out);
    files(config, &mut out);
    choices(config, gates, &mut out);
    let mut out: Vec<String> = out.into_iter().map(|e| format!("invalid configuration: {e}")).collect();
    if let Err(error) = thresholds::parse(config) {
        out.push(error);
    }
    out
}

fn numbers(c: &KubeletConfiguration, out: &mut Vec<String>) {
    for (value, name) in [
        (i64::from(c.event_burst), "eventBurst (--event-burst)"),
        (i64::from(c.event_record_qps), "eventRecordQPS (--event-qps)"),
        (i64::from(c.kube_api_burst), "kubeAPIBurst (--kube-api-burst)"),
        (i64::from(c.kube_api_qps), "kubeAPIQPS (--kube-api-qps)"),
        (c.max_open_files, "maxOpenFiles (--max-open-files)"),
        (i64::from(c.max_pods), "maxPods (--max-pods)"),
        (i64::from(c.pods_per_core), "podsPerCore (--pods-per-core)"),
        (i64::from(c.registry_burst), "registryBurst (--registry-burst)"),
        (i64::from(c.registry_pull_qps), "registryPullQPS (--registry-qps)"),
    ] {
        if value < 0 {
            out.push(format!("{name} {value} must not be a negative number"));
        }
    }
    for (value, low, high, name) in [
        (c.port, 1, 65_535, "port (--port)"),
        (
            c.image_gc_high_threshold_percent,
            0,
            100,
            "imageGCHighThresholdPercent (--image-gc-high-threshold)",
        ),
        (c.image_gc_low_threshold_percent, 0, 100, "imageGCLowThresholdPercent (--image-gc-low-threshold)"),
        (c.iptables_drop_bit, 0, 31, "iptablesDropBit (--iptables-drop-bit)"),
        (c.iptables_masquerade_bit, 0, 31, "iptablesMasqueradeBit (--iptables-masquerade-bit)"),
        (c.oom_score_adj, -1000, 1000, "oomScoreAdj (--oom-score-adj)"),
        (c.read_only_port, 0, 65_535, "readOnlyPort (--read-only-port)"),
    ] {
        if !(low..=high).contains(&value) {
            out.push(format!("{name} {value} must be between {low} and {high}, inclusive"));
        }
    }
    if c.healthz_port != 0 && !(1..=65_535).contains(&c.healthz_port) {
        let port = c.healthz_port;
        out.push(format!("healthzPort (--healthz-port) {port} must be between 1 and 65535, inclusive"));
    }
    if c.node_lease_duration_seconds <= 0 {
        out.push("nodeLeaseDurationSeconds must be greater than 0".into());
    }
    if c.node_status_max_images < -1 {
        let most = c.node_status_max_images;
        out.push(format!("nodeStatusMaxImages (--node-status-max-images) {most} must be -1 or greater"));
    }
    let period = c.cpu_cfs_quota_period;
    if !(Duration::from_millis(1)..=Duration::from_secs(1)).contains(&period) {
        let period = go_duration(period);
        out.push(format!(
            "cpuCFSQuotaPeriod (--cpu-cfs-quota-period) {{{period}}} must be between 1ms and 1sec, inclusive"
        ));
    }
    if c.memory_throttling_factor <= 0.0 || c.memory_throttling_factor > 1.0 {
        let factor = c.memory_throttling_factor;
        out.push(format!(
            "memoryThrottlingFactor {factor} must be greater than 0 and less than or equal to 1.0"
        ));
    }
}

fn images(c: &KubeletConfiguration, gates: &Gates, out: &mut Vec<String>) {
    let (low, high) = (c.image_gc_low_threshold_percent, c.image_gc_high_threshold_percent);
    if low >= high {
        out.push(format!(
            "imageGCLowThresholdPercent (--image-gc-low-threshold) {low} must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) {high}"
        ));
    }
    let (most, least) = (c.image_maximum_gc_age, c.image_minimum_gc_age);
    if !most.is_zero() && most <= least {
        out.push(format!(
            "imageMaximumGCAge {} must be greater than imageMinimumGCAge {}",
            go_duration(most),
            go_duration(least)
        ));
    }
    if let Some(n) = c.max_parallel_image_pulls {
        if n < 1 {
            out.push(format!("maxParallelImagePulls {n} must be a positive number"));
        }
        if c.serialize_image_pulls && n > 1 {
            out.push("maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls (--serialize-image-pulls) is set to false".into());
        }
    }
    let policy = c.image_pull_credentials_verification_policy.as_str();
    let policies =
        ["NeverVerify", "NeverVerifyPreloadedImages", "NeverVerifyAllowlistedImages", "AlwaysVerify"];
    if gates.enabled("KubeletEnsureSecretPulledImages") {
        if !policies.contains(&policy) {
            let [a, b, x, d] = policies;
            out.push(format!("option {policy:?} specified for imagePullCredentialsVerificationPolicy. Valid options are {a:?}, {b:?}, {x:?} or {d:?}"));
        }
        if !c.preloaded_images_verification_allowlist.is_empty() && policy != "NeverVerifyAllowlistedImages" {
            out.push("can't set `preloadedImagesVerificationAllowlist` if `imagePullCredentialsVertificationPolicy` is not \"NeverVerifyAllowlistedImages\"".into());
        }
    }
}

fn managers(c: &KubeletConfiguration, out: &mut Vec<String>) {
    let policies = ["none", "best-effort", "restricted", "single-numa-node"];
    if !policies.contains(&c.topology_manager_policy.as_str()) {
        out.push(format!(
            "topologyManagerPolicy (--topology-manager-policy) {:?} must be one of: [\"{}\"]",
            c.topology_manager_policy,
            policies.join("\" \"")
        ));
    }
    if !matches!(c.topology_manager_scope.as_str(), "container" | "pod") {
        out.push(format!(
            "topologyManagerScope (--topology-manager-scope) {:?} must be one of: \"container\", or \"pod\"",
            c.topology_manager_scope
        ));
    }
    if !matches!(c.cpu_manager_policy.as_str(), "none" | "static") {
        out.push(format!("unknown policy: {:?} for cpuManagerPolicy", c.cpu_manager_policy));
    }
    if !matches!(c.memory_manager_policy.as_str(), "None" | "Static") {
        out.push(format!("unknown policy: {:?} for memoryManagerPolicy", c.memory_manager_policy));
    }
    let mut seen = BTreeSet::new();
    for entry in &c.reserved_memory {
        let node = entry.numa_node;
        for (name, amount) in &entry.limits {
            if name != "memory" && !name.starts_with("hugepages-") {
                out.push(format!("the limit type {name:?} for NUMA node {node} is not supported, only [memory hugepages-<HugePageSize>] is accepted"));
            }
            if quantity::units(&amount.0).unwrap_or(0) == 0 {
                out.push(format!(
                    "reserved memory may not be zero for NUMA node {node} and resource {name:?}"
                ));
            }
            if !seen.insert((node, name)) {
                out.push(format!(
                    "the reserved memory has a duplicate value for NUMA node {node} and resource {name:?}"
                ));
            }
        }
    }
}

const POOLS: [&str; 6] = [
    "pods",
    "system-reserved",
    "system-reserved-compressible",
    "kube-reserved",
    "kube-reserved-compressible",
    "none",
];

fn reservations(c: &KubeletConfiguration, out: &mut Vec<String>) {
    let list = &c.enforce_node_allocatable;
    let place = "enforceNodeAllocatable (--enforce-node-allocatable)";
    let has = |name: &str| list.iter().any(|e| e == name);
    for pool in ["system-reserved", "kube-reserved"] {
        let compressible = format!("{pool}-compressible");
        if has(pool) && has(&compressible) {
            out.push(format!("both {pool:?} and {compressible:?} cannot be specified together in {place}"));
        }
    }
    let mut seen = BTreeSet::new();
    for pool in list {
        if !seen.insert(pool) {
            out.push(format!("duplicated enforcements {pool:?} in {place}"));
            continue;
        }
        let missing = match pool.as_str() {
            "pods" => None,
            "none" => {
                if list.len() > 1 {
                    out.push(format!(
                        "{place} may not contain additional enforcements when {pool:?} is specified"
                    ));
                }
                continue;
            }
            p if p.starts_with("system-reserved") && POOLS.contains(&p) => c
                .system_reserved_cgroup
                .is_empty()
                .then_some(("systemReservedCgroup (--system-reserved-cgroup)", "system-reserved")),
            p if POOLS.contains(&p) => c
                .kube_reserved_cgroup
                .is_empty()
                .then_some(("kubeReservedCgroup (--kube-reserved-cgroup)", "kube-reserved")),
            _ => {
                let [rest @ .., last] = POOLS.map(|p| format!("{p:?}"));
                let rest = rest.join(", ");
                out.push(format!(
                    "option {pool:?} specified for {place}. Valid options are {rest} or {last}"
                ));
                continue;
            }
        };
        if let Some((field, name)) = missing {
            let compressible = format!("{name}-compressible");
            out.push(format!(
                "{field} must be specified when {name:?} or {compressible:?} included in {place}"
            ));
        }
        if !c.cgroups_per_qos {
            out.push(format!(
                "cgroupsPerQOS (--cgroups-per-qos) must be set to true when {pool:?} contained in {place}"
            ));
        }
    }
    let cpus = &c.reserved_system_cpus;
    if !cpus.is_empty() {
        if !c.system_reserved_cgroup.is_empty() || !c.kube_reserved_cgroup.is_empty() {
            out.push("can't use reservedSystemCPUs (--reserved-cpus) with systemReservedCgroup (--system-reserved-cgroup) or kubeReservedCgroup (--kube-reserved-cgroup)".into());
        }
        if let Err(error) = cpus.parse::<CpuSet>() {
            out.push(format!("unable to parse reservedSystemCPUs (--reserved-cpus) {cpus}, error: {error}"));
        }
    }
    for (field, list) in [("systemReserved", &c.system_reserved), ("kubeReserved", &c.kube_reserved)] {
        for (name, amount) in list {
            if !matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage" | "pid") {
                out.push(format!("cannot reserve {name:?} resource in {field}"));
            } else if quantity::milli(amount).is_none() {
                out.push(format!("{field}: failed to parse quantity {amount:?} for {name:?} resource"));
            } else if amount.starts_with('-') {
                out.push(format!("resource quantity for {name:?} cannot be negative: {amount}"));
            }
        }
    }
    for (name, share) in &c.qos_reserved {
        let percent = share.strip_suffix('%').and_then(|p| p.parse::<i64>().ok());
        if name != "memory" {
            out.push(format!("cannot reserve {name:?} resource"));
        } else if !percent.is_some_and(|p| (0..=100).contains(&p)) {
            out.push(format!("failed to parse percentage {share:?} for {name:?} resource"));
        }
    }
    if !c.system_cgroups.is_empty() && c.cgroup_root.is_empty() {
        out.push(
            "systemCgroups (--system-cgroups) was specified and cgroupRoot (--cgroup-root) was not specified"
                .into(),
        );
    }
}

fn shutdown(c: &KubeletConfiguration, gates: &Gates, out: &mut Vec<String>) {
    let (all, critical) = (c.shutdown_grace_period, c.shutdown_grace_period_critical_pods);
    let any = !all.is_zero() || !critical.is_zero();
    let by_priority = !c.shutdown_grace_period_by_pod_priority.is_empty();
    if gates.enabled("GracefulNodeShutdown") {
        if critical > all {
            out.push(format!(
                "shutdownGracePeriodCriticalPods {} must be <= shutdownGracePeriod {}",
                go_duration(critical),
                go_duration(all)
            ));
        }
        for (name, period) in [("shutdownGracePeriod", all), ("shutdownGracePeriodCriticalPods", critical)] {
            if !period.is_zero() && period < Duration::from_secs(1) {
                out.push(format!("{name} {} must be either zero or otherwise >= 1 sec", go_duration(period)));
            }
        }
    } else if any {
        out.push("specifying shutdownGracePeriod or shutdownGracePeriodCriticalPods requires feature gate GracefulNodeShutdown".into());
    }
    match gates.enabled("GracefulNodeShutdownBasedOnPodPriority") {
        true if by_priority && any => {
            out.push("Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time".into());
        }
        false if by_priority => {
            out.push("Specifying shutdownGracePeriodByPodPriority requires feature gate GracefulNodeShutdownBasedOnPodPriority".into());
        }
        _ => {}
    }
}

fn files(c: &KubeletConfiguration, out: &mut Vec<String>) {
    if c.container_runtime_endpoint.is_empty() {
        out.push("the containerRuntimeEndpoint was not specified or empty".into());
    }
    if c.container_log_max_workers < 1 {
        out.push("containerLogMaxWorkers must be greater than or equal to 1".into());
    }
    if c.container_log_monitor_interval < Duration::from_secs(3) {
        out.push(
            "containerLogMonitorInterval must be a positive time duration greater than or equal to 3s".into(),
        );
    }
    if c.container_log_max_files <= 1 {
        out.push("containerLogMaxFiles must be greater than 1".into());
    }
    if quantity::units(&c.container_log_max_size).is_none() {
        out.push(format!("containerLogMaxSize {:?} is not a quantity", c.container_log_max_size));
    }
    let logs = &c.pod_logs_dir;
    if !Path::new(logs).is_absolute() {
        out.push(format!("pod logs path {logs:?} must be absolute path"));
    }
    let unclean = |part: &str| part.is_empty() || part == "." || part == "..";
    if logs.len() > 1 && logs.split('/').skip(1).any(unclean) {
        out.push(format!("pod logs path {logs:?} must be normalized"));
    }
    if !logs.is_ascii() {
        out.push(format!("pod logs path {logs:?} mut contains ASCII characters only"));
    }
    let query = c.enable_system_log_query.unwrap_or(false);
    if query && !c.enable_system_log_handler {
        out.push("enableSystemLogHandler is required for enableSystemLogQuery".into());
    }
}

fn choices(c: &KubeletConfiguration, gates: &Gates, out: &mut Vec<String>) {
    for (field, value, valid) in [
        (
            "hairpinMode (--hairpin-mode)",
            &c.hairpin_mode,
            &["none", "hairpin-veth", "promiscuous-bridge"][..],
        ),
        ("memoryReservationPolicy", &c.memory_reservation_policy, &["None", "TieredReservation"]),
    ] {
        if !valid.contains(&value.as_str()) {
            let quoted: Vec<String> = valid.iter().map(|v| format!("{v:?}")).collect();
            let (last, rest) =
                quoted.split_last().map_or(("", Default::default()), |(l, r)| (l.as_str(), r.join(", ")));
            out.push(format!("option {value:?} specified for {field}. Valid options are {rest} or {last}"));
        }
    }
    if !matches!(c.cgroup_driver.as_str(), "cgroupfs" | "systemd") {
        out.push(format!(
            "cgroupDriver (--cgroup-driver) {:?} must be one of \"cgroupfs\" or \"systemd\"",
            c.cgroup_driver
        ));
    }
    if !matches!(c.authorization.mode.as_str(), "AlwaysAllow" | "Webhook") {
        out.push(format!(
            "authorization.mode {:?} is not one of \"AlwaysAllow\" or \"Webhook\"",
            c.authorization.mode
        ));
    }
    let strategy = c.config_map_and_secret_change_detection_strategy.as_str();
    if !matches!(strategy, "Get" | "Cache" | "Watch") {
        out.push(format!("unknown configmap and secret manager mode: {strategy}"));
    }
    let swap = c.memory_swap.swap_behavior.as_str();
    if !matches!(swap, "" | "NoSwap" | "LimitedSwap") {
        out.push(format!(
            "memorySwap.swapBehavior {swap:?} must be one of: \"\", \"LimitedSwap\" or \"NoSwap\""
        ));
    }
    if c.server_tls_bootstrap && !gates.enabled("RotateKubeletServerCertificate") {
        out.push("serverTLSBootstrap true requires feature gate RotateKubeletServerCertificate".into());
    }
    if let Some(ids) = c.user_namespaces.as_ref().and_then(|u| u.ids_per_pod)
        && (ids < 65_536 || ids % 65_536 != 0 || ids > i64::from(u32::MAX))
    {
        out.push(format!("userNamespaces.idsPerPod {ids} must be a multiple of 65536"));
    }
    if c.run_once {
        out.push("runOnce (--runOnce) true, Runonce mode has been deprecated and should not be set".into());
    }
    if let Some(period) = c.crash_loop_back_off.max_container_restart_period {
        let seconds = period.as_secs_f64();
        if !gates.enabled("KubeletCrashLoopBackOffMax") {
            out.push("FeatureGate KubeletCrashLoopBackOffMax not enabled, CrashLoopBackOff.MaxContainerRestartPeriod must not be set".into());
        } else if !(1.0..=300.0).contains(&seconds) {
            out.push(format!("CrashLoopBackOff.MaxContainerRestartPeriod (got: {seconds} seconds) must be set between 1s and 300s"));
        }
    }
    for taint in &c.register_with_taints {
        if taint.key.is_empty()
            || !matches!(taint.effect.as_str(), "NoSchedule" | "PreferNoSchedule" | "NoExecute")
        {
            out.push(format!(
                "invalid taint: {}={}:{}",
                taint.key,
                taint.value.as_deref().unwrap_or_default(),
                taint.effect
            ));
        }
        if taint.time_added.is_some() {
            out.push("taint.TimeAdded is not nil".into());
        }
    }
}

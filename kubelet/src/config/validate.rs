//! What a configuration may not say, in upstream's words.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use component::gates::Gates;
use kubelet_resources::CpuSet;
use serde_json::{Map, Value};
use volumes::quantity;

use super::KubeletConfiguration;
use crate::backoff::go_duration;

mod late;

pub use late::late;

/// All that is wrong. The value has what was written: negative durations, which the fields do not hold.
pub fn errors(config: &KubeletConfiguration, value: &Map<String, Value>, gates: &Gates) -> Vec<String> {
    let mut out = Vec::new();
    numbers(config, &mut out);
    negative(value, &mut out);
    images(config, gates, &mut out);
    topology(config, &mut out);
    reserved_memory(config, &mut out);
    reservations(config, &mut out);
    shutdown(config, value, gates, &mut out);
    files(config, &mut out);
    choices(config, gates, &mut out);
    let mut out: Vec<String> = out.into_iter().map(|e| format!("invalid configuration: {e}")).collect();
    out.extend(taints(config));
    out.extend(observability(config));
    out.extend(of_the_machine(config));
    out
}

/// A duration that was written, in nanoseconds.
fn written(value: &Map<String, Value>, name: &str) -> i64 {
    value.get(name).and_then(Value::as_str).and_then(component::duration::parse_nanos).unwrap_or(0)
}

fn negative(value: &Map<String, Value>, out: &mut Vec<String>) {
    for name in ["imageMinimumGCAge", "imageMaximumGCAge"] {
        if written(value, name) < 0 {
            let said = value.get(name).and_then(Value::as_str).unwrap_or_default();
            out.push(format!("{name} {said} must not be negative"));
        }
    }
}

/// What cannot be on this machine.
fn of_the_machine(c: &KubeletConfiguration) -> Option<String> {
    let v1 = !crate::cgroups::is_v2();
    if v1 && c.fail_cgroup_v1 {
        return Some("kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is unsupported and will be removed in a future release".into());
    }
    let why = if v1 && c.single_process_oom_kill == Some(false) {
        "singleProcessOOMKill must not be explicitly set to false when using cgroup v1"
    } else {
        match c.user_namespaces.as_ref().and_then(|u| u.ids_per_pod)? {
            ids if ids < 65_536 => "userNamespaces.idsPerPod must not be less than 65536",
            ids if ids % 65_536 != 0 => "userNamespaces.idsPerPod must be a multiple of 65536",
            ids if ids > i64::from(u32::MAX) => "userNamespaces.idsPerPod must not be more than 4294967295",
            _ => return None,
        }
    };
    Some(format!("invalid configuration: {why}"))
}

/// Taints that no node could have.
fn taints(c: &KubeletConfiguration) -> Vec<String> {
    let mut out = Vec::new();
    for taint in &c.register_with_taints {
        let value = taint.value.as_deref().unwrap_or_default();
        let effect = taint.effect.as_str();
        if !api::names::qualified_name(&taint.key).is_empty()
            || !api::names::label_value(value).is_empty()
            || !matches!(effect, "" | "NoSchedule" | "PreferNoSchedule" | "NoExecute")
        {
            let added = taint.time_added.as_ref().map_or("<nil>".to_string(), |t| t.0.to_string());
            out.push(format!("invalid taint: {{{} {value} {effect} {added}}}", taint.key));
        }
        if taint.time_added.is_some() {
            out.push("invalid configuration: taint.TimeAdded is not nil".into());
        }
    }
    out
}

/// Metrics and traces.
fn observability(c: &KubeletConfiguration) -> Vec<String> {
    let mut out = Vec::new();
    let version = c.show_hidden_metrics_for_version.as_str();
    if !matches!(version, "" | "1.35") {
        out.push(format!("invalid showHiddenMetricsForVersion: showHiddenMetricsForVersion: Invalid value: {version:?}: must be omitted or have the value '1.35'; only the previous minor version is allowed"));
    }
    let Some(tracing) = &c.tracing else { return out };
    let rate = tracing.sampling_rate_per_million.unwrap_or(0);
    let place = format!("tracing.samplingRatePerMillion: Invalid value: {rate}");
    if rate < 0 {
        out.push(format!("{place}: sampling rate must be positive"));
    }
    if rate > 1_000_000 {
        out.push(format!("{place}: sampling rate per million must be less than or equal to one million"));
    }
    if let Some(endpoint) = &tracing.endpoint {
        let whole = if endpoint.contains("//") { endpoint.clone() } else { format!("dns://{endpoint}") };
        let scheme = whole.split("//").next().unwrap_or_default().trim_end_matches(':');
        let why = if whole.contains(char::is_whitespace) {
            Some(format!("parse {whole:?}: invalid character \" \" in host name"))
        } else if !matches!(scheme, "dns" | "unix" | "unix-abstract") {
            Some(format!(
                "unsupported scheme: {scheme}.  Options are none, dns, unix, or unix-abstract.  See https://github.com/grpc/grpc/blob/master/doc/naming.md"
            ))
        } else {
            None
        };
        out.extend(why.map(|why| format!("tracing.endpoint: Invalid value: {whole:?}: {why}")));
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
        } else if let Some(why) =
            c.preloaded_images_verification_allowlist.iter().find_map(|p| not_allowable(p))
        {
            out.push(format!("invalid image pattern in `preloadedImagesVerificationAllowlist`: {why}"));
        }
    } else {
        let unasked = "must not be set if KubeletEnsureSecretPulledImages feature gate is not enabled";
        if !policy.is_empty() {
            out.push(format!("`imagePullCredentialsVerificationPolicy` {unasked}"));
        }
        if !c.preloaded_images_verification_allowlist.is_empty() {
            out.push(format!("`preloadedImagesVerificationAllowlist` {unasked}"));
        }
    }
}

/// Why a pattern of images cannot be.
fn not_allowable(pattern: &str) -> Option<String> {
    if pattern != pattern.trim() {
        return Some(format!("leading/trailing spaces are not allowed: {pattern}"));
    }
    let prefix = pattern.strip_suffix('*').filter(|rest| rest.ends_with('/'));
    let rest = prefix.unwrap_or(pattern);
    if rest.is_empty() {
        return Some(format!("the supplied pattern is too short: {pattern}"));
    }
    if rest.contains('*') {
        let why = "not a valid wildcard pattern, only patterns ending with '/*' are allowed";
        return Some(format!("{why}: {pattern}"));
    }
    match prefix {
        Some(prefix) => (prefix.len() == 1).then(|| "at least registry hostname is required".into()),
        None => {
            let name = rest.rsplit('/').next().unwrap_or_default();
            let tagged = name.contains([':', '@']);
            tagged.then(|| format!("neither tag nor digest is accepted in an image reference: {pattern}"))
        }
    }
}

fn topology(c: &KubeletConfiguration, out: &mut Vec<String>) {
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
}

fn reserved_memory(c: &KubeletConfiguration, out: &mut Vec<String>) {
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
    if !c.system_cgroups.is_empty() && c.cgroup_root.is_empty() {
        out.push(
            "systemCgroups (--system-cgroups) was specified and cgroupRoot (--cgroup-root) was not specified"
                .into(),
        );
    }
}

fn shutdown(c: &KubeletConfiguration, value: &Map<String, Value>, gates: &Gates, out: &mut Vec<String>) {
    let (all, critical) = (c.shutdown_grace_period, c.shutdown_grace_period_critical_pods);
    let any = !all.is_zero() || !critical.is_zero();
    let by_priority = !c.shutdown_grace_period_by_pod_priority.is_empty();
    if gates.enabled("GracefulNodeShutdown") {
        let (all, critical) = ("shutdownGracePeriod", "shutdownGracePeriodCriticalPods");
        let said = |name: &str| match value.get(name).and_then(Value::as_str) {
            None | Some("" | "0") => "0s".to_string(),
            Some(said) => said.to_string(),
        };
        if written(value, critical) > written(value, all) {
            out.push(format!("{critical} {{{}}} must be <= {all} {{{}}}", said(critical), said(all)));
        }
        for name in [all, critical] {
            let period = written(value, name);
            if period != 0 && period < 1_000_000_000 {
                let said = said(name);
                out.push(format!("{name} {{{said}}} must be either zero or otherwise >= 1 sec"));
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
    let swap = c.memory_swap.swap_behavior.as_str();
    if !matches!(swap, "" | "NoSwap" | "LimitedSwap") {
        out.push(format!(
            "memorySwap.swapBehavior {swap:?} must be one of: \"\", \"LimitedSwap\" or \"NoSwap\""
        ));
    }
    if c.memory_reservation_policy == "TieredReservation" && !gates.enabled("MemoryQoS") {
        out.push(
            "memoryReservationPolicy \"TieredReservation\" requires MemoryQoS feature gate to be enabled"
                .into(),
        );
    }
    if c.server_tls_bootstrap && !gates.enabled("RotateKubeletServerCertificate") {
        out.push("serverTLSBootstrap true requires feature gate RotateKubeletServerCertificate".into());
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
}

//! The deprecated flags that stand for a field of the configuration.

use anyhow::{Context, bail};
use component::Flags;
use serde_json::{Map, Value, json};

/// Where a deprecated flag's value goes: the field's path and how the text is read.
pub enum As {
    Text,
    Bool,
    Int,
    List,
    Map,
    MultiMap,
    BoolMap,
    /// `node:type=quantity,…;node:…`
    Memory,
    /// `pattern=N,…`
    Files,
}

pub const FLAGS: &[(&str, &str, As)] = &[
    ("address", "address", As::Text),
    ("allowed-unsafe-sysctls", "allowedUnsafeSysctls", As::List),
    ("anonymous-auth", "authentication.anonymous.enabled", As::Bool),
    ("authentication-token-webhook", "authentication.webhook.enabled", As::Bool),
    ("authentication-token-webhook-cache-ttl", "authentication.webhook.cacheTTL", As::Text),
    ("authorization-mode", "authorization.mode", As::Text),
    ("authorization-webhook-cache-authorized-ttl", "authorization.webhook.cacheAuthorizedTTL", As::Text),
    ("authorization-webhook-cache-unauthorized-ttl", "authorization.webhook.cacheUnauthorizedTTL", As::Text),
    ("cgroup-driver", "cgroupDriver", As::Text),
    ("cgroup-root", "cgroupRoot", As::Text),
    ("cgroups-per-qos", "cgroupsPerQOS", As::Bool),
    ("client-ca-file", "authentication.x509.clientCAFile", As::Text),
    ("cluster-dns", "clusterDNS", As::List),
    ("cluster-domain", "clusterDomain", As::Text),
    ("container-log-max-files", "containerLogMaxFiles", As::Int),
    ("container-log-max-size", "containerLogMaxSize", As::Text),
    ("container-runtime-endpoint", "containerRuntimeEndpoint", As::Text),
    ("contention-profiling", "enableContentionProfiling", As::Bool),
    ("cpu-cfs-quota", "cpuCFSQuota", As::Bool),
    ("cpu-cfs-quota-period", "cpuCFSQuotaPeriod", As::Text),
    ("cpu-manager-policy", "cpuManagerPolicy", As::Text),
    ("cpu-manager-policy-options", "cpuManagerPolicyOptions", As::Map),
    ("cpu-manager-reconcile-period", "cpuManagerReconcilePeriod", As::Text),
    ("enable-controller-attach-detach", "enableControllerAttachDetach", As::Bool),
    ("enable-debugging-handlers", "enableDebuggingHandlers", As::Bool),
    ("enable-server", "enableServer", As::Bool),
    ("enforce-node-allocatable", "enforceNodeAllocatable", As::List),
    ("event-burst", "eventBurst", As::Int),
    ("event-qps", "eventRecordQPS", As::Int),
    ("eviction-hard", "evictionHard", As::Map),
    ("eviction-max-pod-grace-period", "evictionMaxPodGracePeriod", As::Int),
    ("eviction-minimum-reclaim", "evictionMinimumReclaim", As::Map),
    ("eviction-pressure-transition-period", "evictionPressureTransitionPeriod", As::Text),
    ("eviction-soft", "evictionSoft", As::Map),
    ("eviction-soft-grace-period", "evictionSoftGracePeriod", As::Map),
    ("fail-cgroupv1", "failCgroupV1", As::Bool),
    ("fail-swap-on", "failSwapOn", As::Bool),
    ("feature-gates", "featureGates", As::BoolMap),
    ("file-check-frequency", "fileCheckFrequency", As::Text),
    ("hairpin-mode", "hairpinMode", As::Text),
    ("healthz-bind-address", "healthzBindAddress", As::Text),
    ("healthz-port", "healthzPort", As::Int),
    ("http-check-frequency", "httpCheckFrequency", As::Text),
    ("image-gc-high-threshold", "imageGCHighThresholdPercent", As::Int),
    ("image-gc-low-threshold", "imageGCLowThresholdPercent", As::Int),
    ("image-service-endpoint", "imageServiceEndpoint", As::Text),
    ("kernel-memcg-notification", "kernelMemcgNotification", As::Bool),
    ("kube-api-burst", "kubeAPIBurst", As::Int),
    ("kube-api-content-type", "contentType", As::Text),
    ("kube-api-qps", "kubeAPIQPS", As::Int),
    ("kube-reserved", "kubeReserved", As::Map),
    ("kube-reserved-cgroup", "kubeReservedCgroup", As::Text),
    ("kubelet-cgroups", "kubeletCgroups", As::Text),
    ("local-storage-capacity-isolation", "localStorageCapacityIsolation", As::Bool),
    ("log-flush-frequency", "logging.flushFrequency", As::Text),
    ("logging-format", "logging.format", As::Text),
    ("make-iptables-util-chains", "makeIPTablesUtilChains", As::Bool),
    ("manifest-url", "staticPodURL", As::Text),
    ("manifest-url-header", "staticPodURLHeader", As::MultiMap),
    ("max-open-files", "maxOpenFiles", As::Int),
    ("max-pods", "maxPods", As::Int),
    ("memory-manager-policy", "memoryManagerPolicy", As::Text),
    ("minimum-image-ttl-duration", "imageMinimumGCAge", As::Text),
    ("node-status-max-images", "nodeStatusMaxImages", As::Int),
    ("node-status-update-frequency", "nodeStatusUpdateFrequency", As::Text),
    ("oom-score-adj", "oomScoreAdj", As::Int),
    ("pod-cidr", "podCIDR", As::Text),
    ("pod-manifest-path", "staticPodPath", As::Text),
    ("pod-max-pids", "podPidsLimit", As::Int),
    ("pods-per-core", "podsPerCore", As::Int),
    ("port", "port", As::Int),
    ("protect-kernel-defaults", "protectKernelDefaults", As::Bool),
    ("provider-id", "providerID", As::Text),
    ("qos-reserved", "qosReserved", As::Map),
    ("read-only-port", "readOnlyPort", As::Int),
    ("register-node", "registerNode", As::Bool),
    ("registry-burst", "registryBurst", As::Int),
    ("registry-qps", "registryPullQPS", As::Int),
    ("reserved-cpus", "reservedSystemCPUs", As::Text),
    ("reserved-memory", "reservedMemory", As::Memory),
    ("resolv-conf", "resolvConf", As::Text),
    ("rotate-certificates", "rotateCertificates", As::Bool),
    ("rotate-server-certificates", "serverTLSBootstrap", As::Bool),
    ("runonce", "runOnce", As::Bool),
    ("runtime-request-timeout", "runtimeRequestTimeout", As::Text),
    ("seccomp-default", "seccompDefault", As::Bool),
    ("serialize-image-pulls", "serializeImagePulls", As::Bool),
    ("streaming-connection-idle-timeout", "streamingConnectionIdleTimeout", As::Text),
    ("sync-frequency", "syncFrequency", As::Text),
    ("system-cgroups", "systemCgroups", As::Text),
    ("system-reserved", "systemReserved", As::Map),
    ("system-reserved-cgroup", "systemReservedCgroup", As::Text),
    ("tls-cert-file", "tlsCertFile", As::Text),
    ("tls-cipher-suites", "tlsCipherSuites", As::List),
    ("tls-min-version", "tlsMinVersion", As::Text),
    ("tls-private-key-file", "tlsPrivateKeyFile", As::Text),
    ("topology-manager-policy", "topologyManagerPolicy", As::Text),
    ("topology-manager-policy-options", "topologyManagerPolicyOptions", As::Map),
    ("topology-manager-scope", "topologyManagerScope", As::Text),
    ("v", "logging.verbosity", As::Int),
    ("vmodule", "logging.vmodule", As::Files),
    ("volume-plugin-dir", "volumePluginDir", As::Text),
    ("volume-stats-agg-period", "volumeStatsAggPeriod", As::Text),
];

/// Lays what flags say over the rest.
pub fn apply(flags: &Flags, value: &mut Map<String, Value>) -> anyhow::Result<()> {
    for (flag, path, form) in FLAGS {
        if !flags.is_set(flag) {
            continue;
        }
        match (*path, of_flag(flags, flag, form)?) {
            // Gates of flags are added to those of the file, everything else takes its place.
            ("featureGates", Value::Object(gates)) => {
                let over = Map::from_iter([("featureGates".to_string(), Value::Object(gates))]);
                super::read::merge(value, over);
            }
            (path, given) => super::set(value, path, given),
        }
    }
    if flags.is_set("register-with-taints") {
        let taints = taints(flags.str("register-with-taints"))?;
        super::set(value, "registerWithTaints", Value::Array(taints));
    }
    Ok(())
}

/// The value of a flag as the field has it.
fn of_flag(flags: &Flags, flag: &str, form: &As) -> anyhow::Result<Value> {
    Ok(match form {
        As::Memory => Value::Array(reserved_memory(flags.str(flag))?),
        As::Files => {
            let rules = flags.list(flag);
            let pairs = rules.iter().filter_map(|rule| rule.split_once('='));
            pairs.map(|(p, n)| json!({"filePattern": p, "verbosity": n.parse().unwrap_or(0u32)})).collect()
        }
        As::Text => json!(flags.str(flag)),
        As::Bool => json!(flags.bool(flag)),
        As::Int => json!(flags.int(flag)),
        As::List => json!(flags.list(flag)),
        // Thresholds are written `signal<value`.
        As::Map => match flags.str(flag).contains('<') {
            true => flags
                .str(flag)
                .split(',')
                .filter_map(|part| part.split_once('<'))
                .map(|(k, v)| (k.to_string(), json!(v)))
                .collect::<Map<_, _>>()
                .into(),
            false => json!(flags.map(flag)),
        },
        // `name:value`, a name as often as it has values.
        As::MultiMap => {
            let mut out = Map::new();
            for (name, value) in flags.str(flag).split(',').filter_map(|part| part.split_once(':')) {
                let list = out.entry(name.trim()).or_insert_with(|| json!([]));
                if let Value::Array(list) = list {
                    list.push(json!(value.trim()));
                }
            }
            Value::Object(out)
        }
        As::BoolMap => flags
            .map(flag)
            .into_iter()
            .map(|(k, v)| (k, json!(v.eq_ignore_ascii_case("true"))))
            .collect::<Map<_, _>>()
            .into(),
    })
}

/// Memory of NUMA nodes that is not for pods.
fn reserved_memory(text: &str) -> anyhow::Result<Vec<Value>> {
    let form =
        "the reserved memory has incorrect format, expected numaNodeID:type=quantity[,type=quantity...]";
    let nodes = text.split(';').filter(|part| !part.is_empty());
    nodes
        .map(|part| {
            let (node, limits) = part.split_once(':').with_context(|| format!("{form}, got {part}"))?;
            let node: i32 =
                node.parse().with_context(|| format!("failed to convert the NUMA node ID, got {node}"))?;
            let limits = limits.split(',').map(|limit| {
                let (name, amount) = limit.split_once('=').with_context(|| {
                    format!("the reserved limit has incorrect value, expected type=quantity, got {limit}")
                })?;
                Ok((name.to_string(), json!(amount)))
            });
            Ok(json!({"numaNode": node, "limits": limits.collect::<anyhow::Result<Map<_, _>>>()?}))
        })
        .collect()
}

/// Taints as `key=value:effect`, separated by commas.
pub fn taints(text: &str) -> anyhow::Result<Vec<Value>> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (rest, effect) =
                part.rsplit_once(':').with_context(|| format!("invalid taint spec: {part}"))?;
            let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
            if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") || key.is_empty() {
                bail!("invalid taint effect: {effect}, unsupported taint effect");
            }
            Ok(json!({"key": key, "value": value, "effect": effect}))
        })
        .collect()
}

//! The kubelet's configuration: defaults, then the file of `--config`, then the drop-ins of `--config-dir`, then flags.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use component::Flags;
use serde_json::{Map, Value, json};

mod types;

pub use types::KubeletConfiguration;

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";

/// Where a deprecated flag's value goes: the field's path and how the text is read.
enum As {
    Text,
    Bool,
    Int,
    List,
    Map,
    MultiMap,
    BoolMap,
}

const FLAGS: &[(&str, &str, As)] = &[
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
    ("kube-api-burst", "kubeAPIBurst", As::Int),
    ("kube-api-content-type", "contentType", As::Text),
    ("kube-api-qps", "kubeAPIQPS", As::Int),
    ("kube-reserved", "kubeReserved", As::Map),
    ("kube-reserved-cgroup", "kubeReservedCgroup", As::Text),
    ("local-storage-capacity-isolation", "localStorageCapacityIsolation", As::Bool),
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
    ("read-only-port", "readOnlyPort", As::Int),
    ("register-node", "registerNode", As::Bool),
    ("registry-burst", "registryBurst", As::Int),
    ("registry-qps", "registryPullQPS", As::Int),
    ("reserved-cpus", "reservedSystemCPUs", As::Text),
    ("resolv-conf", "resolvConf", As::Text),
    ("rotate-certificates", "rotateCertificates", As::Bool),
    ("rotate-server-certificates", "serverTLSBootstrap", As::Bool),
    ("runtime-request-timeout", "runtimeRequestTimeout", As::Text),
    ("seccomp-default", "seccompDefault", As::Bool),
    ("serialize-image-pulls", "serializeImagePulls", As::Bool),
    ("streaming-connection-idle-timeout", "streamingConnectionIdleTimeout", As::Text),
    ("sync-frequency", "syncFrequency", As::Text),
    ("system-reserved", "systemReserved", As::Map),
    ("system-reserved-cgroup", "systemReservedCgroup", As::Text),
    ("tls-cert-file", "tlsCertFile", As::Text),
    ("tls-cipher-suites", "tlsCipherSuites", As::List),
    ("tls-min-version", "tlsMinVersion", As::Text),
    ("tls-private-key-file", "tlsPrivateKeyFile", As::Text),
    ("topology-manager-policy", "topologyManagerPolicy", As::Text),
    ("topology-manager-scope", "topologyManagerScope", As::Text),
    ("volume-plugin-dir", "volumePluginDir", As::Text),
    ("volume-stats-agg-period", "volumeStatsAggPeriod", As::Text),
];

/// Fields that are read and checked but do not work yet.
pub const NO_EFFECT_YET: &[&str] = &[
    "cpuManagerPolicy",
    "memoryManagerPolicy",
    "topologyManagerPolicy",
    "memorySwap",
    "qosReserved",
    "reservedSystemCPUs",
    "tracing",
    "podsPerCore",
    "systemReservedCgroup",
    "kubeReservedCgroup",
    "serverTLSBootstrap",
    "imagePullCredentialsVerificationPolicy",
    "protectKernelDefaults",
];

/// The flags that stand for a field, with the field's path.
pub fn flags() -> impl Iterator<Item = (&'static str, &'static str)> {
    FLAGS.iter().map(|(flag, field, _)| (*flag, *field))
}

impl KubeletConfiguration {
    /// Reads the configuration that the flags ask for.
    pub fn load(flags: &Flags) -> anyhow::Result<Self> {
        let mut value = Map::new();
        let mut from_file = false;
        if let Some(path) = flags.opt("config") {
            value = read(Path::new(path))?;
            from_file = true;
        }
        if let Some(dir) = flags.opt("config-dir") {
            for path in drop_ins(Path::new(dir))? {
                merge(&mut value, read(&path)?);
                from_file = true;
            }
        }
        if !from_file {
            // Without a file the defaults are those of the flags, as they were before there were files.
            for (path, default) in [
                ("authentication.anonymous.enabled", json!(true)),
                ("authentication.webhook.enabled", json!(false)),
                ("authorization.mode", json!("AlwaysAllow")),
                ("readOnlyPort", json!(10_255)),
            ] {
                set(&mut value, path, default);
            }
        }
        for (flag, path, form) in FLAGS {
            if flags.is_set(flag) {
                set(&mut value, path, of_flag(flags, flag, form));
            }
        }
        if flags.is_set("register-with-taints") {
            set(&mut value, "registerWithTaints", Value::Array(taints(flags.str("register-with-taints"))?));
        }
        let config = Self::from_value(value)?;
        config.check()?;
        Ok(config)
    }

    fn from_value(mut value: Map<String, Value>) -> anyhow::Result<Self> {
        value.remove("apiVersion");
        value.remove("kind");
        value.retain(|key, v| !v.is_null() && (types::NULLABLE.contains(&key.as_str()) || !is_zero(v)));
        let mut config: Self =
            serde_json::from_value(Value::Object(value)).context("failed to load Kubelet config")?;
        config.default_eviction();
        Ok(config)
    }

    fn default_eviction(&mut self) {
        let defaults = [
            ("memory.available", "100Mi"),
            ("nodefs.available", "10%"),
            ("nodefs.inodesFree", "5%"),
            ("imagefs.available", "15%"),
            ("imagefs.inodesFree", "5%"),
        ];
        if self.eviction_hard.is_empty() || self.merge_default_eviction_settings {
            for (signal, threshold) in defaults {
                self.eviction_hard.entry(signal.into()).or_insert_with(|| threshold.into());
            }
        }
    }

    /// Refuses what cannot work.
    fn check(&self) -> anyhow::Result<()> {
        let mut errors = Vec::new();
        let percent = 0..=100;
        if !percent.contains(&self.image_gc_high_threshold_percent)
            || !percent.contains(&self.image_gc_low_threshold_percent)
            || self.image_gc_low_threshold_percent >= self.image_gc_high_threshold_percent
        {
            errors.push(format!(
                "invalid configuration: imageGCLowThresholdPercent (--image-gc-low-threshold) {} must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) {}",
                self.image_gc_low_threshold_percent, self.image_gc_high_threshold_percent
            ));
        }
        if !matches!(self.cgroup_driver.as_str(), "cgroupfs" | "systemd") {
            errors.push(format!(
                "invalid configuration: cgroupDriver {:?} must be one of [cgroupfs systemd]",
                self.cgroup_driver
            ));
        }
        if !matches!(self.authorization.mode.as_str(), "AlwaysAllow" | "Webhook") {
            errors.push(format!(
                "invalid configuration: authorization.mode {:?} is not one of [AlwaysAllow Webhook]",
                self.authorization.mode
            ));
        }
        if self.container_log_max_files <= 1 {
            errors.push("invalid configuration: containerLogMaxFiles (--container-log-max-files) must be greater than 1".into());
        }
        if volumes::quantity::units(&self.container_log_max_size).is_none() {
            errors.push(format!(
                "invalid configuration: containerLogMaxSize {:?} is not a quantity",
                self.container_log_max_size
            ));
        }
        if self.max_pods < 0 {
            errors.push(format!(
                "invalid configuration: maxPods (--max-pods) {} must not be a negative number",
                self.max_pods
            ));
        }
        if self.serialize_image_pulls && self.max_parallel_image_pulls.is_some_and(|n| n > 1) {
            errors.push("invalid configuration: maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls (--serialize-image-pulls) set to false".into());
        }
        for taint in &self.register_with_taints {
            if taint.key.is_empty() || taint.effect.is_empty() {
                errors.push("invalid configuration: registerWithTaints needs key and effect".into());
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            bail!("failed to validate kubelet configuration, error: [{}]", errors.join(", "))
        }
    }

    /// The fields that differ from their default and have no effect yet.
    pub fn without_effect(&self) -> Vec<&'static str> {
        let values = |config: &Self| serde_json::to_value(config).unwrap_or_default();
        let (own, default) = (values(self), values(&Self::default()));
        NO_EFFECT_YET.iter().copied().filter(|field| own[*field] != default[*field]).collect()
    }

    /// The folder of pod logs.
    pub fn pod_logs_dir(&self) -> PathBuf {
        PathBuf::from(&self.pod_logs_dir)
    }

    /// How many images are pulled at a time; `None` for no limit.
    pub fn parallel_pulls(&self) -> Option<usize> {
        match (self.serialize_image_pulls, self.max_parallel_image_pulls) {
            (true, _) => Some(1),
            (false, Some(n)) if n > 0 => usize::try_from(n).ok(),
            _ => None,
        }
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty() || component::duration::parse_nanos(s) == Some(0),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Null => true,
    }
}

/// Reads one file; version and kind must be right.
fn read(path: &Path) -> anyhow::Result<Map<String, Value>> {
    let shown = path.display().to_string();
    let text = component::config::read(&shown)?;
    let value = component::config::yaml(&text)
        .with_context(|| format!("failed to load kubelet config file {shown}"))?;
    let Value::Object(map) = value else { bail!("kubelet config file {shown} is not an object") };
    if map.get("apiVersion").and_then(Value::as_str) != Some(API_VERSION)
        || map.get("kind").and_then(Value::as_str) != Some("KubeletConfiguration")
    {
        bail!("kubelet config file {shown} is no KubeletConfiguration of {API_VERSION}");
    }
    Ok(map)
}

/// The drop-in files of a folder, sorted by name.
fn drop_ins(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "conf")).collect();
    files.sort();
    Ok(files)
}

/// Lays `over` on `base`: objects merge, everything else is replaced.
fn merge(base: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Object(below)), Value::Object(above)) => merge(below, above),
            (_, value) => drop(base.insert(key, value)),
        }
    }
}

fn set(map: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(map.insert(path.to_string(), value)),
        Some((first, rest)) => {
            let below = map.entry(first).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(below) = below {
                set(below, rest, value);
            }
        }
    }
}

fn of_flag(flags: &Flags, flag: &str, form: &As) -> Value {
    match form {
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
    }
}

/// Taints as `key=value:effect`, separated by commas.
fn taints(text: &str) -> anyhow::Result<Vec<Value>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: Value) -> anyhow::Result<KubeletConfiguration> {
        let Value::Object(map) = value else { bail!("no object") };
        let config = KubeletConfiguration::from_value(map)?;
        config.check()?;
        Ok(config)
    }

    #[test]
    fn zero_means_default_unless_it_says_something() {
        let config =
            parse(json!({"syncFrequency": "0s", "port": 0, "healthzPort": 0, "maxPods": 7, "logging": {}}))
                .unwrap();
        assert_eq!(config.sync_frequency.as_secs(), 60);
        assert_eq!((config.port, config.healthz_port, config.max_pods), (10_250, 0, 7));
        assert_eq!(config.eviction_hard["memory.available"], "100Mi");
        assert!(config.authentication.webhook.enabled);
    }

    #[test]
    fn mistakes_are_refused() {
        for value in [
            json!({"maxpods": 1}),
            json!({"maxPods": "x"}),
            json!({"imageGCHighThresholdPercent": 10}),
            json!({"cgroupDriver": "x"}),
            json!({"authentication": {"anonymous": {"enabled": "yes"}}}),
            json!({"containerLogMaxSize": "lots"}),
        ] {
            assert!(parse(value.clone()).is_err(), "{value}");
        }
    }

    #[test]
    fn drop_ins_merge() {
        let mut base = json!({"a": {"b": 1, "c": 2}, "l": [1]}).as_object().cloned().unwrap();
        merge(&mut base, json!({"a": {"c": 3}, "l": [2]}).as_object().cloned().unwrap());
        assert_eq!(Value::Object(base), json!({"a": {"b": 1, "c": 3}, "l": [2]}));
    }
}

//! The kubelet's configuration: defaults, then the file of `--config`, then the drop-ins of `--config-dir`, then flags.
//!
//! A field at its zero value takes its default, as upstream, but for those of which zero says something. Unknown fields
//! are told of in the log and otherwise passed over, as upstream does.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use component::Flags;
use component::gates::Gates;
use serde_json::{Map, Value, json};

mod flags;
mod types;
mod validate;

pub use types::KubeletConfiguration;

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";

/// The defaults of all fields that are not zero.
const DEFAULTS: &str = include_str!("config/defaults.json");

/// Fields that are read and checked, but nothing here depends on them. Some stand for what only other platforms or
/// removed parts of upstream had.
pub const NO_EFFECT: &[&str] = &[
    "streamingConnectionIdleTimeout",
    "iptablesMasqueradeBit",
    "iptablesDropBit",
    "enableProfilingHandler",
    "enableContentionProfiling",
    "hairpinMode",
    "kernelMemcgNotification",
    "volumePluginDir",
    "contentType",
    "showHiddenMetricsForVersion",
];

/// The feature gates that change something here. What others stand for is always on, or not there at all.
const GATES: &[&str] = &[
    "AllAlpha",
    "AllBeta",
    "CPUManagerPolicyAlphaOptions",
    "CPUManagerPolicyBetaOptions",
    "CSIVolumeHealth",
    "ComponentFlagz",
    "ComponentStatusz",
    "ContainerCheckpoint",
    "DisableCPUQuotaWithExclusiveCPUs",
    "ExtendWebSocketsToKubelet",
    "GracefulNodeShutdown",
    "GracefulNodeShutdownBasedOnPodPriority",
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    "KubeletCrashLoopBackOffMax",
    "KubeletEnsureSecretPulledImages",
    "MemoryQoS",
    "NodeDeclaredFeatures",
    "QOSReserved",
    "ReduceDefaultCrashLoopBackOffDecay",
    "ResourceHealthStatus",
    "ResourceHealthStatusMessage",
    "RestartAllContainersOnContainerExits",
    "RotateKubeletServerCertificate",
    "UserNamespacesHostNetworkSupport",
];

/// The flags that stand for a field, with the field's path.
pub fn flags() -> impl Iterator<Item = (&'static str, &'static str)> {
    flags::FLAGS.iter().map(|(flag, field, _)| (*flag, *field))
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
        for (flag, path, form) in flags::FLAGS {
            if flags.is_set(flag) {
                let given = flags::of_flag(flags, flag, form);
                // Gates of flags are added to those of the file, everything else takes its place.
                match (*path, given) {
                    ("featureGates", Value::Object(gates)) => {
                        let over = Map::from_iter([("featureGates".to_string(), Value::Object(gates))]);
                        merge(&mut value, over);
                    }
                    (path, given) => set(&mut value, path, given),
                }
            }
        }
        if flags.is_set("register-with-taints") {
            let taints = flags::taints(flags.str("register-with-taints"))?;
            set(&mut value, "registerWithTaints", Value::Array(taints));
        }
        let config = Self::from_value(value)?;
        config.check()?;
        Ok(config)
    }

    fn from_value(mut value: Map<String, Value>) -> anyhow::Result<Self> {
        value.remove("apiVersion");
        value.remove("kind");
        let Ok(Value::Object(mut whole)) = serde_json::from_str(DEFAULTS) else { bail!("no defaults") };
        overlay(&mut whole, value);
        let (mut config, unknown): (Self, _) =
            component::config::typed(Value::Object(whole)).context("failed to load Kubelet config")?;
        if !unknown.is_empty() {
            tracing::warn!(fields = unknown.join(","), "Using lenient decoding as strict decoding failed");
        }
        config.default_eviction();
        Ok(config)
    }

    /// Every field at its default.
    pub fn defaults() -> Self {
        Self::from_value(Map::new()).unwrap_or_default()
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
        let gates = Gates::default().with(&self.feature_gates)?;
        let errors = validate::errors(self, &gates);
        match errors.as_slice() {
            [] => Ok(()),
            [one] => bail!("failed to validate kubelet configuration, error: {one}"),
            many => bail!("failed to validate kubelet configuration, error: [{}]", many.join(", ")),
        }
    }

    /// The fields that differ from their default and have no effect.
    pub fn without_effect(&self) -> Vec<&'static str> {
        let values = |config: &Self| serde_json::to_value(config).unwrap_or_default();
        let (own, default) = (values(self), values(&Self::defaults()));
        NO_EFFECT.iter().copied().filter(|field| own[*field] != default[*field]).collect()
    }

    /// The feature gates that are set to something else than their default and change nothing here.
    pub fn idle_gates(&self) -> Vec<&str> {
        let defaults = Gates::default();
        let differs = |(name, on): &(&String, &bool)| defaults.get(name) == Some(!**on);
        let set = self.feature_gates.iter().filter(differs).map(|(name, _)| name.as_str());
        set.filter(|name| !GATES.contains(name)).collect()
    }

    /// The configuration in force as `/configz` shows it: without what is empty.
    pub fn shown(&self) -> Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        prune(&mut value);
        if let Value::Object(fields) = &mut value {
            fields.retain(|name, v| !(EMPTY_IS_LEFT_OUT.contains(&name.as_str()) && is_zero(v)));
            fields.entry("memorySwap").or_insert_with(|| json!({}));
            fields.entry("enableSystemLogQuery").or_insert(Value::Bool(false));
            fields.insert("apiVersion".into(), API_VERSION.into());
            fields.insert("kind".into(), "KubeletConfiguration".into());
        }
        value
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

/// Fields that are shown only if they say something, though they have a value at zero.
const EMPTY_IS_LEFT_OUT: &[&str] = &[
    "enableContentionProfiling",
    "evictionMaxPodGracePeriod",
    "kernelMemcgNotification",
    "podsPerCore",
    "protectKernelDefaults",
    "readOnlyPort",
    "rotateCertificates",
    "runOnce",
    "serverTLSBootstrap",
];

/// Removes what is empty, at all depths.
fn prune(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.values_mut().for_each(prune);
        let empty = |v: &Value| match v {
            Value::Null => true,
            Value::String(s) => s.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        fields.retain(|_, v| !empty(v));
    }
}

/// Lays what was written over the defaults.
fn overlay(base: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(_), Value::Null) => {}
            (Some(Value::Object(below)), Value::Object(above)) => overlay(below, above),
            (Some(_), value) if is_zero(&value) && !types::ZERO_COUNTS.contains(&key.as_str()) => {}
            (_, Value::Null) => {}
            (_, value) => drop(base.insert(key, value)),
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

/// The drop-in files of a folder and those below it, in the order of their names.
fn drop_ins(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() && !path.is_symlink() {
            files.extend(drop_ins(&path)?);
        } else if path.extension().is_some_and(|e| e == "conf") {
            files.push(path);
        }
    }
    Ok(files)
}

/// Lays `over` on `base`: objects merge, null removes, everything else is replaced.
fn merge(base: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (_, Value::Null) => drop(base.remove(&key)),
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

#[cfg(test)]
mod tests;

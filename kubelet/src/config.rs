//! The kubelet's configuration: defaults, then the file of `--config`, then the drop-ins of `--config-dir`, then flags.
//!
//! A field at its zero value takes its default, as upstream, but for those of which zero says something. Unknown and
//! repeated fields of the file are told of in the log and otherwise passed over, as upstream does; drop-ins are laid on
//! what the file and the defaults make together.

use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use component::Flags;
use component::gates::Gates;
use serde_json::{Map, Value, json};

mod defaults;
mod flags;
mod logging;
mod read;
mod types;
mod validate;

pub use read::first_document;
pub use types::KubeletConfiguration;

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";

/// Fields that are read and checked, but nothing here depends on them. Some stand for what only other platforms or
/// removed parts of upstream had.
pub const NO_EFFECT: &[&str] = &[
    "streamingConnectionIdleTimeout",
    "iptablesMasqueradeBit",
    "iptablesDropBit",
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
        let file = flags.opt("config").filter(|path| !path.is_empty());
        let dir = flags.opt("config-dir").filter(|path| !path.is_empty());
        let mut value = match file {
            Some(path) => read::file(path)
                .map_err(|e| anyhow!("failed to load kubelet config file, path: {path}, error: {e:#}"))?,
            None => without_file()?,
        };
        if let Some(dir) = dir {
            read::drop_ins(&mut value, Path::new(dir))
                .map_err(|e| anyhow!("failed to merge kubelet configs: {e:#}"))?;
        }
        flags::apply(flags, &mut value)?;
        let (mut config, _) = read::decode(value.clone())?;
        config.ignore_eviction = flags.bool("experimental-allocatable-ignore-eviction");
        component::logging::configure(&config.logging_rules(flags)?);
        config.check(&value)?;
        Ok(config)
    }

    #[cfg(test)]
    fn from_value(value: Map<String, Value>) -> anyhow::Result<(Self, Map<String, Value>)> {
        let value = defaults::with_eviction(defaults::fill(value)?);
        Ok((read::decode(value.clone())?.0, value))
    }

    /// Every field at its default.
    pub fn defaults() -> Self {
        let value = defaults::fill(Map::new()).map(defaults::with_eviction);
        value.and_then(read::decode).map(|(config, _)| config).unwrap_or_default()
    }

    /// Refuses what cannot work. The value tells what the fields cannot hold, such as negative durations.
    fn check(&self, value: &Map<String, Value>) -> anyhow::Result<()> {
        let gates = Gates::default().with(&self.feature_gates)?;
        logging::check(&self.logging, &gates)?;
        let errors = validate::errors(self, value, &gates);
        match errors.as_slice() {
            [] => {}
            [one] => bail!("failed to validate kubelet configuration, error: {one}"),
            many => bail!("failed to validate kubelet configuration, error: [{}]", many.join(", ")),
        }
        validate::late(self).map_err(|e| anyhow!("failed to run Kubelet: {e}"))
    }

    /// The rules of logging, those of the flags before those of the file.
    fn logging_rules(&self, flags: &Flags) -> anyhow::Result<component::logging::Rules> {
        logging::rules(&self.logging, flags)
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

/// The defaults of flags, as they were before there were files.
fn without_file() -> anyhow::Result<Map<String, Value>> {
    let mut value = defaults::with_eviction(defaults::fill(Map::new())?);
    for (path, default) in [
        ("authentication.anonymous.enabled", json!(true)),
        ("authentication.webhook.enabled", json!(false)),
        ("authorization.mode", json!("AlwaysAllow")),
        ("readOnlyPort", json!(10_255)),
    ] {
        set(&mut value, path, default);
    }
    Ok(value)
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

#[cfg(test)]
mod tests;

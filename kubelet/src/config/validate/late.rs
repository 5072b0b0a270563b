//! What upstream refuses only when it puts the parts of the kubelet together, in its words for that.

use volumes::quantity;

use super::KubeletConfiguration;
use crate::eviction::thresholds;

/// What shows only when the parts are put together.
pub fn late(config: &KubeletConfiguration) -> Result<(), String> {
    if !matches!(config.authorization.mode.as_str(), "AlwaysAllow" | "Webhook") {
        return Err(format!("unknown authorization mode {}", config.authorization.mode));
    }
    amounts(config)?;
    managers(config)?;
    thresholds::parse(config)?;
    let size = &config.container_log_max_size;
    if quantity::units(size).is_none() {
        return Err(format!(
            "failed to create kubelet: failed to initialize container log manager: failed to parse container log max size {size:?}: {NO_QUANTITY}"
        ));
    }
    config.allowed_unsafe_sysctls.iter().try_for_each(|pattern| unsafe_sysctl(pattern))
}

const NO_QUANTITY: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// Kernel parameters that each pod has of its own.
const NAMESPACED: [&str; 5] = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.", "net."];

/// Refuses a pattern of sysctls that no pod could have of its own.
fn unsafe_sysctl(pattern: &str) -> Result<(), String> {
    let name = pattern.replace('/', ".");
    let stem = name.strip_suffix('*').unwrap_or(&name);
    let part = |part: &str| {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
        part.chars().all(fits) && !part.starts_with(['-', '_'])
    };
    if pattern.is_empty() || pattern.len() > 253 || !stem.split('.').all(part) {
        return Err(format!(
            "failed to create kubelet: sysctl {pattern:?} must have at most 253 characters and match regex ([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*([a-z0-9][-_a-z0-9]*)?[a-z0-9*]"
        ));
    }
    match NAMESPACED.iter().any(|own| name.starts_with(own)) {
        true => Ok(()),
        false => {
            Err(format!("failed to create kubelet: the sysctls {pattern:?} are not known to be namespaced"))
        }
    }
}

/// Policies, which are asked for where the managers are made.
fn managers(c: &KubeletConfiguration) -> Result<(), String> {
    let unknown = |policy: &str| Err(format!("unknown policy: {policy:?}"));
    match c.cpu_manager_policy.as_str() {
        "static" => {}
        "none" if c.cpu_manager_policy_options.is_empty() => {}
        "none" => {
            let options: Vec<String> =
                c.cpu_manager_policy_options.iter().map(|(k, v)| format!("{k}:{v}")).collect();
            let options = options.join(" ");
            return Err(format!(
                "new none policy error: None policy: received unsupported options=map[{options}]"
            ));
        }
        other => return unknown(other),
    }
    if !matches!(c.memory_manager_policy.as_str(), "None" | "Static") {
        return unknown(&c.memory_manager_policy);
    }
    if !matches!(c.cgroup_driver.as_str(), "cgroupfs" | "systemd") {
        return Err(format!("unknown cgroup driver: {:?}", c.cgroup_driver));
    }
    let strategy = c.config_map_and_secret_change_detection_strategy.as_str();
    if !matches!(strategy, "Get" | "Cache" | "Watch") {
        return Err(format!("unknown configmap and secret manager mode: {strategy}"));
    }
    Ok(())
}

/// Amounts that are kept from pods.
fn amounts(c: &KubeletConfiguration) -> Result<(), String> {
    for (flag, list) in [("kube", &c.kube_reserved), ("system", &c.system_reserved)] {
        let place = format!("--{flag}-reserved value failed to parse");
        for (name, amount) in list {
            if !matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage" | "pid") {
                return Err(format!("{place}: cannot reserve {name:?} resource"));
            }
            if quantity::milli(amount).is_none() {
                let why = format!("failed to parse quantity {amount:?} for {name:?} resource");
                return Err(format!("{place}: {why}: {NO_QUANTITY}"));
            }
            if amount.starts_with('-') {
                let why = format!("resource quantity for {name:?} cannot be negative: {amount}");
                return Err(format!("{place}: {why}"));
            }
        }
    }
    for (name, share) in &c.qos_reserved {
        let place = "--qos-reserved value failed to parse";
        if name != "memory" {
            return Err(format!("{place}: cannot reserve {name:?} resource"));
        }
        let percent = share.strip_suffix('%').and_then(|p| p.parse::<i64>().ok());
        let why = match percent {
            Some(0..=100) => continue,
            Some(_) => "percentage must be between 0 and 100".to_string(),
            None => format!("percentage expected, got '{share}'"),
        };
        return Err(format!("{place}: failed to parse percentage {share:?} for {name:?} resource: {why}"));
    }
    Ok(())
}

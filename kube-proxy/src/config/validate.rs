//! What a configuration must not say; messages name the field as upstream's do.

use std::net::{IpAddr, SocketAddr};

use anyhow::bail;
use ipnet::IpNet;

use super::Config;

const ROOT: &str = "KubeProxyConfiguration";

pub(super) fn validate(config: &Config) -> anyhow::Result<()> {
    let mut errors = Vec::new();
    let mut invalid = |field: &str, value: String, why: &str| {
        errors.push(format!("{ROOT}.{field}: Invalid value: {value:?}: {why}"));
    };
    if !["iptables", "ipvs", "nftables"].contains(&config.mode.as_str()) {
        invalid(
            "Mode",
            config.mode.clone(),
            "must be iptables,ipvs,nftables or blank (blank means the best-available proxy [currently iptables])",
        );
    }
    if config.bind_address.parse::<IpAddr>().is_err() {
        invalid(
            "BindAddress",
            config.bind_address.clone(),
            "not a valid textual representation of an IP address",
        );
    }
    for (field, value) in [
        ("HealthzBindAddress", &config.healthz_bind_address),
        ("MetricsBindAddress", &config.metrics_bind_address),
    ] {
        if !value.is_empty() && value.parse::<SocketAddr>().is_err() {
            invalid(field, value.clone(), "must be IP:port");
        }
    }
    for cidr in config.cluster_cidr.split(',').filter(|c| !c.is_empty()) {
        if cidr.trim().parse::<IpNet>().is_err() {
            invalid(
                "ClusterCIDR",
                cidr.to_owned(),
                "must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)",
            );
        }
    }
    for address in config.node_port_addresses.iter().flatten() {
        if address != "primary" && address.parse::<IpNet>().is_err() {
            invalid("NodePortAddresses", address.clone(), "must be a valid CIDR");
        }
    }
    let primary = config.node_port_addresses.iter().flatten().filter(|a| *a == "primary").count();
    if primary > 0 && config.node_port_addresses.as_ref().is_some_and(|l| l.len() > 1) {
        invalid("NodePortAddresses", "primary".into(), "can't use both 'primary' and CIDRs");
    }
    modes(config, &mut invalid);
    conntrack(config, &mut invalid);
    if let Some(score) = config.oom_score_adj.filter(|s| !(-1000..=1000).contains(s)) {
        invalid("OOMScoreAdj", score.to_string(), "must be within the range [-1000, 1000]");
    }
    if let Err(error) = component::gates::Gates::default().with(&config.feature_gates) {
        invalid("FeatureGates", String::new(), &error.to_string());
    }
    match errors.len() {
        0 => Ok(()),
        1 => bail!("{}", errors[0]),
        _ => bail!("[{}]", errors.join(", ")),
    }
}

fn modes(config: &Config, invalid: &mut impl FnMut(&str, String, &str)) {
    match config.detect_local_mode.as_str() {
        "ClusterCIDR" | "NodeCIDR" => {}
        "BridgeInterface" if config.detect_local.bridge_interface.is_empty() => {
            invalid("DetectLocal.BridgeInterface", String::new(), "required for BridgeInterface");
        }
        "InterfaceNamePrefix" if config.detect_local.interface_name_prefix.is_empty() => {
            invalid("DetectLocal.InterfaceNamePrefix", String::new(), "required for InterfaceNamePrefix");
        }
        "BridgeInterface" | "InterfaceNamePrefix" => {}
        other => {
            invalid(
                "DetectLocalMode",
                other.to_owned(),
                "must be BridgeInterface,ClusterCIDR,InterfaceNamePrefix,NodeCIDR or blank",
            );
        }
    }
    for name in [&config.detect_local.bridge_interface, &config.detect_local.interface_name_prefix] {
        // The name becomes part of a rule.
        let good = |c: char| c.is_ascii_graphic() && !"\"\\/{};*".contains(c);
        if name.len() > 15 || !name.chars().all(good) {
            invalid("DetectLocal", name.clone(), "must be the name of an interface");
        }
    }
    let sync = config.sync();
    if sync.sync_period < sync.min_sync_period {
        let field = format!("{}.SyncPeriod", config.mode);
        invalid(
            &field,
            component::duration::format(sync.sync_period),
            "must be greater than or equal to MinSyncPeriod",
        );
    }
    if sync.masquerade_bit > 31 {
        invalid("MasqueradeBit", sync.masquerade_bit.to_string(), "must be within the range [0, 31]");
    }
}

fn conntrack(config: &Config, invalid: &mut impl FnMut(&str, String, &str)) {
    for (field, value) in [("MaxPerCore", config.conntrack.max_per_core), ("Min", config.conntrack.min)] {
        if let Some(value) = value.filter(|v| *v < 0) {
            invalid(&format!("Conntrack.{field}"), value.to_string(), "must be greater than or equal to 0");
        }
    }
}

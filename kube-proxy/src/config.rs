//! `KubeProxyConfiguration` (v1alpha1): the file, the flags that stand for it, defaults and validation.

mod validate;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::bail;
use component::Flags;
use serde::{Deserialize, Serialize};

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";

/// The configuration; field names are the file's.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    pub feature_gates: BTreeMap<String, bool>,
    pub client_connection: ClientConnection,
    pub logging: serde_json::Value,
    pub hostname_override: String,
    pub bind_address: String,
    pub healthz_bind_address: String,
    pub metrics_bind_address: String,
    pub bind_address_hard_fail: bool,
    pub enable_profiling: bool,
    pub show_hidden_metrics_for_version: String,
    pub mode: String,
    pub iptables: Iptables,
    pub ipvs: Ipvs,
    pub nftables: Nftables,
    pub winkernel: serde_json::Value,
    pub detect_local_mode: String,
    pub detect_local: DetectLocal,
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: String,
    pub node_port_addresses: Option<Vec<String>>,
    pub oom_score_adj: Option<i32>,
    pub conntrack: Conntrack,
    #[serde(with = "component::duration")]
    pub config_sync_period: Duration,
    pub port_range: String,
    pub windows_run_as_service: bool,
}

/// How to reach the API server.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientConnection {
    pub kubeconfig: String,
    pub accept_content_types: String,
    pub content_type: String,
    pub qps: f64,
    pub burst: i32,
}

/// Settings of the iptables mode.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Iptables {
    pub masquerade_bit: Option<i32>,
    pub masquerade_all: bool,
    pub localhost_node_ports: Option<bool>,
    #[serde(with = "component::duration")]
    pub sync_period: Duration,
    #[serde(with = "component::duration::option")]
    pub min_sync_period: Option<Duration>,
}

/// Settings of the IPVS mode.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Ipvs {
    #[serde(with = "component::duration")]
    pub sync_period: Duration,
    #[serde(with = "component::duration::option")]
    pub min_sync_period: Option<Duration>,
    pub scheduler: String,
    #[serde(rename = "excludeCIDRs")]
    pub exclude_cidrs: Option<Vec<String>>,
    #[serde(rename = "strictARP")]
    pub strict_arp: bool,
    #[serde(with = "component::duration")]
    pub tcp_timeout: Duration,
    #[serde(with = "component::duration")]
    pub tcp_fin_timeout: Duration,
    #[serde(with = "component::duration")]
    pub udp_timeout: Duration,
}

/// Settings of the nftables mode.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Nftables {
    pub masquerade_bit: Option<i32>,
    pub masquerade_all: bool,
    #[serde(with = "component::duration")]
    pub sync_period: Duration,
    #[serde(with = "component::duration::option")]
    pub min_sync_period: Option<Duration>,
}

/// How pods' traffic is told apart.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct DetectLocal {
    pub bridge_interface: String,
    pub interface_name_prefix: String,
}

/// Connection tracking.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Conntrack {
    pub max_per_core: Option<i32>,
    pub min: Option<i32>,
    #[serde(with = "component::duration::option")]
    pub tcp_established_timeout: Option<Duration>,
    #[serde(with = "component::duration::option")]
    pub tcp_close_wait_timeout: Option<Duration>,
    pub tcp_be_liberal: bool,
    #[serde(with = "component::duration")]
    pub udp_timeout: Duration,
    #[serde(with = "component::duration")]
    pub udp_stream_timeout: Duration,
}

/// What the modes have in common, whichever was asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sync {
    pub masquerade_bit: u32,
    pub masquerade_all: bool,
    pub sync_period: Duration,
    pub min_sync_period: Duration,
}

impl Config {
    /// The configuration that the command line asks for: a file if `--config` is given, else the flags. As upstream,
    /// flags other than the host name do not change a file.
    pub fn from_flags(flags: &Flags) -> anyhow::Result<Config> {
        let mut config = match flags.opt("config") {
            Some(path) => component::config::load_lenient(path, API_VERSION, KIND)?,
            None => flags_config(flags)?,
        };
        if let Some(name) = flags.opt("hostname-override") {
            config.hostname_override = name.trim().to_lowercase();
        }
        config.set_defaults();
        validate::validate(&config)?;
        Ok(config)
    }

    /// Every default, as upstream has them.
    pub fn set_defaults(&mut self) {
        let text = |field: &mut String, default: &str| {
            if field.is_empty() {
                default.clone_into(field);
            }
        };
        text(&mut self.mode, "iptables");
        text(&mut self.bind_address, "0.0.0.0");
        let v6 = self.bind_address.contains(':');
        let address = |host4: &str, host6: &str, port: u16| match v6 {
            true => format!("[{host6}]:{port}"),
            false => format!("{host4}:{port}"),
        };
        text(&mut self.healthz_bind_address, &address("0.0.0.0", "::", 10256));
        text(&mut self.metrics_bind_address, &address("127.0.0.1", "::1", 10249));
        self.healthz_bind_address = with_port(&self.healthz_bind_address, 10256);
        self.metrics_bind_address = with_port(&self.metrics_bind_address, 10249);
        text(&mut self.detect_local_mode, "ClusterCIDR");
        text(&mut self.client_connection.content_type, "application/vnd.kubernetes.protobuf");
        if self.client_connection.qps == 0.0 {
            self.client_connection.qps = 5.0;
        }
        if self.client_connection.burst == 0 {
            self.client_connection.burst = 10;
        }
        self.oom_score_adj.get_or_insert(-999);
        period(&mut self.config_sync_period, 15 * 60);
        period(&mut self.iptables.sync_period, 30);
        period(&mut self.ipvs.sync_period, 30);
        period(&mut self.nftables.sync_period, 30);
        let second = Duration::from_secs(1);
        self.iptables.min_sync_period.get_or_insert(second);
        self.nftables.min_sync_period.get_or_insert(second);
        self.iptables.masquerade_bit.get_or_insert(14);
        self.iptables.localhost_node_ports.get_or_insert(true);
        self.nftables.masquerade_bit.get_or_insert(14);
        let conntrack = &mut self.conntrack;
        conntrack.max_per_core.get_or_insert(32 * 1024);
        conntrack.min.get_or_insert(128 * 1024);
        conntrack.tcp_established_timeout.get_or_insert(Duration::from_secs(24 * 3600));
        conntrack.tcp_close_wait_timeout.get_or_insert(Duration::from_secs(3600));
        if self.mode == "nftables" && self.node_port_addresses.as_ref().is_none_or(Vec::is_empty) {
            self.node_port_addresses = Some(vec!["primary".to_owned()]);
        }
    }

    /// The settings of the mode that was asked for.
    pub fn sync(&self) -> Sync {
        let (bit, all, period, min) = match self.mode.as_str() {
            "nftables" => {
                let n = &self.nftables;
                (n.masquerade_bit, n.masquerade_all, n.sync_period, n.min_sync_period)
            }
            "ipvs" => {
                let i = &self.iptables;
                (i.masquerade_bit, i.masquerade_all, self.ipvs.sync_period, self.ipvs.min_sync_period)
            }
            _ => {
                let i = &self.iptables;
                (i.masquerade_bit, i.masquerade_all, i.sync_period, i.min_sync_period)
            }
        };
        Sync {
            masquerade_bit: bit.and_then(|b| u32::try_from(b).ok()).unwrap_or(14),
            masquerade_all: all,
            sync_period: period,
            min_sync_period: min.unwrap_or_default(),
        }
    }

    /// The configuration as `/configz` and `--write-config-to` show it.
    pub fn document(&self) -> serde_json::Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        value["apiVersion"] = API_VERSION.into();
        value["kind"] = KIND.into();
        value
    }
}

fn period(field: &mut Duration, default: u64) {
    if field.is_zero() {
        *field = Duration::from_secs(default);
    }
}

/// An address that lacks its port gets the default one.
fn with_port(address: &str, port: u16) -> String {
    match address.parse::<std::net::IpAddr>() {
        Ok(ip) => std::net::SocketAddr::new(ip, port).to_string(),
        Err(_) => address.to_owned(),
    }
}

/// A deprecated port flag changes the address flag's port; 0 turns the server off.
fn address_flag(flags: &Flags, address: &str, port: &str) -> String {
    let text = flags.str(address);
    if !flags.is_set(port) {
        return text.to_owned();
    }
    match flags.int(port) {
        0 => String::new(),
        n => text.rsplit_once(':').map_or_else(|| text.to_owned(), |(host, _)| format!("{host}:{n}")),
    }
}

fn flags_config(flags: &Flags) -> anyhow::Result<Config> {
    let int = |name: &str| i32::try_from(flags.int(name)).unwrap_or(i32::MAX);
    let mut feature_gates = BTreeMap::new();
    for (name, value) in flags.map("feature-gates") {
        let Ok(value) = value.to_lowercase().parse() else { bail!("invalid value of {name}={value}") };
        feature_gates.insert(name, value);
    }
    let masquerade_all = flags.bool("masquerade-all");
    let bit = Some(int("iptables-masquerade-bit"));
    let (sync, min) =
        (flags.duration("iptables-sync-period"), Some(flags.duration("iptables-min-sync-period")));
    Ok(Config {
        feature_gates,
        client_connection: ClientConnection {
            kubeconfig: flags.str("kubeconfig").to_owned(),
            content_type: flags.str("kube-api-content-type").to_owned(),
            qps: flags.float("kube-api-qps"),
            burst: int("kube-api-burst"),
            ..ClientConnection::default()
        },
        bind_address: flags.str("bind-address").to_owned(),
        healthz_bind_address: address_flag(flags, "healthz-bind-address", "healthz-port"),
        metrics_bind_address: address_flag(flags, "metrics-bind-address", "metrics-port"),
        bind_address_hard_fail: flags.bool("bind-address-hard-fail"),
        enable_profiling: flags.bool("profiling"),
        show_hidden_metrics_for_version: flags.str("show-hidden-metrics-for-version").to_owned(),
        mode: flags.str("proxy-mode").to_owned(),
        iptables: Iptables {
            masquerade_bit: bit,
            masquerade_all,
            localhost_node_ports: Some(flags.bool("iptables-localhost-nodeports")),
            sync_period: sync,
            min_sync_period: min,
        },
        nftables: Nftables { masquerade_bit: bit, masquerade_all, sync_period: sync, min_sync_period: min },
        ipvs: Ipvs {
            sync_period: flags.duration("ipvs-sync-period"),
            min_sync_period: Some(flags.duration("ipvs-min-sync-period")),
            scheduler: flags.str("ipvs-scheduler").to_owned(),
            exclude_cidrs: Some(flags.list("ipvs-exclude-cidrs")).filter(|l| !l.is_empty()),
            strict_arp: flags.bool("ipvs-strict-arp"),
            tcp_timeout: flags.duration("ipvs-tcp-timeout"),
            tcp_fin_timeout: flags.duration("ipvs-tcpfin-timeout"),
            udp_timeout: flags.duration("ipvs-udp-timeout"),
        },
        detect_local_mode: flags.str("detect-local-mode").to_owned(),
        detect_local: DetectLocal {
            bridge_interface: flags.str("pod-bridge-interface").to_owned(),
            interface_name_prefix: flags.str("pod-interface-name-prefix").to_owned(),
        },
        cluster_cidr: flags.str("cluster-cidr").to_owned(),
        node_port_addresses: Some(flags.list("nodeport-addresses")),
        oom_score_adj: Some(int("oom-score-adj")),
        conntrack: Conntrack {
            max_per_core: Some(int("conntrack-max-per-core")),
            min: Some(int("conntrack-min")),
            tcp_established_timeout: Some(flags.duration("conntrack-tcp-timeout-established")),
            tcp_close_wait_timeout: Some(flags.duration("conntrack-tcp-timeout-close-wait")),
            tcp_be_liberal: flags.bool("conntrack-tcp-be-liberal"),
            udp_timeout: flags.duration("conntrack-udp-timeout"),
            udp_stream_timeout: flags.duration("conntrack-udp-timeout-stream"),
        },
        config_sync_period: flags.duration("config-sync-period"),
        ..Config::default()
    })
}

#[cfg(test)]
mod tests;

//! Files, flags, defaults.

use super::*;

fn flags(args: &[&str]) -> Flags {
    component::Command::new("kube-proxy", "", include_str!("../../flags.json"))
        .parse_from(args.iter().copied())
        .unwrap()
}

/// The file that kubeadm writes.
const KUBEADM: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: \"\"
  burst: 0
  contentType: \"\"
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: \"\"
  interfaceNamePrefix: \"\"
detectLocalMode: \"\"
enableProfiling: false
healthzBindAddress: \"\"
hostnameOverride: \"\"
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: \"\"
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: \"0\"
    text:
      infoBufferSize: \"0\"
  verbosity: 0
metricsBindAddress: \"\"
mode: \"\"
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: \"\"
showHiddenMetricsForVersion: \"\"
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: \"\"
  rootHnsEndpointName: \"\"
  sourceVip: \"\"
";

#[test]
fn kubeadms_file_is_read_strictly_and_defaulted() {
    let mut config: Config = component::config::parse(KUBEADM, API_VERSION, KIND).unwrap();
    config.set_defaults();
    validate::validate(&config).unwrap();
    assert_eq!((config.mode.as_str(), config.healthz_bind_address.as_str()), ("iptables", "0.0.0.0:10256"));
    assert_eq!(config.metrics_bind_address, "127.0.0.1:10249");
    assert_eq!((config.client_connection.qps, config.client_connection.burst), (5.0, 10));
    assert_eq!(config.sync().sync_period, Duration::from_secs(30));
    assert_eq!(config.conntrack.min, Some(131_072));
    assert_eq!(config.node_port_addresses, None, "iptables mode: everywhere");
}

#[test]
fn flags_stand_for_a_file() {
    let config =
        Config::from_flags(&flags(&["--proxy-mode=nftables", "--masquerade-all", "--healthz-port=0"]))
            .unwrap();
    assert!(config.sync().masquerade_all && config.sync().masquerade_bit == 14);
    assert_eq!(config.node_port_addresses.as_deref(), Some(&["primary".to_owned()][..]));
    for bad in [
        "--proxy-mode=x",
        "--cluster-cidr=10.0.0.0/99",
        "--nodeport-addresses=primary,10.0.0.0/8",
        "--oom-score-adj=5000",
        "--detect-local-mode=BridgeInterface",
        "--feature-gates=NoSuchGate=true",
    ] {
        assert!(Config::from_flags(&flags(&[bad])).is_err(), "{bad}");
    }
}

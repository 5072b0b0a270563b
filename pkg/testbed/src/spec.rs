//! What runs on a node: each process with its command line, as kubeadm would start it, and its configuration files.

use crate::layout::{self, API_PORT, CLUSTER_DNS, Cluster, Node, POD_CIDR, SERVICE_CIDR, State};
use crate::runtime::Runtime;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// One supervised process of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    pub name: String,
    pub argv: Vec<String>,
    #[serde(default)]
    pub env: Vec<(String, String)>,
}

/// What the node's first process is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeSpec {
    pub node: Node,
    pub processes: Vec<Process>,
}

/// Port inside each node on which the gateway offers the machine's own way to image registries.
pub const EGRESS_PORT: u16 = 3128;
pub const PAUSE_IMAGE: &str = "localhost/pause:local";

impl NodeSpec {
    pub fn of(cluster: &Cluster, node: &Node) -> NodeSpec {
        let mut processes = vec![cluster.runtime.process()];
        if node.control_plane {
            processes.extend(control_plane(cluster, node));
        }
        processes.push(kubelet(cluster, node));
        processes.push(kube_proxy(cluster, node));
        processes.push(pod_network(cluster, node));
        NodeSpec { node: node.clone(), processes }
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        std::fs::write(path, serde_json::to_vec_pretty(self)?).context("cannot write the node's description")
    }

    pub fn load(path: &Path) -> Result<NodeSpec> {
        serde_json::from_slice(&std::fs::read(path)?)
            .with_context(|| format!("{} is damaged", path.display()))
    }
}

fn process(name: &str, binary: &Path, flags: &[String]) -> Process {
    let mut argv = vec![binary.to_string_lossy().into_owned()];
    argv.extend_from_slice(flags);
    Process { name: name.to_owned(), argv, env: Vec::new() }
}

macro_rules! flags {
    ($($text:literal $(, $arg:expr)* ;)*) => { [$(format!($text $(, $arg)*)),*] };
}

fn control_plane(cluster: &Cluster, node: &Node) -> Vec<Process> {
    let pki = "/etc/kubernetes/pki";
    let address = node.address;
    let members: Vec<String> = cluster
        .nodes()
        .iter()
        .filter(|n| n.control_plane)
        .map(|n| format!("{}=https://{}:2380", n.name, n.address))
        .collect();
    let etcd = process(
        "etcd",
        &etcd_binary(cluster),
        &flags! {
            "--name={}", node.name;
            "--data-dir=/var/lib/etcd";
            "--listen-client-urls=https://127.0.0.1:2379,https://{address}:2379";
            "--advertise-client-urls=https://{address}:2379";
            "--listen-peer-urls=https://{address}:2380";
            "--initial-advertise-peer-urls=https://{address}:2380";
            "--initial-cluster={}", members.join(",");
            "--cert-file={pki}/etcd/server.crt";
            "--key-file={pki}/etcd/server.key";
            "--client-cert-auth=true";
            "--trusted-ca-file={pki}/etcd/ca.crt";
            "--peer-cert-file={pki}/etcd/peer.crt";
            "--peer-key-file={pki}/etcd/peer.key";
            "--peer-client-cert-auth=true";
            "--peer-trusted-ca-file={pki}/etcd/ca.crt";
            "--log-level=warn";
        },
    );
    let apiserver = process(
        "kube-apiserver",
        &cluster.binary("kube-apiserver"),
        &flags! {
            "--advertise-address={address}";
            "--allow-privileged=true";
            "--authorization-mode=Node,RBAC";
            "--client-ca-file={pki}/ca.crt";
            "--enable-admission-plugins=NodeRestriction";
            "--enable-bootstrap-token-auth=true";
            "--etcd-cafile={pki}/etcd/ca.crt";
            "--etcd-certfile={pki}/apiserver-etcd-client.crt";
            "--etcd-keyfile={pki}/apiserver-etcd-client.key";
            "--etcd-servers=https://127.0.0.1:2379";
            "--kubelet-client-certificate={pki}/apiserver-kubelet-client.crt";
            "--kubelet-client-key={pki}/apiserver-kubelet-client.key";
            "--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname";
            "--proxy-client-cert-file={pki}/front-proxy-client.crt";
            "--proxy-client-key-file={pki}/front-proxy-client.key";
            "--requestheader-allowed-names=front-proxy-client";
            "--requestheader-client-ca-file={pki}/front-proxy-ca.crt";
            "--requestheader-extra-headers-prefix=X-Remote-Extra-";
            "--requestheader-group-headers=X-Remote-Group";
            "--requestheader-username-headers=X-Remote-User";
            "--secure-port={API_PORT}";
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local";
            "--service-account-key-file={pki}/sa.pub";
            "--service-account-signing-key-file={pki}/sa.key";
            "--service-cluster-ip-range={SERVICE_CIDR}";
            "--tls-cert-file={pki}/apiserver.crt";
            "--tls-private-key-file={pki}/apiserver.key";
        },
    );
    let manager_conf = "/etc/kubernetes/controller-manager.conf";
    let manager = process(
        "kube-controller-manager",
        &cluster.binary("kube-controller-manager"),
        &flags! {
            "--allocate-node-cidrs=true";
            "--authentication-kubeconfig={manager_conf}";
            "--authorization-kubeconfig={manager_conf}";
            "--bind-address=127.0.0.1";
            "--client-ca-file={pki}/ca.crt";
            "--cluster-cidr={POD_CIDR}";
            "--cluster-name=kubernetes";
            "--cluster-signing-cert-file={pki}/ca.crt";
            "--cluster-signing-key-file={pki}/ca.key";
            "--controllers=*,bootstrapsigner,tokencleaner";
            "--kubeconfig={manager_conf}";
            "--leader-elect=true";
            "--requestheader-client-ca-file={pki}/front-proxy-ca.crt";
            "--root-ca-file={pki}/ca.crt";
            "--service-account-private-key-file={pki}/sa.key";
            "--service-cluster-ip-range={SERVICE_CIDR}";
            "--use-service-account-credentials=true";
        },
    );
    let scheduler_conf = "/etc/kubernetes/scheduler.conf";
    let scheduler = process(
        "kube-scheduler",
        &cluster.binary("kube-scheduler"),
        &flags! {
            "--authentication-kubeconfig={scheduler_conf}";
            "--authorization-kubeconfig={scheduler_conf}";
            "--bind-address=127.0.0.1";
            "--kubeconfig={scheduler_conf}";
            "--leader-elect=true";
        },
    );
    vec![etcd, apiserver, manager, scheduler]
}

fn etcd_binary(cluster: &Cluster) -> std::path::PathBuf {
    cluster.replacements.get("etcd").cloned().unwrap_or_else(|| "/usr/bin/etcd".into())
}

fn kubelet(cluster: &Cluster, node: &Node) -> Process {
    process(
        "kubelet",
        &cluster.binary("kubelet"),
        &flags! {
            "--config=/etc/kubernetes/kubelet.yaml";
            "--kubeconfig=/etc/kubernetes/kubelet.conf";
            "--hostname-override={}", node.name;
            "--node-ip={}", node.address;
        },
    )
}

fn kube_proxy(cluster: &Cluster, node: &Node) -> Process {
    process(
        "kube-proxy",
        &cluster.binary("kube-proxy"),
        &flags! {
            "--config=/etc/kubernetes/kube-proxy.yaml";
            "--hostname-override={}", node.name;
        },
    )
}

fn pod_network(cluster: &Cluster, node: &Node) -> Process {
    process(
        "pod-network",
        &cluster.binary("pod-network"),
        &flags! {
            "--kubeconfig=/etc/kubernetes/pod-network.conf";
            "--node-name={}", node.name;
            "--cluster-cidr={POD_CIDR}";
        },
    )
}

/// Writes the configuration files below the node's `/etc/kubernetes`.
pub fn write_configuration(state: &State, node: &Node, runtime: &Runtime) -> Result<()> {
    let dir = state.node(&node.name).kubernetes();
    std::fs::create_dir_all(dir.join("manifests"))?;
    let write = |name: &str, text: String| {
        std::fs::write(dir.join(name), text).with_context(|| format!("cannot write {name} of {}", node.name))
    };
    write("kubelet.yaml", kubelet_configuration(node, runtime.socket()))?;
    write("kube-proxy.yaml", kube_proxy_configuration())?;
    for (name, text, mode) in runtime.configuration() {
        write(name, text)?;
        std::fs::set_permissions(dir.join(name), Permissions::from_mode(mode))?;
    }
    write("resolv.conf", format!("nameserver {}\n", layout::fabric_address()))
}

fn kubelet_configuration(node: &Node, socket: &str) -> String {
    let taints = if node.schedulable {
        String::new()
    } else {
        "registerWithTaints:\n- key: node-role.kubernetes.io/control-plane\n  effect: NoSchedule\n".to_owned()
    };
    format!(
        "\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true, cacheTTL: 0s}}
  x509: {{clientCAFile: /etc/kubernetes/pki/ca.crt}}
authorization:
  mode: Webhook
  webhook: {{cacheAuthorizedTTL: 0s, cacheUnauthorizedTTL: 0s}}
cgroupDriver: cgroupfs
failCgroupV1: false
clusterDNS: [{CLUSTER_DNS}]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix://{socket}
healthzBindAddress: 127.0.0.1
healthzPort: 10248
protectKernelDefaults: false
resolvConf: /etc/kubernetes/resolv.conf
staticPodPath: /etc/kubernetes/manifests
failSwapOn: false
imageGCHighThresholdPercent: 100
evictionHard: {{memory.available: 100Mi, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%}}
{taints}"
    )
}

fn kube_proxy_configuration() -> String {
    format!(
        "\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: {POD_CIDR}
clientConnection: {{kubeconfig: /etc/kubernetes/kube-proxy.conf}}
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Cluster;

    #[test]
    fn roles_decide_what_runs() {
        let cluster = Cluster {
            control_planes: 3,
            workers: 1,
            bin_dir: "/b".into(),
            api_port: 1,
            replacements: Default::default(),
            runtime: Default::default(),
        };
        let nodes = cluster.nodes();
        let names = |n: &Node| -> Vec<String> {
            NodeSpec::of(&cluster, n).processes.into_iter().map(|p| p.name).collect()
        };
        assert_eq!(names(&nodes[3]), ["containerd", "kubelet", "kube-proxy", "pod-network"]);
        assert_eq!(names(&nodes[0]).len(), 8);
        let etcd = &NodeSpec::of(&cluster, &nodes[1]).processes[1];
        let members = etcd.argv.iter().find(|a| a.starts_with("--initial-cluster=")).expect("members");
        assert_eq!(members.matches("https://").count(), 3);
    }
}

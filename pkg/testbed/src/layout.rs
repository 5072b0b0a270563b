//! Where everything of a cluster lies, and which address everything has.
//!
//! Two clusters may use the same addresses: they share no network namespace.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// The network of the nodes; the bridge has the first address and balances the apiservers on it.
pub const NODE_NETWORK: Ipv4Addr = Ipv4Addr::new(192, 168, 90, 0);
pub const NODE_PREFIX: u8 = 24;
pub const POD_CIDR: &str = "10.244.0.0/16";
pub const SERVICE_CIDR: &str = "10.96.0.0/12";
pub const KUBERNETES_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
pub const CLUSTER_DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub const API_PORT: u16 = 6443;
const FIRST_NODE: u8 = 11;
const MAX_NODES: usize = 200;

/// What a cluster consists of; written to the state folder so that every command means the same cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    pub control_planes: usize,
    pub workers: usize,
    /// Folder with the daemons' binaries.
    pub bin_dir: PathBuf,
    /// Port on the machine's loopback that leads to the apiservers.
    pub api_port: u16,
    /// Binaries that replace ours, by component name.
    pub replacements: std::collections::BTreeMap<String, PathBuf>,
    #[serde(default)]
    pub runtime: crate::runtime::Runtime,
}

/// One node of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    pub address: Ipv4Addr,
    pub control_plane: bool,
    /// With no workers, the control plane runs pods too: no taint.
    pub schedulable: bool,
}

impl Cluster {
    pub fn nodes(&self) -> Vec<Node> {
        let node = |i: usize, name: String, control_plane: bool| Node {
            name,
            address: address_of(i),
            control_plane,
            schedulable: !control_plane || self.workers == 0,
        };
        let planes = (0..self.control_planes).map(|i| node(i, format!("control-plane-{}", i + 1), true));
        let workers =
            (0..self.workers).map(|i| node(self.control_planes + i, format!("worker-{}", i + 1), false));
        planes.chain(workers).collect()
    }

    pub fn validate(&self) -> Result<()> {
        ensure!(self.control_planes >= 1, "a cluster needs at least one control-plane node");
        ensure!(
            self.control_planes + self.workers <= MAX_NODES,
            "at most {MAX_NODES} nodes fit in the node network"
        );
        Ok(())
    }

    pub fn binary(&self, component: &str) -> PathBuf {
        self.replacements.get(component).cloned().unwrap_or_else(|| self.bin_dir.join(component))
    }
}

fn address_of(index: usize) -> Ipv4Addr {
    let [a, b, c, _] = NODE_NETWORK.octets();
    Ipv4Addr::new(a, b, c, FIRST_NODE + index as u8)
}

/// The bridge's address: default route of the nodes, and the apiservers' balanced address.
pub fn fabric_address() -> Ipv4Addr {
    let [a, b, c, _] = NODE_NETWORK.octets();
    Ipv4Addr::new(a, b, c, 1)
}

/// The state folder of one cluster.
#[derive(Clone, Debug)]
pub struct State {
    root: PathBuf,
}

impl State {
    pub fn new(root: &Path) -> Result<State> {
        std::fs::create_dir_all(root).with_context(|| format!("cannot create {}", root.display()))?;
        let root = root.canonicalize().with_context(|| format!("cannot resolve {}", root.display()))?;
        Ok(State { root })
    }
    /// A state folder that must exist already.
    pub fn existing(root: &Path) -> Result<State> {
        let root = root.canonicalize().with_context(|| format!("no cluster state in {}", root.display()))?;
        Ok(State { root })
    }
    pub fn root(&self) -> &Path {
        &self.root
    }
    pub fn cluster_file(&self) -> PathBuf {
        self.root.join("cluster.json")
    }
    pub fn processes_dir(&self) -> PathBuf {
        self.root.join("processes")
    }
    pub fn cgroups_file(&self) -> PathBuf {
        self.root.join("cgroups")
    }
    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.root.join("admin.conf")
    }
    pub fn node(&self, name: &str) -> NodeDir {
        NodeDir { dir: self.root.join("nodes").join(name), logs: self.logs().join(name) }
    }
    pub fn load_cluster(&self) -> Result<Cluster> {
        let path = self.cluster_file();
        let text = std::fs::read(&path).with_context(|| format!("no cluster in {}", self.root.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
    }
    pub fn save_cluster(&self, cluster: &Cluster) -> Result<()> {
        let text = serde_json::to_vec_pretty(cluster)?;
        std::fs::write(self.cluster_file(), text).context("cannot write the cluster's description")
    }
}

/// What one node keeps on the machine's disk.
#[derive(Clone, Debug)]
pub struct NodeDir {
    dir: PathBuf,
    logs: PathBuf,
}

impl NodeDir {
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    pub fn logs(&self) -> &Path {
        &self.logs
    }
    /// Configuration and credentials; seen by the node as `/etc/kubernetes`.
    pub fn kubernetes(&self) -> PathBuf {
        self.dir.join("kubernetes")
    }
    /// Bound over the same path of the node.
    pub fn data(&self, what: &str) -> PathBuf {
        self.dir.join("data").join(what)
    }
    pub fn spec_file(&self) -> PathBuf {
        self.dir.join("node.json")
    }
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }
    pub fn pid_file(&self, component: &str) -> PathBuf {
        self.dir.join("pids").join(component)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(control_planes: usize, workers: usize) -> Cluster {
        Cluster {
            control_planes,
            workers,
            bin_dir: "/bin".into(),
            api_port: 1,
            replacements: [("kubelet".to_owned(), PathBuf::from("/other/kubelet"))].into(),
            runtime: Default::default(),
        }
    }

    #[test]
    fn nodes_have_names_addresses_and_roles() {
        let nodes = cluster(1, 2).nodes();
        let names: Vec<_> = nodes.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["control-plane-1", "worker-1", "worker-2"]);
        assert_eq!(nodes[2].address, Ipv4Addr::new(192, 168, 90, 13));
        assert!(!nodes[0].schedulable && nodes[1].schedulable);
        assert!(cluster(1, 0).nodes()[0].schedulable, "alone, the control plane runs pods");
    }

    #[test]
    fn sizes_are_checked() {
        assert!(cluster(0, 1).validate().is_err());
        assert!(cluster(1, 500).validate().is_err());
        assert!(cluster(3, 3).validate().is_ok());
    }

    #[test]
    fn one_binary_can_be_replaced() {
        let c = cluster(1, 0);
        assert_eq!(c.binary("kubelet"), PathBuf::from("/other/kubelet"));
        assert_eq!(c.binary("kube-proxy"), PathBuf::from("/bin/kube-proxy"));
    }
}

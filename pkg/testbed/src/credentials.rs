//! The certificates, keys and kubeconfigs of a cluster, named and placed as kubeadm does.

use crate::layout::{self, API_PORT, Cluster, Node, State};
use anyhow::{Context, Result};
use pki::{Ca, Cert, Request};
use std::net::IpAddr;
use std::path::Path;

const DAYS: u32 = 365;

/// Everything that is made once a cluster.
pub struct Credentials {
    ca: Ca,
    etcd_ca: Ca,
    front_proxy_ca: Ca,
    service_account: pki::ServiceAccountKeys,
}

impl Credentials {
    pub fn generate() -> Result<Credentials> {
        Ok(Credentials {
            ca: Ca::new("kubernetes")?,
            etcd_ca: Ca::new("etcd-ca")?,
            front_proxy_ca: Ca::new("front-proxy-ca")?,
            service_account: pki::service_account_keys()?,
        })
    }

    /// The administrator's kubeconfig, for use on the machine.
    pub fn write_admin(&self, state: &State, cluster: &Cluster) -> Result<()> {
        let server = format!("https://127.0.0.1:{}", cluster.api_port);
        self.kubeconfig(&state.admin_kubeconfig(), &server, "kubernetes-admin", &["system:masters"])?;
        std::fs::create_dir_all(state.pki())?;
        write_pair_of(&state.pki(), "ca", self.ca.cert_pem(), self.ca.key_pem())
    }

    /// What one node has below `/etc/kubernetes`.
    pub fn write_node(&self, state: &State, node: &Node) -> Result<()> {
        let dir = state.node(&node.name).kubernetes();
        let pki_dir = dir.join("pki");
        std::fs::create_dir_all(&pki_dir)?;
        write_public(&pki_dir.join("ca.crt"), self.ca.cert_pem())?;
        let local = format!("https://{}:{API_PORT}", node.address);
        let balanced = format!("https://{}:{API_PORT}", layout::fabric_address());
        let server = if node.control_plane { &local } else { &balanced };
        let user = format!("system:node:{}", node.name);
        self.kubeconfig(&dir.join("kubelet.conf"), server, &user, &["system:nodes"])?;
        self.kubeconfig(&dir.join("kube-proxy.conf"), server, "system:kube-proxy", &["system:node-proxier"])?;
        self.kubeconfig(&dir.join("pod-network.conf"), server, "binnacle:pod-network", &["system:masters"])?;
        if node.control_plane {
            self.write_control_plane(&dir, &pki_dir, node, server)?;
        }
        Ok(())
    }

    fn write_control_plane(&self, dir: &Path, pki_dir: &Path, node: &Node, server: &str) -> Result<()> {
        self.kubeconfig(&dir.join("admin.conf"), server, "kubernetes-admin", &["system:masters"])?;
        self.kubeconfig(&dir.join("scheduler.conf"), server, "system:kube-scheduler", &[])?;
        let manager = "system:kube-controller-manager";
        self.kubeconfig(&dir.join("controller-manager.conf"), server, manager, &[])?;
        self.kubeconfig(
            &dir.join("cloud-controller-manager.conf"),
            server,
            "system:cloud-controller-manager",
            &["system:masters"],
        )?;
        write_pair_of(pki_dir, "ca", self.ca.cert_pem(), self.ca.key_pem())?;
        write_pair_of(
            pki_dir,
            "front-proxy-ca",
            self.front_proxy_ca.cert_pem(),
            self.front_proxy_ca.key_pem(),
        )?;
        write_secret(&pki_dir.join("sa.key"), &self.service_account.private_pem)?;
        write_public(&pki_dir.join("sa.pub"), &self.service_account.public_pem)?;
        let address = IpAddr::V4(node.address);
        let names = [
            node.name.as_str(),
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        let ips = [
            address,
            IpAddr::V4(layout::KUBERNETES_SERVICE),
            IpAddr::V4(layout::fabric_address()),
            "127.0.0.1".parse()?,
        ];
        let pairs = [
            ("apiserver", self.ca.issue(serving("kube-apiserver", &names, &ips))?),
            (
                "apiserver-kubelet-client",
                self.ca.issue(client("kube-apiserver-kubelet-client", &["system:masters"]))?,
            ),
            ("front-proxy-client", self.front_proxy_ca.issue(client("front-proxy-client", &[]))?),
            ("apiserver-etcd-client", self.etcd_ca.issue(client("kube-apiserver-etcd-client", &[]))?),
        ];
        for (name, cert) in &pairs {
            write_pair(pki_dir, name, cert)?;
        }
        let etcd = pki_dir.join("etcd");
        std::fs::create_dir_all(&etcd)?;
        write_public(&etcd.join("ca.crt"), self.etcd_ca.cert_pem())?;
        let ips = [address, "127.0.0.1".parse()?];
        for name in ["server", "peer"] {
            let mut request = serving(&node.name, &[&node.name, "localhost"], &ips);
            request.client = true;
            write_pair(&etcd, name, &self.etcd_ca.issue(request)?)?;
        }
        Ok(())
    }

    fn kubeconfig(&self, path: &Path, server: &str, user: &str, groups: &[&str]) -> Result<()> {
        let cert = self.ca.issue(client(user, groups))?;
        write_secret(path, &pki::kubeconfig(server, self.ca.cert_pem(), &cert))
    }
}

fn client(cn: &str, orgs: &[&str]) -> Request {
    Request {
        cn: cn.to_owned(),
        orgs: orgs.iter().map(|o| (*o).to_owned()).collect(),
        client: true,
        days: DAYS,
        ..Default::default()
    }
}

fn serving(cn: &str, dns: &[&str], ips: &[IpAddr]) -> Request {
    Request {
        cn: cn.to_owned(),
        dns: dns.iter().map(|d| (*d).to_owned()).collect(),
        ips: ips.to_vec(),
        server: true,
        days: DAYS,
        ..Default::default()
    }
}

fn write_pair(dir: &Path, name: &str, cert: &Cert) -> Result<()> {
    write_pair_of(dir, name, &cert.cert_pem, &cert.key_pem)
}

fn write_pair_of(dir: &Path, name: &str, cert: &str, key: &str) -> Result<()> {
    write_public(&dir.join(format!("{name}.crt")), cert)?;
    write_secret(&dir.join(format!("{name}.key")), key)
}

fn write_public(path: &Path, text: &str) -> Result<()> {
    pki::files::write_public(&path.to_string_lossy(), text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    pki::files::write_secret(&path.to_string_lossy(), text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

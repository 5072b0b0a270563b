//! Making the node's network what it should be. Everything is idempotent: a restart applies it all again.

use crate::desired::Desired;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

const CNI_FILE: &str = "10-pod-network.conflist";
const BRIDGE: &str = "cni0";

/// `before` is what this process applied last; routes that it no longer wants are taken away.
pub async fn apply(wanted: &Desired, before: Option<&Desired>, cni_conf_dir: &Path) -> Result<()> {
    masquerade(wanted).await?;
    for (cidr, via) in &wanted.routes {
        ip(&["route", "replace", &cidr.to_string(), "via", &via.to_string()]).await?;
    }
    for cidr in before.iter().flat_map(|b| b.routes.keys()).filter(|c| !wanted.routes.contains_key(c)) {
        ip(&["route", "delete", &cidr.to_string()]).await?;
    }
    write_cni(wanted, cni_conf_dir)
}

async fn ip(args: &[&str]) -> Result<()> {
    let out = Command::new("ip").args(args).output().await.context("cannot run ip (package iproute2)")?;
    ensure!(out.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim());
    Ok(())
}

fn masquerade_rules(d: &Desired) -> String {
    let family = if d.cluster_cidr.addr().is_ipv4() { "ip" } else { "ip6" };
    let mut inside = d.cluster_cidr.to_string();
    for address in d.node_addresses.iter().filter(|a| a.is_ipv4() == d.cluster_cidr.addr().is_ipv4()) {
        // Writing to a string cannot fail.
        let _ = write!(inside, ", {address}");
    }
    format!(
        "add table {family} pod-network\n\
         delete table {family} pod-network\n\
         table {family} pod-network {{\n\
         \tchain postrouting {{\n\
         \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
         \t\t{family} saddr {} {family} daddr != {{ {inside} }} masquerade\n\
         \t}}\n\
         }}\n",
        d.cluster_cidr
    )
}

async fn masquerade(d: &Desired) -> Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run nft (package nftables)")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(masquerade_rules(d).as_bytes()).await?;
    }
    let out = child.wait_with_output().await?;
    ensure!(out.status.success(), "nft: {}", String::from_utf8_lossy(&out.stderr).trim());
    Ok(())
}

/// Written last and at once: its appearance is what makes the node's network ready.
fn write_cni(d: &Desired, dir: &Path) -> Result<()> {
    let config = json!({
        "cniVersion": "0.4.0",
        "name": "pod-network",
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isDefaultGateway": true,
                "hairpinMode": true,
                "ipMasq": false,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": d.own_cidr.to_string()}]]},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    let text = serde_json::to_vec_pretty(&config)?;
    let path = dir.join(CNI_FILE);
    if std::fs::read(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(&text)?;
    file.persist(&path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Desired {
        Desired {
            own_cidr: "10.244.3.0/24".parse().expect("cidr"),
            cluster_cidr: "10.244.0.0/16".parse().expect("cidr"),
            routes: Default::default(),
            node_addresses: ["192.0.2.1".parse().expect("address")].into(),
        }
    }

    #[test]
    fn pods_and_nodes_are_never_masqueraded() {
        let rules = masquerade_rules(&wanted());
        assert!(rules.contains("ip saddr 10.244.0.0/16 ip daddr != { 10.244.0.0/16, 192.0.2.1 } masquerade"));
    }

    #[test]
    fn the_cni_configuration_names_the_nodes_own_range() {
        let dir = tempfile::tempdir().expect("temp dir");
        write_cni(&wanted(), dir.path()).expect("written");
        let text = std::fs::read(dir.path().join(CNI_FILE)).expect("file");
        let config: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(config["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], "10.244.3.0/24");
    }
}

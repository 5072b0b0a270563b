//! Removing what proxies leave behind: our own tables (`--cleanup`), and the iptables rules of a kube-proxy that ran here
//! before, which would go on translating to endpoints of the past.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::process::Stdio;

use anyhow::Context;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::model::Family;
use crate::nft::Nft;
use crate::rules::TABLE;

/// Deletes our tables.
pub async fn nftables(nft: &Nft) -> anyhow::Result<()> {
    for family in [Family::V4, Family::V6] {
        let f = family.nft();
        // "Add, then delete" is "delete if it is there".
        nft.run(&format!("add table {f} {TABLE}\ndelete table {f} {TABLE}\n")).await?;
    }
    Ok(())
}

/// Removes the rules of kube-proxy's iptables mode; says whether there were any.
pub async fn iptables() -> bool {
    let mut found = false;
    for prefix in ["iptables", "ip6tables"] {
        for table in ["nat", "filter", "mangle"] {
            match clean_table(prefix, table).await {
                Ok(any) => found |= any,
                // No iptables here, or no such table: then there is nothing of it either.
                Err(error) => {
                    tracing::debug!(prefix, table, error = format!("{error:#}"), "No iptables to clean")
                }
            }
        }
    }
    found
}

async fn clean_table(prefix: &str, table: &str) -> anyhow::Result<bool> {
    let save =
        Command::new(format!("{prefix}-save")).args(["-t", table]).stdin(Stdio::null()).output().await?;
    let Some(script) = removal(&String::from_utf8_lossy(&save.stdout), table) else { return Ok(false) };
    let mut child = Command::new(format!("{prefix}-restore"))
        .args(["-w", "5", "--noflush"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("no pipe")?.write_all(script.as_bytes()).await?;
    let output = child.wait_with_output().await?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    tracing::info!(command = prefix, table, "Removed rules of another proxy mode");
    Ok(true)
}

/// Chains that a kube-proxy made. kubelet's (`KUBE-FIREWALL`, `KUBE-KUBELET-CANARY`) stay.
fn is_proxy_chain(name: &str) -> bool {
    const NAMES: [&str; 12] = [
        "KUBE-SERVICES",
        "KUBE-EXTERNAL-SERVICES",
        "KUBE-NODEPORTS",
        "KUBE-POSTROUTING",
        "KUBE-FORWARD",
        "KUBE-PROXY-FIREWALL",
        "KUBE-PROXY-CANARY",
        "KUBE-MARK-MASQ",
        "KUBE-LOAD-BALANCER",
        "KUBE-NODE-PORT",
        "KUBE-IPVS-FILTER",
        "KUBE-SOURCE-RANGES-FIREWALL",
    ];
    const PREFIXES: [&str; 5] = ["KUBE-SVC-", "KUBE-SEP-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-"];
    NAMES.contains(&name) || PREFIXES.iter().any(|p| name.starts_with(p))
}

/// The script that removes a kube-proxy's chains from a saved table, and the rules that lead to them.
fn removal(saved: &str, table: &str) -> Option<String> {
    let chains: BTreeSet<&str> = saved
        .lines()
        .filter_map(|l| l.strip_prefix(':')?.split_whitespace().next())
        .filter(|c| is_proxy_chain(c))
        .collect();
    if chains.is_empty() {
        return None;
    }
    let mut out = format!("*{table}\n");
    for chain in &chains {
        let _ = writeln!(out, ":{chain} - [0:0]");
    }
    for rule in saved.lines().filter_map(|l| l.strip_prefix("-A ")) {
        let mut words = rule.split_whitespace();
        let from = words.next().unwrap_or_default();
        let words: Vec<&str> = words.collect();
        let leads = words.windows(2).any(|w| (w[0] == "-j" || w[0] == "-g") && chains.contains(w[1]));
        if leads && !chains.contains(from) {
            let _ = writeln!(out, "-D {rule}");
        }
    }
    for chain in &chains {
        let _ = writeln!(out, "-X {chain}");
    }
    out.push_str("COMMIT\n");
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_proxys_chains_are_removed() {
        let saved = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-AAA - [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\n\
            -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n-A PREROUTING -j OTHER\n\
            -A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-AAA\nCOMMIT\n";
        assert_eq!(
            removal(saved, "nat").unwrap(),
            "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-AAA - [0:0]\n\
            -D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
            -X KUBE-SERVICES\n-X KUBE-SVC-AAA\nCOMMIT\n"
        );
        assert!(
            removal("*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n", "nat")
                .is_none()
        );
    }
}

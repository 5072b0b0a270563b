//! The two chains of iptables that others expect of a kubelet: one whose place tells which iptables the node uses, and
//! one that drops packets to 127.0.0.0/8 that come from elsewhere.

use std::time::Duration;

use tokio::process::Command;
use tokio_util::sync::CancellationToken;

/// The chains are made anew when somebody has flushed everything.
const PERIOD: Duration = Duration::from_secs(60);
/// How long a program may take.
const LIMIT: Duration = Duration::from_secs(30);
const HINT: &str = "KUBE-IPTABLES-HINT";
const FIREWALL: &str = "KUBE-FIREWALL";
/// Goes when everything is flushed.
const CANARY: &str = "KUBE-KUBELET-CANARY";

/// Makes the chains and keeps them until the shutdown. Nodes without iptables do without.
pub async fn run(shutdown: CancellationToken) {
    let work = async {
        let mut there = Vec::new();
        for program in ["iptables", "ip6tables"] {
            match set_up(program).await {
                Ok(()) => {
                    tracing::info!(program, "Initialized iptables rules");
                    there.push(program);
                }
                Err(error) => tracing::debug!(program, error, "No iptables chains on this node"),
            }
        }
        while !there.is_empty() {
            tokio::time::sleep(PERIOD).await;
            for program in &there {
                if call(program, &["-t", "mangle", "-S", CANARY]).await.is_err()
                    && let Err(error) = set_up(program).await
                {
                    tracing::info!(program, error, "Failed to initialize iptables rules");
                }
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}

async fn set_up(program: &str) -> Result<(), String> {
    ensure_chain(program, "mangle", HINT).await?;
    ensure_chain(program, "mangle", CANARY).await?;
    if program != "iptables" {
        return Ok(());
    }
    ensure_chain(program, "filter", FIREWALL).await?;
    for chain in ["OUTPUT", "INPUT"] {
        ensure_rule(program, "-I", &[chain, "-j", FIREWALL]).await?;
    }
    let drop = [
        FIREWALL,
        "-m",
        "comment",
        "--comment",
        "block incoming localnet connections",
        "--dst",
        "127.0.0.0/8",
        "!",
        "--src",
        "127.0.0.0/8",
        "-m",
        "conntrack",
        "!",
        "--ctstate",
        "RELATED,ESTABLISHED,DNAT",
        "-j",
        "DROP",
    ];
    ensure_rule(program, "-A", &drop).await
}

async fn ensure_chain(program: &str, table: &str, chain: &str) -> Result<(), String> {
    if call(program, &["-t", table, "-S", chain]).await.is_ok() {
        return Ok(());
    }
    call(program, &["-t", table, "-N", chain]).await
}

async fn ensure_rule(program: &str, how: &str, rule: &[&str]) -> Result<(), String> {
    let with = |verb: &'static str| [&["-t", "filter", verb][..], rule].concat();
    if call(program, &with("-C")).await.is_ok() {
        return Ok(());
    }
    let verb = if how == "-I" { "-I" } else { "-A" };
    call(program, &with(verb)).await
}

async fn call(program: &str, arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new(program);
    command.arg("-w").arg("5").args(arguments).kill_on_drop(true);
    match tokio::time::timeout(LIMIT, command.output()).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => Err(String::from_utf8_lossy(&output.stderr).trim().to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("{program} took too long")),
    }
}

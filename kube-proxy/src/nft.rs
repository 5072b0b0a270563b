//! Running `nft`: one atomic transaction a call.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// A transaction of a very large cluster takes seconds; longer means that something hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// How `nft` and its kin are called.
#[derive(Clone, Debug, Default)]
pub struct Nft {
    prefix: Vec<String>,
}

impl Nft {
    /// Everything by way of another command (tests: inside a network namespace).
    #[cfg(test)]
    pub fn with_prefix(prefix: &[&str]) -> Nft {
        Nft { prefix: prefix.iter().map(|c| (*c).to_owned()).collect() }
    }

    /// Another tool, called the same way.
    pub fn tool(&self, name: &str) -> Command {
        let mut words = self.prefix.iter().map(String::as_str).chain([name]);
        let mut command = Command::new(words.next().unwrap_or(name));
        command.args(words);
        command
    }

    /// Whether `nft` is there and may be used.
    pub async fn check(&self) -> anyhow::Result<()> {
        self.output(&["list", "tables"], None).await.context("nftables is not usable").map(drop)
    }

    /// Runs a script as one transaction.
    pub async fn run(&self, script: &str) -> anyhow::Result<()> {
        tracing::trace!(script, "Running nftables transaction");
        self.output(&["-f", "-"], Some(script)).await.map(drop)
    }

    /// Lists something as JSON; `None` if it is not there.
    pub async fn list(&self, what: &[&str]) -> Option<serde_json::Value> {
        let args: Vec<&str> = ["-j", "list"].iter().chain(what).copied().collect();
        let out = self.output(&args, None).await.ok()?;
        serde_json::from_slice(&out).ok()
    }

    async fn output(&self, args: &[&str], input: Option<&str>) -> anyhow::Result<Vec<u8>> {
        let mut child = self
            .tool("nft")
            .args(args)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot run nft")?;
        let stdin = child.stdin.take();
        let feed = async {
            if let (Some(mut pipe), Some(text)) = (stdin, input) {
                pipe.write_all(text.as_bytes()).await?;
            }
            std::io::Result::Ok(())
        };
        let both = async { tokio::join!(feed, child.wait_with_output()) };
        let (fed, output) = tokio::time::timeout(LIMIT, both).await.context("nft did not end in time")?;
        let output = output?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            bail!("nft: {}", text.lines().take(3).collect::<Vec<_>>().join(" | "));
        }
        fed?;
        Ok(output.stdout)
    }
}

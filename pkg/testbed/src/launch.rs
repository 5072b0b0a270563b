//! A node from the outside: its cgroups, its namespaces, its first process.

use crate::cgroup;
use crate::layout::State;
use crate::record::Process;
use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, unshare};
use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Name of the process records.
pub fn record_name(node: &str) -> String {
    format!("node-{node}")
}

/// A name for the node's cgroup folders that no other cluster on the machine has.
fn cgroup_name(state: &State, node: &str) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(state.root().to_string_lossy().as_bytes());
    format!("binnacle-{}-{node}", hex::encode(&digest[..4]))
}

/// Starts the node's first process (this program again) and returns once it is recorded.
pub fn start(state: &State, node: &str) -> Result<Process> {
    let folders = cgroup::create(&cgroup_name(state, node))?;
    let mut list = std::fs::OpenOptions::new().create(true).append(true).open(state.cgroups_file())?;
    for folder in &folders {
        writeln!(list, "{}", folder.display())?;
    }
    let dir = state.node(node);
    std::fs::create_dir_all(dir.logs())?;
    let log = File::create(dir.logs().join("init.log"))?;
    let status = Command::new(std::env::current_exe()?)
        .arg("node-launch")
        .arg("--state-dir")
        .arg(state.root())
        .arg("--node")
        .arg(node)
        .args(folders.iter().flat_map(|f| [PathBuf::from("--cgroup"), f.clone()]))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0)
        .status()
        .context("cannot start the node's launcher")?;
    if !status.success() {
        bail!("node {node} did not start: {}", tail(&dir.logs().join("init.log")));
    }
    Process::load(&state.processes_dir().join(record_name(node)))
        .context("the node's launcher recorded no process")
}

/// The launcher's own body: enters cgroups and new namespaces, starts pid 1 of the node, records it and ends.
pub fn launch(state: &State, node: &str, folders: &[PathBuf]) -> Result<()> {
    cgroup::enter(folders)?;
    unshare(
        CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWCGROUP,
    )
    .context("cannot make namespaces (root is needed)")?;
    // The folder is the root of the node's own view from here on; its processes stay in a leaf of it.
    cgroup::settle(folders)?;
    let child = Command::new(std::env::current_exe()?)
        .arg("node-init")
        .arg("--state-dir")
        .arg(state.root())
        .arg("--node")
        .arg(node)
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start the node's first process")?;
    let process = Process::of(child.id() as i32).context("the node's first process ended at once")?;
    process.save(&state.processes_dir(), &record_name(node))?;
    wait_for_socket(state, node, process)
}

fn wait_for_socket(state: &State, node: &str, process: Process) -> Result<()> {
    let socket = state.node(node).control_socket();
    let end = Instant::now() + Duration::from_secs(10);
    while !socket.exists() {
        if !process.alive() || Instant::now() > end {
            bail!("the node's first process did not come up");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// The last lines of a log, for error messages.
pub fn tail(path: &std::path::Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

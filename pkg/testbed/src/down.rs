//! Taking a cluster down, in whatever state it is.

use crate::cgroup;
use crate::layout::State;
use crate::record::Process;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the kernel may take to end a node's processes.
const END_LIMIT: Duration = Duration::from_secs(20);

/// Ends every recorded process and removes what the cluster made outside its state folder. The logs stay.
pub fn down(state: &State) -> Result<()> {
    let processes = Process::load_all(&state.processes_dir());
    // A node's first process takes all its node's processes, mounts and interfaces with it.
    for (_, process) in &processes {
        process.signal(Signal::SIGKILL);
    }
    let left: Vec<&str> =
        processes.iter().filter(|(_, p)| !p.wait_gone(END_LIMIT)).map(|(name, _)| name.as_str()).collect();
    ensure!(left.is_empty(), "these processes do not end: {}", left.join(", "));
    remove_cgroups(state)?;
    remove_dir(&state.processes_dir())?;
    clear(state)
}

fn remove_cgroups(state: &State) -> Result<()> {
    let list = fs::read_to_string(state.cgroups_file()).unwrap_or_default();
    let folders: Vec<PathBuf> = list.lines().map(PathBuf::from).collect();
    let end = Instant::now() + END_LIMIT;
    // The last tasks of a killed namespace leave their cgroups a moment after its first process is gone.
    while !folders.iter().all(|f| cgroup::remove(f)) {
        ensure!(Instant::now() < end, "cgroups are still in use: {list}");
        std::thread::sleep(Duration::from_millis(20));
    }
    match fs::remove_file(state.cgroups_file()) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).context("cannot forget the cgroups"),
        _ => Ok(()),
    }
}

/// Removes the nodes' data and the last run's logs; image archives are kept for the next start.
pub fn clear(state: &State) -> Result<()> {
    remove_dir(&state.root().join("nodes"))
}

/// Removes logs of an earlier run.
pub fn clear_logs(state: &State) -> Result<()> {
    remove_dir(&state.logs())
}

fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

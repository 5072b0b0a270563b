//! Ends what a runtime that was killed has left running in a pod's cgroup.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Cgroups;

/// Containers may make cgroups of their own; deeper than this nobody does.
const DEPTH: usize = 16;

impl Cgroups {
    /// Kills all processes in the cgroup of a pod of which the runtime says that nothing runs. Returns how many.
    pub fn kill_left(&self, uid: &str) -> usize {
        let mut left = BTreeSet::new();
        for class in ["", "burstable", "besteffort"] {
            let mut parts = self.base.clone();
            parts.extend((!class.is_empty()).then(|| class.to_string()));
            parts.push(format!("pod{uid}"));
            let path = self.path(&parts);
            for hierarchy in self.all_hierarchies() {
                processes(&hierarchy.join(&path), DEPTH, &mut left);
            }
        }
        left.iter().filter(|id| kill(Pid::from_raw(**id), Signal::SIGKILL).is_ok()).count()
    }
}

/// The processes of a cgroup and of those in it.
fn processes(dir: &Path, depth: usize, found: &mut BTreeSet<i32>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    // Those of another namespace show as zero, and nobody kills the first.
    found.extend(text.lines().filter_map(|line| line.trim().parse::<i32>().ok()).filter(|id| *id > 1));
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|e| depth > 0 && e.file_type().is_ok_and(|t| t.is_dir())) {
        processes(&entry.path(), depth - 1, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_those_of_cgroups_below() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("cgroup.procs"), "1\n0\n").unwrap();
        fs::write(dir.path().join("a/b/cgroup.procs"), "77\n78\n").unwrap();
        let mut found = BTreeSet::new();
        processes(dir.path(), DEPTH, &mut found);
        assert_eq!(found, BTreeSet::from([77, 78]));
    }
}

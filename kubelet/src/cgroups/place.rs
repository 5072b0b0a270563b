//! Cgroups that are not of pods: where the kubelet itself runs, and what else of the system.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::Cgroups;

/// Processes begin while others are moved: the list is gone through so often.
const ROUNDS: usize = 10;

impl Cgroups {
    /// Moves this process into a cgroup, which is made if need be.
    pub fn enter(&self, name: &str) -> Result<(), String> {
        self.move_to(&relative(name)?, std::process::id())
    }

    /// Moves all processes of the root, but those of the kernel and the first, into a cgroup.
    pub fn gather_system(&self, name: &str) -> Result<(), String> {
        let target = relative(name)?;
        let mut result = Ok(());
        for _ in 0..ROUNDS {
            let Some(root) = self.hierarchies.first() else { return Ok(()) };
            let text = fs::read_to_string(root.join("cgroup.procs")).map_err(|e| e.to_string())?;
            let pids = text.lines().filter_map(|line| line.trim().parse::<u32>().ok());
            let left: Vec<u32> = pids.filter(|pid| *pid > 1 && !is_kernel(*pid)).collect();
            if left.is_empty() {
                return Ok(());
            }
            for pid in left {
                result = self.move_to(&target, pid);
            }
        }
        result
    }

    fn move_to(&self, target: &Path, pid: u32) -> Result<(), String> {
        for hierarchy in &self.hierarchies {
            self.make_in(hierarchy, target, &super::Limits::default())
                .and_then(|()| fs::write(hierarchy.join(target).join("cgroup.procs"), pid.to_string()))
                .map_err(|e| {
                    format!("failed to move PID {pid} to {}: {e}", hierarchy.join(target).display())
                })?;
        }
        Ok(())
    }
}

fn relative(name: &str) -> Result<PathBuf, String> {
    let path = Path::new(name.trim_matches('/'));
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    match path.as_os_str().is_empty() || !plain {
        true => Err(format!("cgroup {name:?} is no place for processes of the system")),
        false => Ok(path.to_path_buf()),
    }
}

/// A process of the kernel has no program.
fn is_kernel(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        assert_eq!(relative("/system/kubelet").unwrap(), Path::new("system/kubelet"));
        for name in ["/", "", "/a/../b"] {
            assert!(relative(name).is_err(), "{name}");
        }
    }
}

//! Names and folders of the hierarchies.

use std::fs;
use std::path::{Path, PathBuf};

use super::ROOT;

/// A weight as of cgroup v2 for shares as of v1.
pub(super) fn weight(shares: i64) -> i64 {
    1 + ((shares - 2).max(0) * 9999) / 262_142
}

/// The pod UID in a cgroup's name.
pub(super) fn uid_of(name: &str) -> Option<String> {
    if let Some(uid) = name.strip_prefix("pod") {
        return Some(uid.to_string());
    }
    let inner = name.strip_suffix(".slice")?;
    Some(inner.rsplit_once("-pod")?.1.replace('_', "-"))
}

/// The name of a systemd slice for a path: dashes mean nesting, so dashes of a part become underscores.
pub(super) fn slice_name(parts: &[String]) -> String {
    let parts: Vec<String> = parts.iter().map(|part| part.replace('-', "_")).collect();
    format!("{}.slice", parts.join("-"))
}

/// Whether the machine has one hierarchy for all controllers.
pub fn is_v2() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// The mount points of all cgroup v1 hierarchies.
pub(super) fn v1_hierarchies() -> Vec<PathBuf> {
    let entries = fs::read_dir(ROOT).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()) && entry.file_name() != "unified")
        .map(|entry| entry.path())
        .filter(|path| path.join("cgroup.procs").exists())
        .collect();
    found.sort();
    found
}

/// Hands the controllers of a folder on to those in it.
pub(super) fn enable_controllers(dir: &Path) {
    let Ok(available) = fs::read_to_string(dir.join("cgroup.controllers")) else { return };
    for controller in available.split_whitespace() {
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// Removes a cgroup and those in it. Nothing runs in them any more.
pub(super) fn remove_tree(path: &Path, depth: usize) -> bool {
    if !path.exists() {
        return true;
    }
    if depth < 16 {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                remove_tree(&entry.path(), depth + 1);
            }
        }
    }
    match fs::remove_dir(path) {
        Ok(()) => true,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

//! A cgroup folder a node, in every hierarchy that is mounted.
//!
//! On version 1 (and hybrid) layouts the folders stand below the caller's own cgroup, so that whatever limits the
//! caller limits the nodes too. On a pure version 2 layout they stand at the root, since a cgroup that holds
//! processes cannot hand controllers on; for the same reason the node's daemons run in a leaf of the node's folder,
//! as they do on a machine with systemd.

use anyhow::{Context, Result};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq)]
pub struct Hierarchy {
    /// Name of its folder below `/sys/fs/cgroup`; empty for a pure version 2 layout.
    pub folder: String,
    /// Options to mount it again, e.g. `cpu,cpuacct` or `none,name=systemd`; none for version 2.
    pub v1_options: Option<String>,
    /// The caller's own cgroup in it.
    pub own: String,
}

/// All hierarchies of this machine, read from `/proc/self/cgroup` and `/proc/self/mountinfo`.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let own = std::fs::read_to_string("/proc/self/cgroup").context("cannot read /proc/self/cgroup")?;
    let mounts =
        std::fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(parse(&own, &mounts))
}

fn parse(own: &str, mountinfo: &str) -> Vec<Hierarchy> {
    let own_of = |controllers: &str| {
        own.lines().find_map(|l| {
            let mut parts = l.splitn(3, ':');
            let (_, c, path) = (parts.next()?, parts.next()?, parts.next()?);
            (c == controllers).then(|| path.to_owned())
        })
    };
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(point) = left.split(' ').nth(4).and_then(|p| p.strip_prefix("/sys/fs/cgroup")) else {
            continue;
        };
        let folder = point.trim_start_matches('/').to_owned();
        let mut right = right.split(' ');
        let (fs, options) = (right.next().unwrap_or(""), right.nth(1).unwrap_or(""));
        let hierarchy = match fs {
            "cgroup2" => own_of("").map(|own| Hierarchy { folder, v1_options: None, own }),
            "cgroup" => {
                let names: Vec<&str> = options
                    .split(',')
                    .filter(|o| !matches!(*o, "rw" | "ro" | "xattr" | "clone_children"))
                    .collect();
                let names: Vec<&str> =
                    names.into_iter().filter(|o| !o.starts_with("release_agent=")).collect();
                let controllers = names.join(",");
                own_of(&controllers).map(|own| Hierarchy {
                    folder,
                    v1_options: Some(v1_options(&controllers)),
                    own,
                })
            }
            _ => None,
        };
        found.extend(
            hierarchy.filter(|h| !found.iter().any(|f| f.folder == h.folder)).into_iter().collect::<Vec<_>>(),
        );
    }
    found
}

fn v1_options(controllers: &str) -> String {
    if controllers.starts_with("name=") { format!("none,{controllers}") } else { controllers.to_owned() }
}

impl Hierarchy {
    fn node_folder(&self, name: &str) -> PathBuf {
        let base = Path::new("/sys/fs/cgroup").join(&self.folder);
        let below = if self.v1_options.is_some() { self.own.trim_start_matches('/') } else { "" };
        base.join(below).join(name)
    }
}

/// Makes the node's folder in each hierarchy and returns them; `name` is unique on the machine.
pub fn create(name: &str) -> Result<Vec<PathBuf>> {
    let mut made = Vec::new();
    for h in hierarchies()? {
        let dir = h.node_folder(name);
        std::fs::create_dir_all(&dir)
            .with_context(|| format!("cannot create the cgroup {}", dir.display()))?;
        prepare(&h, &dir);
        made.push(dir);
    }
    Ok(made)
}

/// A new version 1 cpuset is empty and would take no process; a version 2 folder gets the controllers it can have.
fn prepare(h: &Hierarchy, dir: &Path) {
    if h.folder.split(',').any(|c| c == "cpuset") {
        let own = dir.parent().unwrap_or(dir);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = std::fs::read_to_string(own.join(file)) {
                // If the parent has none either, joining fails with its own clear error.
                let _ = std::fs::write(dir.join(file), value.trim());
            }
        }
        // Children made by the runtime inherit the sets.
        let _ = std::fs::write(dir.join("cgroup.clone_children"), "1");
    }
    if h.v1_options.is_none() && h.folder.is_empty() {
        let available = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        for controller in available.split_whitespace() {
            // A controller that cannot be handed on is missing in the node, as on any such machine.
            let _ = std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", format!("+{controller}"));
        }
    }
}

/// Where a node's own processes are on a pure version 2 layout.
const LEAF: &str = "system";

/// Moves the calling process on into a leaf of its folder where the layout is of version 2, so that the folder can
/// hand its controllers on to the pods.
pub fn settle(folders: &[PathBuf]) -> Result<()> {
    match hierarchies()?.iter().any(|h| h.folder.is_empty() && h.v1_options.is_none()) {
        true => folders.iter().try_for_each(|dir| settle_in(dir)),
        false => Ok(()),
    }
}

fn settle_in(dir: &Path) -> Result<()> {
    let leaf = dir.join(LEAF);
    std::fs::create_dir_all(&leaf).with_context(|| format!("cannot create the cgroup {}", leaf.display()))?;
    enter(&[leaf])?;
    let available = std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    for controller in available.split_whitespace() {
        std::fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"))
            .with_context(|| format!("cannot hand {controller} on in {}", dir.display()))?;
    }
    Ok(())
}

/// Moves the calling process into the folders.
pub fn enter(folders: &[PathBuf]) -> Result<()> {
    for dir in folders {
        let mut procs = std::fs::OpenOptions::new().write(true).open(dir.join("cgroup.procs"))?;
        procs.write_all(b"0").with_context(|| format!("cannot enter the cgroup {}", dir.display()))?;
    }
    Ok(())
}

/// Removes a node's folder with everything below it; all processes in it must be gone. True when it is gone.
pub fn remove(dir: &Path) -> bool {
    if let Ok(entries) = std::fs::read_dir(dir) {
        for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            remove(&entry.path());
        }
    }
    match std::fs::remove_dir(dir) {
        Ok(()) => true,
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's part is played: its files are there before.
    #[test]
    fn a_version_2_node_lives_in_a_leaf() {
        let dir = tempfile::tempdir().expect("folder");
        let file = |path: &str| dir.path().join(path);
        std::fs::create_dir(file(LEAF)).expect("leaf");
        std::fs::write(file("cgroup.controllers"), "memory\n").expect("controllers");
        for empty in ["system/cgroup.procs", "cgroup.subtree_control"] {
            std::fs::write(file(empty), "").expect(empty);
        }
        settle_in(dir.path()).expect("settled");
        let text = |path: &str| std::fs::read_to_string(file(path)).expect("readable");
        assert_eq!(
            (text("system/cgroup.procs").as_str(), text("cgroup.subtree_control").as_str()),
            ("0", "+memory")
        );
    }

    #[test]
    fn hybrid_and_unified_layouts_are_understood() {
        let own = "9:name=systemd:/\n4:memory:/a/b\n1:cpu,cpuacct:/\n0::/u\n";
        let mounts = "\
30 1 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
        let found = parse(own, mounts);
        let short: Vec<_> =
            found.iter().map(|h| (h.folder.as_str(), h.v1_options.as_deref(), h.own.as_str())).collect();
        assert_eq!(
            short,
            [
                ("cpu,cpuacct", Some("cpu,cpuacct"), "/"),
                ("memory", Some("memory"), "/a/b"),
                ("systemd", Some("none,name=systemd"), "/"),
                ("unified", None, "/u"),
            ]
        );
        assert_eq!(found[1].node_folder("n"), PathBuf::from("/sys/fs/cgroup/memory/a/b/n"));
        let unified =
            parse("0::/user.slice\n", "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate");
        assert_eq!(unified[0].node_folder("n"), PathBuf::from("/sys/fs/cgroup/n"));
    }
}

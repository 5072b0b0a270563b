//! What the node itself says: of its runtime, mounts, cgroups, namespaces and folders.

use anyhow::{Result, ensure};
use e2e::Bed;
use std::collections::{BTreeMap, BTreeSet};

use crate::{NODE, pods};

/// What pods leave behind on a node, by kind.
pub struct Traces(BTreeMap<&'static str, BTreeSet<String>>);

/// Each prints one trace a line. Shims are not among them: one that containerd forgot, killed between starting it and
/// noting it, belongs to no container, and nobody but containerd could know it.
const LOOKS: [(&str, &str); 7] = [
    ("container", "ctr -n k8s.io containers ls -q"),
    (
        "mount",
        "cut -d' ' -f5 /proc/self/mountinfo | grep -E '/kubelet/pods/|/k8s.io/|/io.containerd.grpc|/netns/'; true",
    ),
    ("cgroup", "find /sys/fs/cgroup/ -maxdepth 6 -type d -path '*kubepods*' -name 'pod*' 2>/dev/null; true"),
    ("network namespace", "ls /run/netns"),
    ("interface", "ls /sys/class/net | grep veth; true"),
    ("address", "find /var/lib/cni/networks -name '*.*.*.*' 2>/dev/null; true"),
    ("pod folder", "ls /var/lib/kubelet/pods"),
];

/// Network namespaces that containerd may have forgotten: it makes one, and sets up its network, before it notes the
/// sandbox. Killed in between, it leaves what no client can name any more; the kubelet cannot be asked for it.
#[derive(Default)]
pub struct Forgotten(BTreeSet<String>);

impl Forgotten {
    /// Notes what is there while containerd is dead.
    pub fn note(&mut self, bed: &Bed) -> Result<()> {
        self.0.extend(lines(bed, "ls /run/netns")?);
        Ok(())
    }

    /// Takes out those that a sandbox holds: they are known, and have to go with their pods.
    pub fn forget_known(&mut self, bed: &Bed) -> Result<()> {
        let held = "for c in $(ctr -n k8s.io containers ls -q); do ctr -n k8s.io containers info $c; done";
        let held = bed.on_node(NODE, "sh -c").arg(held).text()?;
        self.0.retain(|name| !held.contains(name.as_str()));
        Ok(())
    }

    /// What is left and is not containerd's loss. A lost namespace may have got an interface and an address already.
    pub fn excuse(&self, left: Vec<String>) -> Vec<String> {
        let lost = |trace: &String| self.0.iter().any(|name| trace.ends_with(name.as_str()));
        let (lost, left): (Vec<_>, Vec<_>) = left.into_iter().partition(lost);
        let namespaces = lost.iter().filter(|t| t.starts_with("network namespace ")).count();
        let (mut interfaces, mut addresses) = (namespaces, namespaces);
        let mut spare = |trace: &String| {
            let count = match trace.split(' ').next() {
                Some("interface") => &mut interfaces,
                Some("address") => &mut addresses,
                _ => return true,
            };
            let over = *count == 0;
            *count = count.saturating_sub(1);
            over
        };
        left.into_iter().filter(|t| spare(t)).collect()
    }
}

fn lines(bed: &Bed, script: &str) -> Result<Vec<String>> {
    let out = bed.on_node(NODE, "sh -c").arg(script).text()?;
    Ok(out.lines().filter(|l| !l.is_empty()).map(str::to_owned).collect())
}

impl Traces {
    pub fn of(bed: &Bed) -> Result<Traces> {
        let mut found = BTreeMap::new();
        for (kind, script) in LOOKS {
            found.insert(kind, lines(bed, script)?.into_iter().collect());
        }
        Ok(Traces(found))
    }

    /// What is here and was not there.
    pub fn beyond(&self, before: &Traces) -> Vec<String> {
        let mut left = Vec::new();
        for (kind, now) in &self.0 {
            let old = before.0.get(kind).cloned().unwrap_or_default();
            left.extend(now.difference(&old).map(|trace| format!("{kind} {trace}")));
        }
        left
    }
}

/// The containers that run are those that the API says, and one sandbox for each pod that has not ended.
pub fn agrees(bed: &Bed) -> Result<()> {
    let mut told = BTreeSet::new();
    let mut sandboxes = 0;
    for pod in pods::list(bed, "-A")? {
        let status = &pod["status"];
        sandboxes += usize::from(status["phase"] == "Running");
        for kind in ["initContainerStatuses", "containerStatuses"] {
            for container in status[kind].as_array().into_iter().flatten() {
                let id = container["containerID"].as_str().and_then(|id| id.rsplit('/').next());
                let running = container["state"]["running"].is_object();
                told.extend(id.filter(|_| running).map(str::to_owned));
            }
        }
    }
    let tasks = bed.on_node(NODE, "ctr -n k8s.io tasks ls").text()?;
    let running: BTreeSet<String> = tasks
        .lines()
        .filter(|line| line.contains("RUNNING"))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    let missing: Vec<_> = told.difference(&running).collect();
    ensure!(missing.is_empty(), "the API says that these run: {missing:?}");
    let more = running.difference(&told).count();
    ensure!(more == sandboxes, "{more} other containers run, {sandboxes} sandboxes should");
    Ok(())
}

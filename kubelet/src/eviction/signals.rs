//! What is left: of memory, of the file systems of node, images and containers, and of process ids.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::thresholds::ALLOCATABLE_MEMORY;
use crate::kubelet::Kubelet;

/// How long the runtime's word on where its files lie is believed.
const BELIEVE: Duration = Duration::from_secs(300);

/// What is left of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    pub available: i64,
    pub capacity: i64,
}

/// Where the runtime keeps images and the containers' own layers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    pub images: Option<PathBuf>,
    pub containers: Option<PathBuf>,
}

/// The places as last told.
#[derive(Default)]
pub struct KnownPlaces(Mutex<Option<(Instant, Places)>>);

impl KnownPlaces {
    /// Asks the runtime, if it was not asked for a while.
    pub async fn get(&self, runtime: &cri::Runtime) -> Places {
        if let Some((at, places)) = self.0.lock().as_ref()
            && at.elapsed() < BELIEVE
        {
            return places.clone();
        }
        let Ok(info) = runtime.image_fs_info().await else {
            return self.0.lock().as_ref().map(|(_, p)| p.clone()).unwrap_or_default();
        };
        let place = |list: &[cri::v1::FilesystemUsage]| {
            let path = PathBuf::from(&list.first()?.fs_id.as_ref()?.mountpoint);
            path.is_dir().then_some(path)
        };
        let places =
            Places { images: place(&info.image_filesystems), containers: place(&info.container_filesystems) };
        *self.0.lock() = Some((Instant::now(), places.clone()));
        places
    }
}

impl Places {
    /// Images lie on another file system than the kubelet's files.
    pub fn images_apart(&self, root: &Path) -> bool {
        self.images.as_deref().is_some_and(|images| device(images) != device(root))
    }

    /// Containers' layers lie on another file system than images.
    pub fn containers_apart(&self) -> bool {
        let (Some(images), Some(containers)) = (&self.images, &self.containers) else { return false };
        device(images) != device(containers)
    }
}

fn device(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    Some(fs::metadata(path).ok()?.dev())
}

/// All signals.
pub async fn observe(kubelet: &Kubelet) -> BTreeMap<&'static str, Left> {
    let places = kubelet.places.get(&kubelet.runtime).await;
    let mut out = BTreeMap::new();
    let mut put = |signal, left: Option<Left>| {
        if let Some(left) = left {
            out.insert(signal, left);
        }
    };
    put("memory.available", memory(kubelet));
    put(ALLOCATABLE_MEMORY, allocatable(kubelet));
    let images = places.images.as_deref().unwrap_or(kubelet.root());
    for (available, inodes, path) in [
        ("nodefs.available", "nodefs.inodesFree", kubelet.root()),
        ("imagefs.available", "imagefs.inodesFree", images),
    ] {
        put(available, disk(path, false));
        // Some file systems count no inodes.
        put(inodes, disk(path, true).filter(|left| left.capacity > 0));
    }
    put("pid.available", pids());
    out
}

/// Memory that is not in use, nor full of what could not be thrown away.
fn memory(kubelet: &Kubelet) -> Option<Left> {
    let capacity = kubelet.machine.memory;
    let root = kubelet_server::Usage::of(Path::new("/")).and_then(|u| u.working_set);
    let used = match root {
        Some(used) => i64::try_from(used).ok()?,
        None => {
            // The root cgroup of version 2 does not tell.
            let info = fs::read_to_string("/proc/meminfo").ok()?;
            let field = |name: &str| -> Option<i64> {
                let line = info.lines().find(|l| l.starts_with(name))?;
                Some(line.split_whitespace().nth(1)?.parse::<i64>().ok()? * 1024)
            };
            field("MemTotal:")? - field("MemFree:")? - field("Inactive(file):")?
        }
    };
    Some(Left { available: capacity - used, capacity })
}

/// What all pods together may still use.
fn allocatable(kubelet: &Kubelet) -> Option<Left> {
    let used = kubelet_server::Usage::of(&kubelet.cgroups.pods_path())?.working_set?;
    let capacity = kubelet.machine.memory - crate::machine::reserved(&kubelet.config, "memory") / 1000;
    Some(Left { available: capacity - i64::try_from(used).ok()?, capacity })
}

/// What is left of a file system: bytes or inodes.
pub fn disk(path: &Path, inodes: bool) -> Option<Left> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let size = i64::try_from(stat.fragment_size()).ok()?;
    Some(if inodes {
        Left { available: stat.files_available() as i64, capacity: stat.files() as i64 }
    } else {
        Left { available: stat.blocks_available() as i64 * size, capacity: stat.blocks() as i64 * size }
    })
}

fn pids() -> Option<Left> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<i64>().ok();
    let max =
        number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max").unwrap_or(i64::MAX));
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    let used: i64 = load.split_whitespace().nth(3)?.split('/').nth(1)?.parse().ok()?;
    Some(Left { available: max - used, capacity: max })
}

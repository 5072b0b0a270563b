//! How full volumes are: as their driver says where it tells, else as the file system does. What was found out is
//! believed for a while, so that whoever asks often costs no more than whoever asks seldom.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;

use super::{Space, measure};
use crate::{Host, VolumePath};

/// How full a volume is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VolumeUse {
    /// Bytes that are free, in all, and used.
    pub bytes: Option<(u64, u64, u64)>,
    /// Inodes that are free, in all, and used.
    pub inodes: Option<(u64, u64, u64)>,
    /// What is wrong with it, if the driver tells how it is; empty where all is well.
    pub abnormal: Option<Option<String>>,
}

impl VolumeUse {
    fn of_space(space: Space) -> VolumeUse {
        VolumeUse {
            bytes: Some((space.available, space.capacity, space.capacity.saturating_sub(space.available))),
            inodes: Some((space.inodes_free, space.inodes, space.inodes.saturating_sub(space.inodes_free))),
            abnormal: None,
        }
    }
}

/// How long a file system may take to tell. One whose server is gone never does.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was found out, by pod and volume.
#[derive(Default)]
pub struct Known {
    found: Mutex<HashMap<(String, String), (Instant, VolumeUse)>>,
    /// Those that are being asked: nobody asks them again meanwhile.
    asked: Arc<Mutex<HashSet<PathBuf>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Known {
    fn fresh(&self, key: &(String, String), period: Duration) -> Option<VolumeUse> {
        let known = locked(&self.found);
        let (at, found) = known.get(key)?;
        (at.elapsed() < period).then(|| found.clone())
    }

    /// The volumes of a pod; none where the configuration turns this off.
    pub async fn of_pod(&self, host: &dyn Host, pod: &Pod) -> Vec<(VolumePath, VolumeUse)> {
        let Some(period) = host.volume_stats_period() else { return Vec::new() };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut out = Vec::new();
        for volume in host.volumes(pod) {
            let key = (uid.clone(), volume.name.clone());
            let found = match self.fresh(&key, period) {
                Some(found) => Some(found),
                None => self.look(host, pod, &volume).await.inspect(|found| {
                    let mut known = locked(&self.found);
                    known.retain(|_, (at, _)| at.elapsed() < period);
                    known.insert(key, (Instant::now(), found.clone()));
                }),
            };
            out.extend(found.map(|found| (volume, found)));
        }
        out
    }

    async fn look(&self, host: &dyn Host, pod: &Pod, volume: &VolumePath) -> Option<VolumeUse> {
        if let Some(told) = host.volume_use(pod, volume).await {
            return Some(told);
        }
        let (path, owned) = (volume.path.clone(), volume.owned);
        self.ask(&volume.path, move || read(&path, owned)).await
    }

    /// Asks a file system beside the tasks; does not wait for one that does not answer.
    async fn ask<T: Send + 'static>(
        &self,
        path: &Path,
        read: impl FnOnce() -> Option<T> + Send + 'static,
    ) -> Option<T> {
        if !locked(&self.asked).insert(path.to_path_buf()) {
            return None;
        }
        let (asked, key) = (self.asked.clone(), path.to_path_buf());
        let answer = tokio::task::spawn_blocking(move || {
            let found = read();
            locked(&asked).remove(&key);
            found
        });
        tokio::time::timeout(PATIENCE, answer).await.ok()?.ok().flatten()
    }
}

fn read(path: &Path, owned: bool) -> Option<VolumeUse> {
    let mut found = VolumeUse::of_space(Space::of(path)?);
    if owned {
        // It shares its file system with others: what counts is what lies in it.
        let (bytes, inodes) = measure(path);
        let own = |n: i64| u64::try_from(n).unwrap_or(0);
        found.bytes = found.bytes.map(|(free, all, _)| (free, all, own(bytes)));
        found.inodes = found.inodes.map(|(free, all, _)| (free, all, own(inodes)));
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_waits_for_a_dead_server() {
        let known = Known::default();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let path = Path::new("/hung");
        assert_eq!(known.ask(path, move || held.recv().ok()).await, None);
        // It is not asked again while it still owes an answer.
        assert_eq!(known.ask(path, || Some(())).await, None);
        assert_eq!(known.ask(Path::new("/well"), || Some(1)).await, Some(1));
        drop(release);
    }
}

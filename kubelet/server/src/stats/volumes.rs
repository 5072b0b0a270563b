//! How full volumes are: as their driver says where it tells, else as the file system does. What was found out is
//! believed for a while, so that whoever asks often costs no more than whoever asks seldom.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
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

/// What was found out, by pod and volume.
#[derive(Default)]
pub struct Known(Mutex<HashMap<(String, String), (Instant, VolumeUse)>>);

impl Known {
    fn fresh(&self, key: &(String, String), period: Duration) -> Option<VolumeUse> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
                None => look(host, pod, &volume).await.inspect(|found| {
                    let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                    known.retain(|_, (at, _)| at.elapsed() < period);
                    known.insert(key, (Instant::now(), found.clone()));
                }),
            };
            out.extend(found.map(|found| (volume, found)));
        }
        out
    }
}

async fn look(host: &dyn Host, pod: &Pod, volume: &VolumePath) -> Option<VolumeUse> {
    if let Some(told) = host.volume_use(pod, volume).await {
        return Some(told);
    }
    let (path, owned) = (volume.path.clone(), volume.owned);
    let read = move || {
        let mut found = VolumeUse::of_space(Space::of(&path)?);
        if owned {
            // It shares its file system with others: what counts is what lies in it.
            let (bytes, inodes) = measure(&path);
            let own = |n: i64| u64::try_from(n).unwrap_or(0);
            found.bytes = found.bytes.map(|(free, all, _)| (free, all, own(bytes)));
            found.inodes = found.inodes.map(|(free, all, _)| (free, all, own(inodes)));
        }
        Some(found)
    };
    tokio::task::spawn_blocking(read).await.ok().flatten()
}

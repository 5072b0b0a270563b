//! How full a driver's volume is, and how well it is.

use std::path::Path;

use ::csi::v1;
use ::csi::v1::node_service_capability::rpc::Type as Rpc;
use ::csi::v1::volume_usage::Unit;

use super::data::{self, VolumeData};
use crate::{Manager, layout};

/// What a driver says of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that are free, in all, and used.
    pub bytes: Option<(u64, u64, u64)>,
    /// Inodes that are free, in all, and used.
    pub inodes: Option<(u64, u64, u64)>,
    /// Something is wrong with the volume: what. `Some` and empty where the driver says that all is well.
    pub abnormal: Option<Option<String>>,
}

/// Asks the driver of the volume whose folder in a pod is called `name`; `None` if the driver does not tell.
pub async fn usage(manager: &Manager, uid: &str, name: &str) -> Option<Usage> {
    let dir = layout::volume_dir(&layout::pod_dir(&manager.root, uid), layout::CSI, name);
    let record = VolumeData::load(&dir).ok()??;
    let driver = manager.drivers.get(&record.driver_name).ok()?;
    if !driver.can(Rpc::GetVolumeStats).await.ok()? {
        return None;
    }
    let staging = data::global_mount(&manager.root, &record.driver_name, &record.volume_handle);
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let request = v1::NodeGetVolumeStatsRequest {
        volume_id: record.volume_handle,
        volume_path: text(&dir.join("mount")),
        staging_target_path: if staging.exists() { text(&staging) } else { String::new() },
    };
    driver.stats(request).await.ok().map(|reply| convert(&reply))
}

fn convert(reply: &v1::NodeGetVolumeStatsResponse) -> Usage {
    let of = |unit: Unit| {
        let found = reply.usage.iter().find(|u| u.unit() == unit)?;
        let number = |n: i64| u64::try_from(n).unwrap_or(0);
        Some((number(found.available), number(found.total), number(found.used)))
    };
    let condition = reply.volume_condition.as_ref();
    Usage {
        bytes: of(Unit::Bytes),
        inodes: of(Unit::Inodes),
        abnormal: condition.map(|c| c.abnormal.then(|| c.message.clone())),
    }
}

//! `emptyDir`: a folder of the pod's own, on disk, in memory or in huge pages.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};

use crate::{Error, Result, Setup, Volume, layout, mount, ownership, quantity};

/// An `emptyDir`.
pub struct EmptyDir {
    medium: Medium,
    size_limit: Option<u64>,
}

#[derive(Debug, PartialEq)]
enum Medium {
    Disk,
    Memory,
    /// With the size of a page, e.g. `2Mi`.
    HugePages(String),
}

impl EmptyDir {
    /// From its spec.
    pub fn new(source: &EmptyDirVolumeSource, pod: &Pod) -> Result<Self> {
        let size_limit = source.size_limit.as_ref().and_then(|q| quantity::units(&q.0));
        Ok(Self {
            medium: medium(source.medium.as_deref().unwrap_or_default(), pod)?,
            size_limit: size_limit.and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0),
        })
    }

    fn tmpfs_size(&self, setup: &Setup<'_>) -> Option<u64> {
        match (self.size_limit, setup.facts.memory_medium_limit) {
            (Some(own), Some(most)) => Some(own.min(most)),
            (own, most) => own.or(most),
        }
    }
}

fn medium(name: &str, pod: &Pod) -> Result<Medium> {
    match name {
        "" => Ok(Medium::Disk),
        "Memory" => Ok(Medium::Memory),
        "HugePages" => {
            let mut sizes = page_sizes(pod).into_iter();
            match (sizes.next(), sizes.next()) {
                (Some(size), None) => Ok(Medium::HugePages(size)),
                (Some(_), Some(_)) => Err(Error::other(
                    "medium: HugePages can't be used if container requests multiple huge page sizes",
                )),
                (None, _) => Err(no_pages(name)),
            }
        }
        _ => match name.strip_prefix("HugePages-") {
            Some(size) if page_sizes(pod).contains(size) => Ok(Medium::HugePages(size.to_string())),
            Some(_) => Err(no_pages(name)),
            None => Err(Error::other(format!("unknown storage medium {name:?}"))),
        },
    }
}

fn no_pages(medium: &str) -> Error {
    Error::other(format!(
        "medium {medium}: hugePages storage requested, but there is no resource request for huge pages"
    ))
}

/// The sizes of huge pages that the containers of a pod ask for.
fn page_sizes(pod: &Pod) -> BTreeSet<String> {
    let Some(spec) = &pod.spec else { return BTreeSet::new() };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let own = containers.filter_map(|c| c.resources.as_ref()).chain(spec.resources.as_ref());
    own.flat_map(|r| r.requests.iter().chain(&r.limits))
        .flat_map(|list| list.keys())
        .filter_map(|name| name.strip_prefix("hugepages-").map(str::to_string))
        .collect()
}

#[async_trait]
impl Volume for EmptyDir {
    async fn set_up(&self, setup: &Setup<'_>) -> Result<PathBuf> {
        let dir = setup.dir(layout::EMPTY_DIR);
        let ready = layout::ready_marker(setup.pod_dir, layout::EMPTY_DIR, setup.name);
        let on_disk = self.medium == Medium::Disk;
        if ready.exists() && dir.is_dir() && (on_disk || mount::is_mount_point(&dir)) {
            return Ok(dir);
        }
        fs::create_dir_all(&dir).map_err(|e| Error::io("mkdir", &dir, e))?;
        if !on_disk && !mount::is_mount_point(&dir) {
            match &self.medium {
                Medium::Disk => {}
                Medium::Memory => mount::mount_tmpfs(&dir, self.tmpfs_size(setup))?,
                Medium::HugePages(size) => mount::mount_hugetlbfs(&dir, size)?,
            }
        }
        ownership::open_to_all(&dir)?;
        if let Some(group) = setup.fs_group() {
            ownership::apply(&dir, group, false)?;
        }
        if let Some(parent) = ready.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::io("mkdir", parent, e))?;
        }
        fs::write(&ready, "").map_err(|e| Error::io("write", &ready, e))?;
        Ok(dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media() {
        let pod = |requests: serde_json::Value| -> Pod {
            serde_json::from_value(serde_json::json!({"spec": {"containers": [
                {"name": "c", "resources": {"requests": requests}}]}}))
            .unwrap()
        };
        let one = pod(serde_json::json!({"hugepages-2Mi": "4Mi"}));
        let two = pod(serde_json::json!({"hugepages-2Mi": "4Mi", "hugepages-1Gi": "1Gi"}));
        let none = pod(serde_json::json!({}));
        let pages = |size: &str| Some(Medium::HugePages(size.into()));
        for (name, pod, expected) in [
            ("", &none, Some(Medium::Disk)),
            ("Memory", &none, Some(Medium::Memory)),
            ("HugePages", &one, pages("2Mi")),
            ("HugePages", &two, None),
            ("HugePages", &none, None),
            ("HugePages-1Gi", &two, pages("1Gi")),
            ("HugePages-1Gi", &one, None),
            ("Tape", &none, None),
        ] {
            assert_eq!(medium(name, pod).ok(), expected, "{name}");
        }
    }
}

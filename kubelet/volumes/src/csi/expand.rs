//! Growing a volume on the node, after the cluster has grown it: what is on it has to fill it.

use std::path::PathBuf;

use ::csi::v1;
use ::csi::v1::node_service_capability::rpc::Type as Rpc;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimStatus};
use serde_json::{Value, json};

use super::data;
use super::{Job, Origin};
use crate::{Error, Result, layout, quantity};

const PENDING: &str = "NodeResizePending";
const IN_PROGRESS: &str = "NodeResizeInProgress";

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    /// The size to grow to, as text; whether the resizer follows the steps in the claim's status.
    Grow {
        size: String,
        tracked: bool,
    },
}

fn plan(status: &PersistentVolumeClaimStatus, volume_size: &str) -> Plan {
    let step = status.allocated_resource_statuses.as_ref().and_then(|s| s.get("storage")).map(String::as_str);
    let allocated = status.allocated_resources.as_ref().and_then(|r| r.get("storage")).map(|q| q.0.as_str());
    if step.is_some() || allocated.is_some() {
        return match (step, allocated) {
            (Some(PENDING | IN_PROGRESS), Some(size)) => Plan::Grow { size: size.into(), tracked: true },
            _ => Plan::Nothing,
        };
    }
    let shown = status.capacity.as_ref().and_then(|c| c.get("storage")).map(|q| q.0.as_str()).unwrap_or("0");
    match (quantity::units(shown), quantity::units(volume_size)) {
        (Some(shown), Some(size)) if shown < size => Plan::Grow { size: volume_size.into(), tracked: false },
        _ => Plan::Nothing,
    }
}

impl Job {
    /// Grows the volume if it has to be.
    pub(super) async fn grow(&self) -> Result<()> {
        let Origin::Persistent(_, bound) = &self.csi.origin else { return Ok(()) };
        let capacity = bound.volume.spec.as_ref().and_then(|s| s.capacity.as_ref());
        let volume_size = capacity.and_then(|c| c.get("storage")).map(|q| q.0.as_str()).unwrap_or("0");
        let status = bound.claim.status.clone().unwrap_or_default();
        let Plan::Grow { size, tracked } = plan(&status, volume_size) else { return Ok(()) };
        let refused = self.manager.device(&self.csi.unique_name(), |device| device.not_expandable);
        if refused {
            return Ok(());
        }
        let recorder = &self.manager.recorder;
        if self.csi.read_only {
            let text = format!(
                "MountVolume.NodeExpandVolume failed for volume {:?} requested read-only file system",
                self.name
            );
            recorder.pod(&self.pod, "Warning", "FileSystemResizeFailed", &text);
            recorder.claim(&bound.claim, "Warning", "FileSystemResizeFailed", &text);
            return Ok(());
        }
        self.grow_to(&bound.claim, &status, &size, tracked).await
    }

    async fn grow_to(
        &self,
        claim: &PersistentVolumeClaim,
        status: &PersistentVolumeClaimStatus,
        size: &str,
        tracked: bool,
    ) -> Result<()> {
        let driver = self.driver().map_err(Error::other)?;
        let can = driver.can(Rpc::ExpandVolume).await.map_err(|e| Error::other(e.to_string()))?;
        if !can && tracked {
            return Err(Error::other(format!(
                "NodeExpand is not supported by the CSI driver {}",
                self.csi.driver
            )));
        }
        let objects = &self.manager.objects;
        if tracked {
            let body = json!({"allocatedResourceStatuses": {"storage": IN_PROGRESS}});
            objects.patch_claim_status(claim, body).await?;
        }
        if can {
            match driver.expand(self.request(&driver, size).await?).await {
                Ok(_) => {
                    let text = format!(
                        "MountVolume.NodeExpandVolume succeeded for volume {:?} {}",
                        self.name, self.manager.node_name
                    );
                    for kind in ["pod", "claim"] {
                        match kind {
                            "pod" => self.manager.recorder.pod(
                                &self.pod,
                                "Normal",
                                "FileSystemResizeSuccessful",
                                &text,
                            ),
                            _ => self.manager.recorder.claim(
                                claim,
                                "Normal",
                                "FileSystemResizeSuccessful",
                                &text,
                            ),
                        }
                    }
                }
                Err(error) => return self.growing_failed(claim, status, tracked, &error).await,
            }
        }
        objects.patch_claim_status(claim, finished(status, size)).await.map(drop)
    }

    async fn growing_failed(
        &self,
        claim: &PersistentVolumeClaim,
        status: &PersistentVolumeClaimStatus,
        tracked: bool,
        error: &::csi::Error,
    ) -> Result<()> {
        if error.code == tonic::Code::FailedPrecondition {
            // The driver does not grow volumes in use; it is asked again when the next pod mounts it.
            self.manager.device(&self.csi.unique_name(), |device| device.not_expandable = true);
            return Ok(());
        }
        let message = format!("Expander.NodeExpand failed to expand the volume : {error}");
        if tracked && error.is_final() {
            let mut body = json!({"conditions": with_condition(status, "NodeResizeError", &message)});
            if error.is_infeasible() {
                body["allocatedResourceStatuses"] = json!({"storage": "NodeResizeInfeasible"});
            }
            self.manager.objects.patch_claim_status(claim, body).await?;
        }
        let text = format!("NodeExpandVolume.NodeExpandVolume failed for volume {:?} : {message}", self.name);
        self.manager.recorder.pod(&self.pod, "Warning", "VolumeResizeFailed", &text);
        Err(Error::other(message))
    }

    async fn request(&self, driver: &::csi::Driver, size: &str) -> Result<v1::NodeExpandVolumeRequest> {
        let Origin::Persistent(source, _) = &self.csi.origin else {
            return Err(Error::other("only persistent volumes grow"));
        };
        let (volume, staging) = self.paths();
        let secret = source.node_expand_secret_ref.as_ref();
        let secret =
            secret.map(|s| (s.namespace.clone().unwrap_or_default(), s.name.clone().unwrap_or_default()));
        let capability = self.capability(driver, self.csi.mount_options()).await;
        Ok(v1::NodeExpandVolumeRequest {
            volume_id: self.csi.handle.clone(),
            volume_path: volume.to_string_lossy().into_owned(),
            capacity_range: Some(v1::CapacityRange {
                required_bytes: quantity::units(size).unwrap_or(0),
                limit_bytes: 0,
            }),
            staging_target_path: staging.to_string_lossy().into_owned(),
            volume_capability: Some(capability.map_err(|e| Error::other(e.to_string()))?),
            secrets: self.secrets(secret, "NodeExpandSecretRef").await?.into_iter().collect(),
        })
    }

    /// Where the volume is for the pod, and where it is staged.
    fn paths(&self) -> (PathBuf, PathBuf) {
        let root = &self.manager.root;
        if self.csi.block {
            let dirs = data::block_dirs(root, &self.name);
            return (dirs.publish.join(self.uid()), dirs.staging);
        }
        let dir = layout::volume_dir(&self.pod_dir, layout::CSI, &self.name);
        (dir.join("mount"), data::global_mount(root, &self.csi.driver, &self.csi.handle))
    }
}

/// The status of a claim whose volume has grown.
fn finished(status: &PersistentVolumeClaimStatus, size: &str) -> Value {
    let gone = ["FileSystemResizePending", "Resizing", "NodeResizeError", "ControllerResizeError"];
    let left = status.conditions.iter().flatten().filter(|c| !gone.contains(&c.type_.as_str()));
    let left: Vec<_> = left.collect();
    json!({
        "capacity": {"storage": size},
        "conditions": if left.is_empty() { Value::Null } else { json!(left) },
        "allocatedResourceStatuses": {"storage": null},
    })
}

fn with_condition(status: &PersistentVolumeClaimStatus, kind: &str, message: &str) -> Value {
    let mut all: Vec<Value> =
        status.conditions.iter().flatten().filter(|c| c.type_ != kind).map(|c| json!(c)).collect();
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    all.push(json!({"type": kind, "status": "True", "lastTransitionTime": now, "message": message}));
    Value::Array(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans() {
        let grow = |size: &str, tracked| Plan::Grow { size: size.into(), tracked };
        for (status, expected) in [
            (json!({"capacity": {"storage": "2Gi"}}), Plan::Nothing),
            (json!({"capacity": {"storage": "1Gi"}}), grow("2Gi", false)),
            (
                json!({"capacity": {"storage": "1Gi"}, "allocatedResources": {"storage": "2Gi"}}),
                Plan::Nothing,
            ),
            (
                json!({"capacity": {"storage": "1Gi"}, "allocatedResources": {"storage": "3Gi"},
                    "allocatedResourceStatuses": {"storage": "NodeResizePending"}}),
                grow("3Gi", true),
            ),
            (
                json!({"allocatedResources": {"storage": "3Gi"},
                    "allocatedResourceStatuses": {"storage": "ControllerResizeInProgress"}}),
                Plan::Nothing,
            ),
        ] {
            let parsed: PersistentVolumeClaimStatus = serde_json::from_value(status.clone()).unwrap();
            assert_eq!(plan(&parsed, "2Gi"), expected, "{status}");
        }
    }

    #[test]
    fn conditions_of_growing_end_with_it() {
        let status: PersistentVolumeClaimStatus = serde_json::from_value(json!({"conditions": [
            {"type": "FileSystemResizePending", "status": "True"}, {"type": "Other", "status": "True"}]}))
        .unwrap();
        let body = finished(&status, "2Gi");
        assert_eq!(body["capacity"]["storage"], "2Gi");
        assert_eq!(body["conditions"].as_array().map(Vec::len), Some(1));
        assert_eq!(finished(&Default::default(), "1")["conditions"], Value::Null);
    }
}

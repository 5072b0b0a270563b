//! The driver itself: folders, bound where the kubelet wants them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use csi::v1::identity_server::Identity;
use csi::v1::node_server::Node;
use csi::v1::node_service_capability::rpc::Type as RpcType;
use csi::v1::node_service_capability::{Rpc, Type};
use csi::v1::volume_capability::AccessType;
use csi::v1::*;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use tonic::{Request, Response, Status};

type Reply<T> = Result<Response<T>, Status>;

/// The driver.
#[derive(Debug, Clone)]
pub struct Driver {
    pub name: String,
    pub data: PathBuf,
    pub node_id: String,
    pub max_volumes: i64,
    pub topology: Option<(String, String)>,
}

fn failed(what: &str, error: impl std::fmt::Display) -> Status {
    Status::internal(format!("{what}: {error}"))
}

impl Driver {
    fn note(&self, call: &str) {
        let file = fs::OpenOptions::new().create(true).append(true).open(self.data.join("calls"));
        let _ = file.and_then(|mut file| writeln!(file, "{call}"));
    }

    /// Where a volume's content lies.
    fn content(&self, id: &str) -> Result<PathBuf, Status> {
        if id.is_empty() || id.contains(['/', '\0']) || id == ".." {
            return Err(Status::invalid_argument("bad volume id"));
        }
        let path = self.data.join("volumes").join(id);
        fs::create_dir_all(&path).map_err(|e| failed("mkdir", e))?;
        Ok(path)
    }

    /// The device of a volume that is one: the first loop device, which nothing reads from.
    fn device(&self, id: &str) -> Result<PathBuf, Status> {
        let path = self.content(id)?.join("device");
        if !path.exists() {
            let mode = Mode::from_bits_truncate(0o660);
            mknod(&path, SFlag::S_IFBLK, mode, makedev(7, 0)).map_err(|e| failed("mknod", e))?;
        }
        Ok(path)
    }
}

fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().any(|line| line.split(' ').nth(4).map(Path::new) == Some(path))
}

fn bind(source: &Path, target: &Path, read_only: bool) -> Result<(), Status> {
    if is_mounted(target) {
        return Ok(());
    }
    if source.is_dir() {
        fs::create_dir_all(target).map_err(|e| failed("mkdir", e))?;
    } else {
        fs::File::create(target).map_err(|e| failed("create", e))?;
    }
    let none: Option<&str> = None;
    mount(Some(source), target, none, MsFlags::MS_BIND, none).map_err(|e| failed("bind", e))?;
    if read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, target, none, flags, none).map_err(|e| failed("remount", e))?;
    }
    Ok(())
}

fn unbind(target: &Path) -> Result<(), Status> {
    while is_mounted(target) {
        umount2(target, MntFlags::empty()).map_err(|e| failed("unmount", e))?;
    }
    let removed = if target.is_dir() { fs::remove_dir(target) } else { fs::remove_file(target) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("remove", error)),
        _ => Ok(()),
    }
}

fn is_block(capability: Option<&VolumeCapability>) -> bool {
    matches!(capability.and_then(|c| c.access_type.as_ref()), Some(AccessType::Block(_)))
}

#[tonic::async_trait]
impl Identity for Driver {
    async fn get_plugin_info(&self, _: Request<GetPluginInfoRequest>) -> Reply<GetPluginInfoResponse> {
        let version = env!("CARGO_PKG_VERSION").to_string();
        Ok(Response::new(GetPluginInfoResponse {
            name: self.name.clone(),
            vendor_version: version,
            ..Default::default()
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Reply<GetPluginCapabilitiesResponse> {
        Ok(Response::new(GetPluginCapabilitiesResponse::default()))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Reply<ProbeResponse> {
        Ok(Response::new(ProbeResponse { ready: Some(true) }))
    }
}

#[tonic::async_trait]
impl Node for Driver {
    async fn node_stage_volume(&self, r: Request<NodeStageVolumeRequest>) -> Reply<NodeStageVolumeResponse> {
        let r = r.into_inner();
        self.note(&format!("stage {}", r.volume_id));
        if !is_block(r.volume_capability.as_ref()) {
            bind(&self.content(&r.volume_id)?, Path::new(&r.staging_target_path), false)?;
        }
        Ok(Response::new(NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        r: Request<NodeUnstageVolumeRequest>,
    ) -> Reply<NodeUnstageVolumeResponse> {
        let r = r.into_inner();
        self.note(&format!("unstage {}", r.volume_id));
        unbind(Path::new(&r.staging_target_path))?;
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        r: Request<NodePublishVolumeRequest>,
    ) -> Reply<NodePublishVolumeResponse> {
        let r = r.into_inner();
        self.note(&format!("publish {}", r.volume_id));
        if let Some(text) = r.volume_context.get("fail-publish") {
            return Err(Status::internal(text));
        }
        let source = if is_block(r.volume_capability.as_ref()) {
            self.device(&r.volume_id)?
        } else if r.staging_target_path.is_empty() {
            // A volume of the pod's own shows what it was given.
            let content = self.content(&r.volume_id)?;
            for (key, value) in &r.volume_context {
                fs::write(content.join(key.replace('/', "_")), value).map_err(|e| failed("write", e))?;
            }
            content
        } else {
            PathBuf::from(&r.staging_target_path)
        };
        bind(&source, Path::new(&r.target_path), r.readonly)?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        r: Request<NodeUnpublishVolumeRequest>,
    ) -> Reply<NodeUnpublishVolumeResponse> {
        let r = r.into_inner();
        self.note(&format!("unpublish {}", r.volume_id));
        unbind(Path::new(&r.target_path))?;
        if r.volume_id.starts_with("csi-") {
            let _ = fs::remove_dir_all(self.content(&r.volume_id)?);
        }
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        r: Request<NodeGetVolumeStatsRequest>,
    ) -> Reply<NodeGetVolumeStatsResponse> {
        let path = r.into_inner().volume_path;
        if !Path::new(&path).exists() {
            return Err(Status::not_found(path));
        }
        let unit = volume_usage::Unit::Bytes as i32;
        let usage = vec![VolumeUsage { available: 900, total: 1000, used: 100, unit }];
        let well = VolumeCondition { abnormal: false, message: "well".into() };
        Ok(Response::new(NodeGetVolumeStatsResponse { usage, volume_condition: Some(well) }))
    }

    async fn node_expand_volume(
        &self,
        r: Request<NodeExpandVolumeRequest>,
    ) -> Reply<NodeExpandVolumeResponse> {
        let r = r.into_inner();
        let bytes = r.capacity_range.unwrap_or_default().required_bytes;
        self.note(&format!("expand {} {bytes}", r.volume_id));
        Ok(Response::new(NodeExpandVolumeResponse { capacity_bytes: bytes }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Reply<NodeGetCapabilitiesResponse> {
        let all = [
            RpcType::StageUnstageVolume,
            RpcType::ExpandVolume,
            RpcType::GetVolumeStats,
            RpcType::VolumeCondition,
            RpcType::SingleNodeMultiWriter,
        ];
        let capability =
            |t: RpcType| NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: t as i32 })) };
        let capabilities = all.into_iter().map(capability).collect();
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Reply<NodeGetInfoResponse> {
        let accessible_topology =
            self.topology.clone().map(|(key, value)| Topology { segments: [(key, value)].into() });
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.node_id.clone(),
            max_volumes_per_node: self.max_volumes,
            accessible_topology,
        }))
    }
}

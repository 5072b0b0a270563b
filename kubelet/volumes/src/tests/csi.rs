//! Volumes of a driver that notes what it is asked, over a real socket.

use ::csi::v1::node_server::{Node, NodeServer};
use ::csi::v1::node_service_capability::{Rpc, Type, rpc::Type as RpcType};
use ::csi::v1::*;
use tonic::{Request, Response, Status};

use super::*;

type Reply<T> = std::result::Result<Response<T>, Status>;

/// A driver that stages, publishes and grows, and keeps no data.
#[derive(Default)]
struct Noting {
    calls: Mutex<Vec<String>>,
    fail_publish: Mutex<Option<Status>>,
    fail_unstage: Mutex<Option<Status>>,
    published: Mutex<Option<NodePublishVolumeRequest>>,
}

#[derive(Clone, Default)]
struct Shared(Arc<Noting>);

impl Shared {
    fn note(&self, call: String) {
        self.0.calls.lock().push(call);
    }
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.calls.lock())
    }
}

fn last(path: &str) -> String {
    Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[tonic::async_trait]
impl Node for Shared {
    async fn node_stage_volume(&self, r: Request<NodeStageVolumeRequest>) -> Reply<NodeStageVolumeResponse> {
        let r = r.into_inner();
        let secret = r.secrets.get("key").cloned().unwrap_or_default();
        self.note(format!(
            "stage {} {} {} {secret}",
            r.volume_id,
            last(&r.staging_target_path),
            r.publish_context["device"]
        ));
        Ok(Response::new(NodeStageVolumeResponse {}))
    }
    async fn node_unstage_volume(
        &self,
        r: Request<NodeUnstageVolumeRequest>,
    ) -> Reply<NodeUnstageVolumeResponse> {
        self.note(format!("unstage {}", r.into_inner().volume_id));
        if let Some(status) = self.0.fail_unstage.lock().take() {
            return Err(status);
        }
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }
    async fn node_publish_volume(
        &self,
        r: Request<NodePublishVolumeRequest>,
    ) -> Reply<NodePublishVolumeResponse> {
        let r = r.into_inner();
        self.note(format!("publish {} {}", r.volume_id, last(&r.target_path)));
        if let Some(status) = self.0.fail_publish.lock().take() {
            return Err(status);
        }
        std::fs::create_dir_all(&r.target_path).unwrap();
        *self.0.published.lock() = Some(r);
        Ok(Response::new(NodePublishVolumeResponse {}))
    }
    async fn node_unpublish_volume(
        &self,
        r: Request<NodeUnpublishVolumeRequest>,
    ) -> Reply<NodeUnpublishVolumeResponse> {
        let r = r.into_inner();
        let _ = std::fs::remove_dir(&r.target_path);
        self.note(format!("unpublish {}", r.volume_id));
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }
    async fn node_get_volume_stats(
        &self,
        _: Request<NodeGetVolumeStatsRequest>,
    ) -> Reply<NodeGetVolumeStatsResponse> {
        let usage = VolumeUsage { available: 1, total: 3, used: 2, unit: volume_usage::Unit::Bytes as i32 };
        let condition = VolumeCondition { abnormal: true, message: "cracked".into() };
        Ok(Response::new(NodeGetVolumeStatsResponse {
            usage: vec![usage],
            volume_condition: Some(condition),
        }))
    }
    async fn node_expand_volume(
        &self,
        r: Request<NodeExpandVolumeRequest>,
    ) -> Reply<NodeExpandVolumeResponse> {
        let bytes = r.into_inner().capacity_range.unwrap_or_default().required_bytes;
        self.note(format!("expand {bytes}"));
        Ok(Response::new(NodeExpandVolumeResponse { capacity_bytes: bytes }))
    }
    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Reply<NodeGetCapabilitiesResponse> {
        let all = [RpcType::StageUnstageVolume, RpcType::ExpandVolume, RpcType::GetVolumeStats];
        let capability =
            |t: RpcType| NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: t as i32 })) };
        Ok(Response::new(NodeGetCapabilitiesResponse {
            capabilities: all.into_iter().map(capability).collect(),
        }))
    }
    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Reply<NodeGetInfoResponse> {
        Ok(Response::new(NodeGetInfoResponse::default()))
    }
}

fn serve(driver: Shared, dir: &Path) -> ::csi::Driver {
    let socket = dir.join("csi.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::UnixListener::from_std(listener).unwrap();
    let incoming = futures::stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    let server = tonic::transport::Server::builder().add_service(NodeServer::new(driver));
    tokio::spawn(server.serve_with_incoming(incoming));
    ::csi::Driver::new(socket)
}

fn objects() -> Arc<Fixed> {
    let fixed = Fixed::default();
    let claim = json!({"metadata": {"name": "c", "namespace": "n", "uid": "cu"},
        "spec": {"volumeName": "pv", "accessModes": ["ReadWriteOnce"]},
        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
    let volume = json!({"metadata": {"name": "pv"}, "spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "claimRef": {"uid": "cu"},
        "csi": {"driver": "d", "volumeHandle": "h", "nodeStageSecretRef": {"namespace": "n", "name": "creds"}}}});
    let driver = json!({"metadata": {"name": "d"}, "spec": {"podInfoOnMount": true, "volumeLifecycleModes": ["Persistent", "Ephemeral"],
        "tokenRequests": [{"audience": "aud"}]}});
    fixed.claims.lock().insert("c".into(), serde_json::from_value(claim).unwrap());
    fixed.volumes.lock().insert("pv".into(), serde_json::from_value(volume).unwrap());
    fixed.drivers.lock().insert("d".into(), serde_json::from_value(driver).unwrap());
    Arc::new(fixed)
}

fn pod(uid: &str, volume: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": uid, "namespace": "n", "uid": uid},
        "spec": {"containers": [{"name": "c", "volumeMounts": [{"name": volume["name"], "mountPath": "/v"}]}],
            "serviceAccountName": "sa", "volumes": [volume]}}))
    .unwrap()
}

async fn up(manager: &Arc<Manager>, pod: &Pod) -> std::result::Result<Mounted, String> {
    let mut state = PodVolumes::default();
    let age = Duration::from_secs(60);
    let done = manager.bring_up(pod, &Facts::default(), &mut state, age, Duration::ZERO).await;
    done.map_err(|NotReady(text)| text)?;
    state.mounted().into_values().next().ok_or_else(|| "nothing mounted".into())
}

#[tokio::test]
async fn a_volume_is_staged_once_and_unstaged_after_its_last_pod_even_by_another_kubelet() {
    let dir = tempfile::tempdir().unwrap();
    let (noting, objects, heard) = (Shared::default(), objects(), Arc::new(Heard::default()));
    let driver = serve(noting.clone(), dir.path());
    let start = || {
        let manager = Manager::new(dir.path().into(), "node".into(), objects.clone(), heard.clone());
        manager.drivers.insert("d", driver.clone());
        manager
    };
    let manager = start();
    let claim = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
    let mounted = up(&manager, &pod("u1", claim.clone())).await.unwrap();
    assert_eq!(mounted.path, dir.path().join("pods/u1/volumes/kubernetes.io~csi/pv/mount"));
    up(&manager, &pod("u2", claim.clone())).await.unwrap();
    assert_eq!(noting.take(), ["stage h globalmount d1 pw", "publish h mount", "publish h mount"]);
    assert_eq!(manager.in_use(&[]), ["kubernetes.io/csi/d^h"]);
    let usage = csi_usage(&manager).await;
    assert_eq!(usage.bytes, Some((1, 3, 2)));
    assert_eq!(usage.abnormal, Some(Some("cracked".into())));
    manager.tear_down("u1").await.unwrap();
    assert_eq!(noting.take(), ["unpublish h"]);
    // Another kubelet takes over and finds the rest on the disk.
    drop(manager);
    let manager = start();
    assert_eq!(manager.in_use(&["kubernetes.io/csi/d^h".into()]).len(), 1);
    manager.tear_down("u2").await.unwrap();
    assert_eq!(noting.take(), ["unpublish h", "unstage h"]);
    assert!(manager.in_use(&["kubernetes.io/csi/d^h".into()]).is_empty());
    assert!(!dir.path().join("pods/u2/volumes/kubernetes.io~csi/pv").exists());
}

#[tokio::test]
async fn a_volume_whose_unstaging_failed_is_staged_again() {
    let dir = tempfile::tempdir().unwrap();
    let noting = Shared::default();
    let manager = Manager::new(dir.path().into(), "node".into(), objects(), Arc::new(Heard::default()));
    manager.drivers.insert("d", serve(noting.clone(), dir.path()));
    let claim = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
    up(&manager, &pod("u1", claim.clone())).await.unwrap();
    *noting.0.fail_unstage.lock() = Some(Status::deadline_exceeded("slow"));
    manager.tear_down("u1").await.unwrap_err();
    assert_eq!(manager.in_use(&[]), ["kubernetes.io/csi/d^h"]);
    noting.take();
    up(&manager, &pod("u2", claim)).await.unwrap();
    assert_eq!(noting.take(), ["stage h globalmount d1 pw", "publish h mount"]);
    manager.tear_down("u2").await.unwrap();
    assert_eq!(noting.take(), ["unpublish h", "unstage h"]);
}

async fn csi_usage(manager: &Manager) -> crate::csi::Usage {
    crate::csi::usage(manager, "u1", "pv").await.unwrap()
}

#[tokio::test]
async fn volumes_of_the_pods_own_get_what_the_driver_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let (noting, heard) = (Shared::default(), Arc::new(Heard::default()));
    let driver = serve(noting.clone(), dir.path());
    let manager = Manager::new(dir.path().into(), "node".into(), objects(), heard.clone());
    let inline = json!({"name": "v", "csi": {"driver": "d", "volumeAttributes": {"own": "1"}}});
    let text = up(&manager, &pod("u", inline.clone())).await.unwrap_err();
    assert_eq!(
        text,
        "unmounted volumes=[v], unattached volumes=[], failed to process volumes=[]: context deadline exceeded"
    );
    assert_eq!(
        heard.0.lock().as_slice(),
        [
            "Warning FailedMount MountVolume.SetUp failed for volume \"v\" : kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: driver name d not found in the list of registered CSI drivers"
        ]
    );
    manager.drivers.insert("d", driver);
    *noting.0.fail_publish.lock() = Some(Status::internal("no"));
    up(&manager, &pod("u", inline.clone())).await.unwrap_err();
    assert!(heard.0.lock()[1].ends_with("for volume \"v\" : rpc error: code = Internal desc = no"));
    assert!(!dir.path().join("pods/u/volumes/kubernetes.io~csi/v").exists());
    up(&manager, &pod("u", inline)).await.unwrap();
    let request = noting.0.published.lock().take().unwrap();
    assert!(request.volume_id.starts_with("csi-") && request.staging_target_path.is_empty());
    let context = |key: &str| request.volume_context.get(key).cloned().unwrap_or_default();
    for (key, expected) in [
        ("own", "1"),
        ("csi.storage.k8s.io/pod.uid", "u"),
        ("csi.storage.k8s.io/serviceAccount.name", "sa"),
        ("csi.storage.k8s.io/ephemeral", "true"),
        (
            "csi.storage.k8s.io/serviceAccount.tokens",
            r#"{"aud":{"expirationTimestamp":"1970-01-01T00:00:00Z","token":"token-aud"}}"#,
        ),
    ] {
        assert_eq!(context(key), expected, "{key}");
    }
    assert!(manager.in_use(&[]).is_empty());
    manager.tear_down("u").await.unwrap();
    teardown::pod_dir(&dir.path().join("pods/u")).unwrap();
}

#[tokio::test]
async fn a_volume_grows_while_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let (noting, objects, heard) = (Shared::default(), objects(), Arc::new(Heard::default()));
    let manager = Manager::new(dir.path().into(), "node".into(), objects.clone(), heard.clone());
    manager.drivers.insert("d", serve(noting.clone(), dir.path()));
    let pod = pod("u", json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}));
    let mut state = PodVolumes::default();
    let age = Duration::from_secs(60);
    manager.bring_up(&pod, &Facts::default(), &mut state, age, Duration::ZERO).await.unwrap();
    noting.take();
    for volume in objects.volumes.lock().values_mut() {
        let mut whole = serde_json::to_value(&*volume).unwrap();
        whole["spec"]["capacity"]["storage"] = json!("2Gi");
        *volume = serde_json::from_value(whole).unwrap();
    }
    manager.bring_up(&pod, &Facts::default(), &mut state, Duration::ZERO, Duration::ZERO).await.unwrap();
    assert_eq!(noting.take(), [format!("expand {}", 2u64 << 30)]);
    let claim = objects.claim("n", "c").await.unwrap();
    let capacity = claim.status.as_ref().and_then(|s| s.capacity.clone()).unwrap();
    assert_eq!(capacity["storage"].0, "2Gi");
    let text =
        "Normal FileSystemResizeSuccessful MountVolume.NodeExpandVolume succeeded for volume \"pv\" node";
    assert_eq!(heard.0.lock().as_slice(), [text.to_string(), format!("claim {text}")]);
}

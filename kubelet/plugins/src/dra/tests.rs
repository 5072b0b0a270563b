use async_trait::async_trait;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use super::*;
use v1::dra_plugin_server::{DraPlugin, DraPluginServer};
use v1::*;

/// A driver that remembers what it was asked.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl DraPlugin for Fake {
    async fn node_prepare_resources(
        &self,
        request: Request<NodePrepareResourcesRequest>,
    ) -> Result<Response<NodePrepareResourcesResponse>, Status> {
        let mut claims = HashMap::new();
        for claim in request.into_inner().claims {
            self.0.lock().push(format!("+{}", claim.name));
            let error = if claim.name == "bad" { "no such thing".to_string() } else { String::new() };
            let device = |request: &str| v1::Device {
                request_names: vec![request.into()],
                pool_name: "pool".into(),
                device_name: request.into(),
                cdi_device_ids: vec![format!("vendor/class={request}")],
                share_id: None,
            };
            let devices = vec![device("a"), device("b/first")];
            claims.insert(claim.uid, NodePrepareResourceResponse { devices, error });
        }
        Ok(Response::new(NodePrepareResourcesResponse { claims }))
    }
    async fn node_unprepare_resources(
        &self,
        request: Request<NodeUnprepareResourcesRequest>,
    ) -> Result<Response<NodeUnprepareResourcesResponse>, Status> {
        let mut claims = HashMap::new();
        for claim in request.into_inner().claims {
            self.0.lock().push(format!("-{}", claim.name));
            claims.insert(claim.uid, NodeUnprepareResourceResponse::default());
        }
        Ok(Response::new(NodeUnprepareResourcesResponse { claims }))
    }
}

fn claim(name: &str) -> super::Claim {
    super::Claim {
        uid: format!("uid-{name}"),
        name: name.into(),
        namespace: "ns".into(),
        drivers: BTreeSet::from(["driver".to_string()]),
    }
}

#[tokio::test]
async fn claims_are_prepared_once_and_taken_back_by_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("driver.sock");
    let fake = Fake::default();
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(DraPluginServer::new(fake.clone()))
            .serve_with_incoming(UnixListenerStream::new(listener)),
    );
    let file = dir.path().join("dra_manager_state");
    let drivers = Drivers::new(file.clone()).unwrap();
    let shared = [claim("shared")];
    assert_eq!(drivers.prepare("one", &shared).await.unwrap_err(), "DRA driver driver is not registered");
    let mut plugin = PluginInfo {
        kind: "DRAPlugin".into(),
        name: "driver".into(),
        endpoint: socket.clone(),
        socket,
        ..PluginInfo::default()
    };
    assert!(drivers.add(&plugin).await.is_err());
    plugin.versions = vec!["v1.DRAPlugin".into()];
    drivers.add(&plugin).await.unwrap();
    drivers.prepare("one", &shared).await.unwrap();
    drivers.prepare("two", &shared).await.unwrap();
    assert_eq!(*fake.0.lock(), ["+shared"]);
    let ids = |request: &str| drivers.cdi_devices("ns", "shared", request).unwrap().join(",");
    assert_eq!(ids(""), "vendor/class=a,vendor/class=b/first");
    assert_eq!((ids("a").as_str(), ids("b").as_str()), ("vendor/class=a", "vendor/class=b/first"));
    let error = drivers.prepare("one", &[claim("bad")]).await.unwrap_err();
    assert_eq!(error, "NodePrepareResources failed for ResourceClaim bad: no such thing");
    drivers.unprepare("one").await.unwrap();
    // Another kubelet goes on where this one ended.
    let drivers = Drivers::new(file).unwrap();
    assert_eq!(drivers.pods(), BTreeSet::from(["two".to_string()]));
    drivers.add(&plugin).await.unwrap();
    drivers.unprepare("two").await.unwrap();
    assert_eq!(*fake.0.lock(), ["+shared", "+bad", "-bad", "-shared"]);
    assert!(drivers.pods().is_empty() && drivers.remove(&plugin) && !drivers.has("driver"));
}

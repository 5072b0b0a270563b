use std::pin::Pin;

use async_trait::async_trait;
use futures::Stream;
use kubelet_resources::{ContainerRequest, Machine, PodRequest, Refusal, topology};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{UnboundedReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status};

use super::*;
use crate::device_api::device_plugin_server::{DevicePlugin, DevicePluginServer};
use crate::device_api::registration_client::RegistrationClient;
use crate::device_api::*;

type List = Result<ListAndWatchResponse, Status>;

/// A plugin with the devices it is told of; it prefers the last of them.
struct Plugin {
    lists: Mutex<Option<mpsc::UnboundedReceiver<List>>>,
    started: mpsc::UnboundedSender<Vec<String>>,
    mute: bool,
}

#[async_trait]
impl DevicePlugin for Plugin {
    type ListAndWatchStream = Pin<Box<dyn Stream<Item = List> + Send>>;

    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        if self.mute {
            return Err(Status::unknown("no options today"));
        }
        let options =
            DevicePluginOptions { pre_start_required: true, get_preferred_allocation_available: true };
        Ok(Response::new(options))
    }
    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let lists = self.lists.lock().take().ok_or(Status::internal("again"))?;
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(lists))))
    }
    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        let ask = request.into_inner().container_requests.remove(0);
        let size = usize::try_from(ask.allocation_size).unwrap_or(0);
        let device_i_ds = ask.available_device_i_ds.into_iter().rev().take(size).collect();
        let container_responses = vec![ContainerPreferredAllocationResponse { device_i_ds }];
        Ok(Response::new(PreferredAllocationResponse { container_responses }))
    }
    async fn allocate(
        &self,
        request: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        let ids = request.into_inner().container_requests.remove(0).devices_ids;
        if ids.iter().any(|id| id == "poison") {
            return Err(Status::internal("broken"));
        }
        let envs = [("IDS".to_string(), ids.join(","))].into();
        let container_responses = vec![ContainerAllocateResponse { envs, ..Default::default() }];
        Ok(Response::new(AllocateResponse { container_responses }))
    }
    async fn pre_start_container(
        &self,
        request: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        let _ = self.started.send(request.into_inner().devices_ids);
        Ok(Response::new(PreStartContainerResponse {}))
    }
}

fn list(devices: &[(&str, &str)]) -> List {
    let device = |(id, health): &(&str, &str)| crate::device_api::Device {
        id: id.to_string(),
        health: health.to_string(),
        topology: None,
    };
    Ok(ListAndWatchResponse { devices: devices.iter().map(device).collect() })
}

struct Bed {
    dir: tempfile::TempDir,
    manager: Arc<DeviceManager>,
    changed: Arc<Notify>,
    shutdown: CancellationToken,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (changed, shutdown) = (Arc::new(Notify::new()), CancellationToken::new());
        let manager = DeviceManager::new(dir.path(), vec![0], changed.clone(), shutdown.clone()).unwrap();
        tokio::spawn(manager.clone().run());
        Self { dir, manager, changed, shutdown }
    }

    async fn register(&self, version: &str, resource: &str) -> Result<(), Status> {
        let socket = self.dir.path().join("kubelet.sock");
        let connected = async {
            loop {
                match crate::connect(&socket).await {
                    Ok(channel) => return channel,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let channel = tokio::time::timeout(Duration::from_secs(20), connected);
        let channel = channel.await.expect("the kubelet's socket does not answer");
        let request = RegisterRequest {
            version: version.into(),
            endpoint: "p.sock".into(),
            resource_name: resource.into(),
            options: None,
        };
        RegistrationClient::new(channel).register(request).await.map(drop)
    }

    /// Waits until so many devices are there and so many of them usable.
    async fn until(&self, all: usize, usable: usize) {
        let wait = async {
            while self.manager.capacity().0.get("a.b/c") != Some(&(all, usable)) {
                tokio::select! {
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep(Duration::from_millis(20)) => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("in time");
    }

    async fn admit(&self, uid: &str, count: u64) -> Result<(), Refusal> {
        let container = ContainerRequest {
            name: "c".into(),
            others: [("a.b/c".into(), count)].into(),
            ..Default::default()
        };
        let pod = PodRequest { uid: uid.into(), containers: vec![container], ..Default::default() };
        let machine = Machine::read(0);
        let topology = topology::Manager::new(&machine, "none", "container", &BTreeMap::new()).unwrap();
        let mut devices = Allocator { manager: self.manager.clone(), running: Vec::new() };
        topology.admit(&pod, &mut [&mut devices]).await
    }
}

#[tokio::test]
async fn devices_come_are_given_fall_ill_and_go() {
    let bed = Bed::new();
    let (tell, lists) = mpsc::unbounded_channel();
    let (started, mut starts) = mpsc::unbounded_channel();
    assert!(bed.register("v1", "a.b/c").await.unwrap_err().message().contains("is not supported by kubelet"));
    assert!(
        bed.register("v1beta1", "cpu")
            .await
            .unwrap_err()
            .message()
            .contains("ResourceName \"cpu\" is invalid")
    );
    let listener = UnixListener::bind(bed.dir.path().join("p.sock")).unwrap();
    let plugin = Plugin { lists: Mutex::new(Some(lists)), started, mute: false };
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(DevicePluginServer::new(plugin))
            .serve_with_incoming(UnixListenerStream::new(listener)),
    );
    bed.register("v1beta1", "a.b/c").await.unwrap();
    tell.send(list(&[("d1", "Healthy"), ("d2", "Healthy"), ("d3", "Healthy"), ("d4", "Unhealthy")])).unwrap();
    bed.until(4, 3).await;
    bed.admit("one", 1).await.unwrap();
    let ids = |uid: &str| bed.manager.of_container(uid, "c").remove("a.b/c").map(|g| g.all());
    assert_eq!(ids("one"), Some(["d3".to_string()].into()));
    let todo = bed.manager.before_start("one", "c").await.unwrap();
    assert_eq!(todo[0].envs["IDS"], "d3");
    assert_eq!(starts.recv().await.unwrap(), ["d3"]);
    let refusal = bed.admit("two", 3).await.unwrap_err();
    assert_eq!(
        (refusal.reason, refusal.message.as_str()),
        (
            "UnexpectedAdmissionError",
            "Allocate failed due to requested number of devices unavailable for a.b/c. Requested: 3, Available: 2, which is unexpected"
        )
    );
    // Another kubelet remembers.
    let kept = state::read(&bed.dir.path().join(state::FILE)).unwrap().0;
    assert_eq!(kept.given["one"]["c"]["a.b/c"].response.envs["IDS"], "d3");
    tell.send(list(&[("d1", "Healthy"), ("d3", "Unhealthy"), ("poison", "Healthy")])).unwrap();
    bed.until(3, 2).await;
    assert_eq!(bed.manager.health("one", "c")["a.b/c"], [("d3".to_string(), false)]);
    let refusal = bed.admit("two", 1).await.unwrap_err();
    assert!(refusal.message.contains("desc = broken"), "{refusal}");
    assert_eq!(ids("two"), None);
    bed.manager.release("one");
    drop(tell);
    bed.until(3, 0).await;
    bed.shutdown.cancel();
}

#[tokio::test]
async fn a_plugin_that_cannot_tell_its_options_is_refused() {
    let bed = Bed::new();
    let (tell, lists) = mpsc::unbounded_channel();
    tell.send(list(&[("d1", "Healthy")])).unwrap();
    // Once the kubelet answers it has emptied its folder of old sockets.
    bed.register("v1", "a.b/c").await.unwrap_err();
    let listener = UnixListener::bind(bed.dir.path().join("p.sock")).unwrap();
    let plugin = Plugin { lists: Mutex::new(Some(lists)), started: mpsc::unbounded_channel().0, mute: true };
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(DevicePluginServer::new(plugin))
            .serve_with_incoming_shutdown(
                UnixListenerStream::new(listener),
                bed.shutdown.clone().cancelled_owned(),
            ),
    );
    let refused = bed.register("v1beta1", "a.b/c").await.unwrap_err();
    assert_eq!(refused.message(), "failed to get device plugin options: no options today");
    assert_eq!(bed.manager.capacity().0.get("a.b/c"), None);
    bed.shutdown.cancel();
}

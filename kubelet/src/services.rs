//! The services of the cluster, as far as environment variables need them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::api::Api;
use kube::runtime::watcher;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::env::{self, ServiceInfo, ServicePort};

/// How long a starting pod waits for the first list of services.
const PATIENCE: Duration = Duration::from_secs(5);

/// All services, reduced to a few fields.
pub struct Services {
    known: RwLock<HashMap<(String, String), ServiceInfo>>,
    synced: watch::Sender<bool>,
}

impl Services {
    /// Knows none; `synced` where none will ever come.
    pub fn new(synced: bool) -> Self {
        Self { known: RwLock::default(), synced: watch::channel(synced).0 }
    }

    /// The variables for a pod. Waits a little for the first list, except for static pods.
    pub async fn variables(
        &self,
        namespace: &str,
        links: bool,
        no_wait: bool,
    ) -> Result<BTreeMap<String, String>, String> {
        if !no_wait {
            let mut synced = self.synced.subscribe();
            if tokio::time::timeout(PATIENCE, synced.wait_for(|synced| *synced)).await.is_err() {
                return Err("services have not yet been read at least once, cannot construct envvars".into());
            }
        }
        let known = self.known.read();
        let near = known.values().filter(|s| s.namespace == namespace || s.namespace == "default");
        let near: Vec<ServiceInfo> = near.cloned().collect();
        Ok(env::service_variables(&near, namespace, links))
    }

    /// Follows the services until the shutdown.
    pub async fn run(&self, client: kube::Client, shutdown: CancellationToken) {
        let api: Api<Service> = Api::all(client);
        // Headless services have no variables.
        let config = watcher::Config::default().fields("spec.clusterIP!=None");
        let mut events = std::pin::pin!(watcher(api, config));
        let mut listing = HashMap::new();
        let mut delay = Duration::from_millis(200);
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                Some(Ok(watcher::Event::Init)) => listing = HashMap::new(),
                Some(Ok(watcher::Event::InitApply(service))) => {
                    listing.extend(reduce(service));
                }
                Some(Ok(watcher::Event::InitDone)) => {
                    *self.known.write() = std::mem::take(&mut listing);
                    self.synced.send_replace(true);
                    delay = Duration::from_millis(200);
                }
                Some(Ok(watcher::Event::Apply(service))) => {
                    let key = key(&service);
                    let mut known = self.known.write();
                    match reduce(service) {
                        Some((key, info)) => drop(known.insert(key, info)),
                        None => drop(known.remove(&key)),
                    }
                }
                Some(Ok(watcher::Event::Delete(service))) => drop(self.known.write().remove(&key(&service))),
                Some(Err(error)) => {
                    tracing::debug!(%error, "Watching services failed");
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(Duration::from_secs(30));
                }
                None => return,
            }
        }
    }
}

fn key(service: &Service) -> (String, String) {
    let meta = &service.metadata;
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn reduce(service: Service) -> Option<((String, String), ServiceInfo)> {
    let key = key(&service);
    let spec = service.spec?;
    let cluster_ip = spec.cluster_ip.filter(|ip| !ip.is_empty() && ip != "None")?;
    let ports = spec.ports.unwrap_or_default().into_iter().map(|p| ServicePort {
        name: p.name.unwrap_or_default(),
        protocol: p.protocol.unwrap_or_default(),
        port: p.port,
    });
    let info =
        ServiceInfo { namespace: key.0.clone(), name: key.1.clone(), cluster_ip, ports: ports.collect() };
    Some((key, info))
}

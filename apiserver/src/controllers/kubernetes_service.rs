//! The Service `default/kubernetes`: how everything inside the cluster finds the apiservers.
//!
//! Every apiserver keeps a lease below `masterleases/` in etcd that ends by itself when it does not renew it; the
//! Service's endpoints are the addresses of all leases. Servers of upstream and ours share them.

use super::bootstrap::ensure;
use crate::options::Options;
use api::registry::Registry;
use api::status::{Result, Status};
use api::{GroupVersionKind, Value, json};
use bytes::Bytes;
use endpoints::server::Server;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use storage::{Attributes, Resource, Spec};

const LEASE: Duration = Duration::from_secs(15);
const RENEWAL: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);
const ENDPOINTS: (&str, &str) = ("", "endpoints");
const SLICES: (&str, &str) = ("discovery.k8s.io", "endpointslices");

/// Keeps the Service and its endpoints right until the server stops; then takes this server out of them.
pub async fn run(server: &Arc<Server>, options: &Options) {
    let prefix = format!("{}/masterleases/", options.flags.str("etcd-prefix").trim_end_matches('/'));
    let leases = server.store.resource(Spec::new(prefix, Arc::new(|_, _| Attributes::default())));
    let keeper = Keeper { server, options, leases };
    server.store.wait_ready().await;
    keeper.leases.wait_ready().await;
    loop {
        let pause = match keeper.sync().await {
            Ok(()) => RENEWAL,
            Err(error) => {
                tracing::warn!(%error, "the kubernetes Service cannot be kept up to date, trying again");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = server.stopping.cancelled() => break,
        }
    }
    if let Err(error) = keeper.leave().await {
        tracing::warn!(%error, "this server stays among the endpoints of the kubernetes Service until its lease ends");
    }
}

struct Keeper<'a> {
    server: &'a Server,
    options: &'a Options,
    leases: Arc<Resource>,
}

impl Keeper<'_> {
    fn registry(&self) -> &dyn Registry {
        &*self.server.registry
    }

    async fn sync(&self) -> Result<()> {
        self.service().await?;
        if self.options.advertise.is_loopback()
            || self.options.flags.str("endpoint-reconciler-type") == "none"
        {
            return Ok(());
        }
        self.renew().await?;
        self.publish().await
    }

    async fn leave(&self) -> Result<()> {
        if let Some(own) = self.leases.snapshot().get(&self.key()) {
            self.leases.delete(&own.key, own.revision).await.map_err(unavailable)?;
            self.publish().await?;
        }
        Ok(())
    }

    fn key(&self) -> String {
        format!("{}{}", self.leases.prefix(), self.options.advertise)
    }

    async fn renew(&self) -> Result<()> {
        let lease = lease(self.options.advertise)?;
        let key = self.key();
        let known = self.leases.get_live(&key).await.map_err(unavailable)?;
        let written = match known {
            Some(old) => self.leases.update(&key, old.revision, lease, Some(LEASE)).await,
            None => self.leases.create(&key, lease, Some(LEASE)).await,
        };
        written.map(drop).map_err(unavailable)
    }

    /// The addresses of all servers that live.
    fn addresses(&self) -> BTreeSet<String> {
        let prefix = self.leases.prefix();
        let snapshot = self.leases.snapshot();
        snapshot.list(prefix).filter_map(|o| Some(o.key.strip_prefix(prefix)?.to_owned())).collect()
    }

    async fn service(&self) -> Result<()> {
        let Some(ip) = self.options.kubernetes_service_ip() else { return Ok(()) };
        let service = service(ip, self.options.port);
        ensure(self.registry(), ("networking.k8s.io", "ipaddresses"), "", address(ip)).await?;
        ensure(self.registry(), ("", "services"), "default", service).await
    }

    async fn publish(&self) -> Result<()> {
        let addresses = self.addresses();
        put(self.registry(), ENDPOINTS, endpoints(&addresses, self.options.port)).await?;
        put(self.registry(), SLICES, slice(&addresses, self.options)).await
    }
}

fn unavailable(error: storage::Error) -> Status {
    Status::unavailable(error.to_string())
}

/// Creates the object, or brings everything but its metadata up to date.
async fn put(registry: &dyn Registry, gr: (&str, &str), wanted: Value) -> Result<()> {
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
    let Some(old) = registry.get(gr, "default", name) else {
        return ensure(registry, gr, "default", wanted).await;
    };
    let mut new = (*old).clone();
    let content = wanted.as_object().into_iter().flatten().filter(|(key, _)| *key != "metadata");
    let mut changed = false;
    for (key, value) in content {
        if new[key] != *value {
            new[key] = value.clone();
            changed = true;
        }
    }
    if !changed {
        return Ok(());
    }
    match registry.update(gr, "", new).await {
        // Another server was faster; the next round looks again.
        Err(e) if e.reason == "Conflict" => Ok(()),
        other => other.map(drop),
    }
}

/// A lease as upstream stores it: an Endpoints object with the one address.
fn lease(ip: IpAddr) -> Result<Bytes> {
    let gvk = GroupVersionKind::new("", "v1", "Endpoints");
    let message = api::schema::for_kind(&gvk).ok_or_else(|| Status::internal("Endpoints are unknown"))?;
    let object = json!({"metadata": {}, "subsets": [{"addresses": [{"ip": ip.to_string()}]}]});
    let raw = api::protobuf::encode(message, &object).map_err(Status::internal)?;
    Ok(api::protobuf::envelope(&gvk, &raw).into())
}

fn labels() -> Value {
    json!({"component": "apiserver", "provider": "kubernetes"})
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn service(ip: IpAddr, port: u16) -> Value {
    json!({
        "metadata": {"name": "kubernetes", "labels": labels()},
        "spec": {
            "type": "ClusterIP", "clusterIP": ip.to_string(), "clusterIPs": [ip.to_string()],
            "ipFamilies": [family(ip)], "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
        },
    })
}

/// Marks the Service's address as taken, so that no other Service gets it.
fn address(ip: IpAddr) -> Value {
    json!({
        "metadata": {"name": ip.to_string(), "labels": {
            "ipaddress.kubernetes.io/ip-family": family(ip),
            "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
        }},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "kubernetes"}},
    })
}

fn endpoints(addresses: &BTreeSet<String>, port: u16) -> Value {
    let list: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    let mut labels = labels();
    labels["endpointslice.kubernetes.io/skip-mirror"] = "true".into();
    json!({
        "metadata": {"name": "kubernetes", "labels": labels},
        "subsets": [{"addresses": list, "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
    })
}

fn slice(addresses: &BTreeSet<String>, options: &Options) -> Value {
    let list: Vec<Value> =
        addresses.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
    json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family(options.advertise),
        "endpoints": list,
        "ports": [{"name": "https", "port": options.port, "protocol": "TCP"}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_an_endpoints_object_with_one_address() {
        let bytes = lease(IpAddr::from([192, 0, 2, 10])).expect("a lease");
        let unwrapped = api::protobuf::unenvelope(&bytes).expect("an envelope");
        assert_eq!(unwrapped.gvk().kind, "Endpoints");
        let message = api::schema::for_kind(&unwrapped.gvk()).expect("known");
        let object = api::protobuf::to_value(message, None, unwrapped.raw).expect("an object");
        assert_eq!(object["subsets"][0]["addresses"][0]["ip"], "192.0.2.10");
    }

    #[test]
    fn all_servers_are_endpoints() {
        let addresses = ["192.0.2.1", "192.0.2.2"].map(str::to_owned).into();
        assert_eq!(endpoints(&addresses, 6443)["subsets"][0]["addresses"].as_array().map(Vec::len), Some(2));
    }
}

//! From a Service to the address of a server.

use crate::service::Place;
use api::Value;
use api::registry::Reader;

fn host_port(host: &str, port: u64) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn items(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}

/// The port of that number.
pub fn port(service: &Value, number: u16) -> Option<&Value> {
    items(&service["spec"]["ports"]).find(|p| p["port"].as_u64() == Some(u64::from(number)))
}

/// Slices of a Service.
pub fn slices(reader: &dyn Reader, place: &Place) -> Vec<std::sync::Arc<Value>> {
    let mut all = reader.list(("discovery.k8s.io", "endpointslices"), Some(&place.namespace));
    all.retain(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == place.name.as_str());
    all
}

/// `host:port`: the cluster address, or with `routing` one of the ready endpoints.
pub fn address(reader: &dyn Reader, place: &Place, routing: bool) -> Result<String, String> {
    let name = &place.name;
    let service = reader
        .get(("", "services"), &place.namespace, name)
        .ok_or_else(|| format!("services {name:?} not found"))?;
    let kind = service["spec"]["type"].as_str().unwrap_or("ClusterIP");
    if kind == "ExternalName" && !routing {
        let host = service["spec"]["externalName"].as_str().unwrap_or_default();
        return Ok(host_port(host, u64::from(place.port)));
    }
    if !matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer") {
        return Err(format!("unsupported service type {kind:?}"));
    }
    let found = port(&service, place.port)
        .ok_or_else(|| format!("no service port {} found for service {name:?}", place.port))?;
    let nobody = || format!("no endpoints available for service {name:?}");
    if !routing {
        return match service["spec"]["clusterIP"].as_str().unwrap_or_default() {
            "" | "None" => Err(nobody()),
            ip => Ok(host_port(ip, u64::from(place.port))),
        };
    }
    let mut ready = Vec::new();
    for slice in slices(reader, place) {
        let named = items(&slice["ports"]).find(|p| p["name"].as_str() == Some(text(&found["name"])));
        let Some(port) = named.and_then(|p| p["port"].as_u64()) else { continue };
        for e in items(&slice["endpoints"]).filter(|e| e["conditions"]["ready"] != false) {
            if let Some(ip) = e["addresses"][0].as_str() {
                ready.push(host_port(ip, port));
            }
        }
    }
    if ready.is_empty() {
        return Err(nobody());
    }
    let pick = rand::RngExt::random_range(&mut rand::rng(), 0..ready.len());
    Ok(ready.swap_remove(pick))
}

pub(crate) fn text(v: &Value) -> &str {
    v.as_str().unwrap_or_default()
}

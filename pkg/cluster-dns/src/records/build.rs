//! A Service and its EndpointSlices to records.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointPort, EndpointSlice};

use super::{Endpoint, Port, ServiceRecords, Target};

/// The label that names a slice's Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The Service (namespace and name) that a slice belongs to.
pub fn group(slice: &EndpointSlice) -> Option<(&str, &str)> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?.as_str();
    Some((slice.metadata.namespace.as_deref()?, service)).filter(|(_, s)| !s.is_empty())
}

/// What a Service answers with.
pub fn of_service(service: &Service, slices: &[Arc<EndpointSlice>]) -> Option<ServiceRecords> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        let name = spec.external_name.clone().filter(|n| !n.is_empty())?;
        return Some(ServiceRecords { target: Target::External(name), endpoints: BTreeMap::new() });
    }
    let listed = spec.cluster_ips.iter().flatten();
    let mut ips: Vec<IpAddr> = listed.filter_map(|ip| ip.parse().ok()).collect();
    if ips.is_empty() {
        ips.extend(spec.cluster_ip.as_ref().and_then(|ip| ip.parse::<IpAddr>().ok()));
    }
    let headless = ips.is_empty();
    // A Service that waits for its address has no record yet; only "None" says that there will be none.
    if headless && spec.cluster_ip.as_deref() != Some("None") {
        return None;
    }
    let all = spec.publish_not_ready_addresses.unwrap_or_default();
    let mut endpoints = BTreeMap::new();
    slices.iter().for_each(|slice| add_slice(&mut endpoints, slice, all));
    let target = match headless {
        true => Target::Headless,
        false => {
            Target::Addresses { ips, ports: spec.ports.iter().flatten().filter_map(service_port).collect() }
        }
    };
    Some(ServiceRecords { target, endpoints })
}

fn add_slice(endpoints: &mut BTreeMap<String, Vec<Endpoint>>, slice: &EndpointSlice, all: bool) {
    let ports: Arc<[Port]> = slice.ports.iter().flatten().filter_map(endpoint_port).collect();
    for endpoint in slice.endpoints.iter().flatten().filter(|e| all || is_ready(e)) {
        for address in &endpoint.addresses {
            // Slices of names instead of addresses have nothing for us.
            let Ok(ip) = address.parse::<IpAddr>() else { continue };
            let host = endpoint.hostname.clone().filter(|h| !h.is_empty());
            let host = host.map_or_else(|| host_of(ip), |h| h.to_ascii_lowercase());
            let same_host: &mut Vec<Endpoint> = endpoints.entry(host).or_default();
            // While a slice is replaced by another, an endpoint may be in both.
            let new = Endpoint { ip, ports: ports.clone() };
            if !same_host.contains(&new) {
                same_host.push(new);
                same_host.sort_by_key(|e| e.ip);
            }
        }
    }
}

/// The name that an endpoint without a host name is given: its address, in a form that a label may have.
fn host_of(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

/// An unknown state counts as ready.
fn is_ready(endpoint: &SliceEndpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)
}

fn service_port(port: &ServicePort) -> Option<Port> {
    new_port(port.name.as_deref(), port.protocol.as_deref(), port.port)
}

fn endpoint_port(port: &EndpointPort) -> Option<Port> {
    new_port(port.name.as_deref(), port.protocol.as_deref(), port.port?)
}

fn new_port(name: Option<&str>, protocol: Option<&str>, number: i32) -> Option<Port> {
    let protocol = match protocol.unwrap_or("TCP") {
        "TCP" => "tcp",
        "UDP" => "udp",
        "SCTP" => "sctp",
        _ => return None,
    };
    let name = name.unwrap_or_default().to_ascii_lowercase();
    Some(Port { name, protocol, number: u16::try_from(number).ok()? })
}

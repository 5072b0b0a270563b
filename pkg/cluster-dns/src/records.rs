//! What the cluster's objects mean for DNS: plain data that queries read, and that changes object by object.
//!
//! Nothing here knows of messages, sockets or the API server.

mod build;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

pub use build::{group, of_service};

/// Everything the cluster's zone holds.
#[derive(Debug, Default)]
pub struct Records {
    namespaces: HashSet<String>,
    services: HashMap<String, BTreeMap<String, ServiceRecords>>,
    /// Which names an address has, by the service that gives it: namespace, service, and the endpoint's host if it is
    /// not the service's own address.
    reverse: HashMap<IpAddr, Vec<Reverse>>,
    /// When the zone changed last, in seconds since 1970: the zone's serial number.
    pub serial: u32,
}

/// One name of an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reverse {
    pub host: Option<String>,
    pub service: String,
    pub namespace: String,
}

/// What one Service answers with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRecords {
    pub target: Target,
    /// Ready endpoints by host name; a host may have several addresses, and differ in ports.
    pub endpoints: BTreeMap<String, Vec<Endpoint>>,
}

/// What the Service's own name leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    Addresses {
        ips: Vec<IpAddr>,
        ports: Vec<Port>,
    },
    #[default]
    Headless,
    External(String),
}

/// A ready endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub ip: IpAddr,
    pub ports: std::sync::Arc<[Port]>,
}

/// A port; names and protocols are in lower case, as queries are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    pub protocol: &'static str,
    pub number: u16,
}

impl Records {
    /// Notes that a namespace exists.
    pub fn add_namespace(&mut self, name: &str) {
        self.namespaces.insert(name.to_owned());
    }

    /// Forgets a namespace.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// Whether a namespace exists; one that has a Service does, even if its own object has not been seen yet.
    pub fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name) || self.services.contains_key(name)
    }

    /// The records of a Service.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&ServiceRecords> {
        self.services.get(namespace)?.get(name)
    }

    /// The names of an address, those of Services before those of endpoints.
    pub fn names_of(&self, ip: &IpAddr) -> &[Reverse] {
        self.reverse.get(ip).map_or(&[], Vec::as_slice)
    }

    /// How many Services there are.
    pub fn count(&self) -> usize {
        self.services.values().map(BTreeMap::len).sum()
    }

    /// Replaces a Service's records, or removes them; tells whether anything changed.
    pub fn set(&mut self, namespace: &str, name: &str, new: Option<ServiceRecords>) -> bool {
        if self.service(namespace, name) == new.as_ref() {
            return false;
        }
        if let Some(old) = self.take(namespace, name) {
            self.forget_addresses(namespace, name, &old);
        }
        if let Some(new) = new {
            self.learn_addresses(namespace, name, &new);
            self.services.entry(namespace.to_owned()).or_default().insert(name.to_owned(), new);
        }
        true
    }

    fn take(&mut self, namespace: &str, name: &str) -> Option<ServiceRecords> {
        let of_namespace = self.services.get_mut(namespace)?;
        let old = of_namespace.remove(name);
        if of_namespace.is_empty() {
            self.services.remove(namespace);
        }
        old
    }

    fn learn_addresses(&mut self, namespace: &str, service: &str, records: &ServiceRecords) {
        for (ip, host) in records.addresses() {
            let names = self.reverse.entry(ip).or_default();
            let name = Reverse {
                host: host.map(str::to_owned),
                service: service.to_owned(),
                namespace: namespace.to_owned(),
            };
            // `None` sorts first, so that a Service's own name comes before those of endpoints.
            if let Err(at) = names.binary_search(&name) {
                names.insert(at, name);
            }
        }
    }

    fn forget_addresses(&mut self, namespace: &str, service: &str, records: &ServiceRecords) {
        for (ip, _) in records.addresses() {
            let Some(names) = self.reverse.get_mut(&ip) else { continue };
            names.retain(|n| n.service != service || n.namespace != namespace);
            if names.is_empty() {
                self.reverse.remove(&ip);
            }
        }
    }
}

impl ServiceRecords {
    /// Every address with the host it belongs to; the Service's own have none.
    fn addresses(&self) -> impl Iterator<Item = (IpAddr, Option<&str>)> {
        let own = match &self.target {
            Target::Addresses { ips, .. } => ips.as_slice(),
            _ => &[],
        };
        let endpoints = self.endpoints.iter().flat_map(|(h, e)| e.iter().map(|e| (e.ip, Some(h.as_str()))));
        own.iter().map(|ip| (*ip, None)).chain(endpoints)
    }
}

#[cfg(test)]
pub(crate) mod tests;

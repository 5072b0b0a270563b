//! Aggregated APIs (APIService): groups and versions that another server answers for.
//!
//! - [`service`]: one such server: where it is, and the TLS that leads there
//! - [`client`]: requests in the name of a user, shown by the front proxy's certificate
//! - [`resolve`]: from a Service to an address
//! - [`check`]: whether it can be asked
//! - [`discovery`], [`schemas`]: what it says of its resources
//! - [`local`]: the APIServices of what this server has itself
//!
//! Nothing here serves or writes: the server passes requests on, its controllers keep the [`State`] up to date.

pub mod check;
pub mod client;
pub mod discovery;
pub mod local;
pub mod resolve;
pub mod schemas;
pub mod service;

use api::resources::GroupVersion;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use service::Service;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Group and resource of what all this is read from.
pub const API_SERVICES: (&str, &str) = ("apiregistration.k8s.io", "apiservices");

/// What a server said of its part of the API when it was last asked.
#[derive(Debug, Default)]
pub struct Found {
    /// The version's entry in aggregated discovery.
    pub discovery: api::Value,
    /// Paths and definitions of its OpenAPI v2 document.
    pub v2: Option<Arc<api::Value>>,
    /// The paths that it has OpenAPI v3 documents for, and their addresses.
    pub v3: BTreeMap<String, String>,
}

/// All that is known at one moment. Two moments are the same if their pointers are.
#[derive(Debug, Default)]
pub struct State {
    pub services: Vec<Arc<Service>>,
    /// By the name of the APIService.
    pub found: BTreeMap<String, Arc<Found>>,
}

impl State {
    /// The server that answers for a path, if it is not this one.
    pub fn of_path(&self, path: &str) -> Option<&Arc<Service>> {
        if self.services.is_empty() {
            return None;
        }
        let mut parts = path.trim_start_matches('/').split('/');
        let (group, version) = match parts.next()? {
            "api" => ("", parts.next()?),
            "apis" => (parts.next()?, parts.next()?),
            _ => return None,
        };
        self.services.iter().find(|s| s.group == group && s.version == version)
    }

    /// The server that has the OpenAPI v3 document of a path such as `apis/group/v1`.
    pub fn of_document(&self, path: &str) -> Option<&Arc<Service>> {
        self.services.iter().find(|s| self.found.get(&s.name).is_some_and(|f| f.v3.contains_key(path)))
    }

    /// The places of the versions in discovery.
    pub fn group_versions(&self) -> Vec<GroupVersion> {
        self.services.iter().map(|s| s.group_version()).collect()
    }

    /// A version's entry in aggregated discovery; one that has not been read yet is empty and stale.
    pub fn discovery(&self, group: &str, version: &str) -> Option<api::Value> {
        let service = self.services.iter().find(|s| s.group == group && s.version == version)?;
        let found = self.found.get(&service.name).map(|f| f.discovery.clone());
        Some(found.unwrap_or_else(|| discovery::stale(None, version)))
    }

    /// What is to be merged into the documents of this server.
    pub fn documents(&self) -> openapi::Foreign {
        let mut out = openapi::Foreign::default();
        for found in self.found.values() {
            out.v2.extend(found.v2.clone());
            out.v3.extend(found.v3.clone());
        }
        out
    }
}

/// The [`State`] of a running server.
#[derive(Debug, Default)]
pub struct Aggregation {
    state: ArcSwap<State>,
    changing: Mutex<()>,
}

impl Aggregation {
    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// The server that answers for a path, if it is not this one.
    pub fn of_path(&self, path: &str) -> Option<Arc<Service>> {
        self.state.load().of_path(path).cloned()
    }

    /// Other services than before; what the ones that are gone said is forgotten.
    pub fn set_services(&self, services: Vec<Arc<Service>>) {
        let _changing = self.changing.lock();
        let old = self.state.load();
        let mut found = old.found.clone();
        found.retain(|name, _| services.iter().any(|s| s.name == *name));
        self.state.store(Arc::new(State { services, found }));
    }

    /// What a server has said; `None` if nothing of it is new.
    pub fn set_found(&self, name: &str, new: Found) {
        let _changing = self.changing.lock();
        let old = self.state.load();
        let same = old.found.get(name).is_some_and(|f| {
            f.discovery == new.discovery && f.v3 == new.v3 && f.v2.as_deref() == new.v2.as_deref()
        });
        if same || !old.services.iter().any(|s| s.name == name) {
            return;
        }
        let mut found = old.found.clone();
        found.insert(name.to_owned(), Arc::new(new));
        self.state.store(Arc::new(State { services: old.services.clone(), found }));
    }
}

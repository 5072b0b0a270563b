//! One server behind an APIService, and the TLS that leads to it.

use crate::client::{Client, Identity};
use api::Value;
use api::resources::GroupVersion;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::sync::Arc;

/// A Service and its port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub namespace: String,
    pub name: String,
    pub port: u16,
}

/// What an APIService with a `service` says.
#[derive(Debug)]
pub struct Service {
    /// Of the APIService.
    pub name: String,
    pub group: String,
    pub version: String,
    pub group_priority: i32,
    pub version_priority: i32,
    pub place: Place,
    /// Whether its condition says so.
    pub available: bool,
    /// What the clients were made from.
    spec: Value,
    identity: u64,
    /// Connections that are kept, and those that leave HTTP; or why there can be none.
    pub client: Arc<Result<Client, String>>,
}

/// Whether a condition is true.
pub fn is_available(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|c| c.iter().any(|c| c["type"] == "Available" && c["status"] == "True"))
}

impl Service {
    /// Reads an APIService; `None` for a local one. The connections of `before` are kept if nothing speaks against it.
    pub fn of(object: &Value, identity: &Identity, before: Option<&Arc<Service>>) -> Option<Service> {
        let spec = &object["spec"];
        let service = spec["service"].as_object()?;
        let text = |v: Option<&Value>| v.and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |v: &Value| v.as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or_default();
        let port = service.get("port").and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok());
        let place = Place {
            namespace: text(service.get("namespace")),
            name: text(service.get("name")),
            port: port.unwrap_or(443),
        };
        let kept = before.filter(|b| b.spec == *spec && b.identity == identity.hash());
        let client = match kept {
            Some(before) => before.client.clone(),
            None => Arc::new(client(spec, &place, identity)),
        };
        Some(Service {
            name: text(object["metadata"].get("name")),
            group: text(spec.get("group")),
            version: text(spec.get("version")),
            group_priority: number(&spec["groupPriorityMinimum"]),
            version_priority: number(&spec["versionPriority"]),
            available: is_available(object),
            spec: spec.clone(),
            identity: identity.hash(),
            client,
            place,
        })
    }

    /// Whether both lead to the same server in the same way.
    pub fn leads_where(&self, other: &Service) -> bool {
        Arc::ptr_eq(&self.client, &other.client)
    }

    /// Its place in discovery.
    pub fn group_version(&self) -> GroupVersion {
        GroupVersion {
            group: self.group.clone(),
            version: self.version.clone(),
            enabled_by_default: true,
            group_priority_minimum: Some(self.group_priority),
            version_priority: Some(self.version_priority),
        }
    }

    /// The path under which its server has to answer.
    pub fn path(&self) -> String {
        if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        }
    }
}

fn client(spec: &Value, place: &Place, identity: &Identity) -> Result<Client, String> {
    let bundle = STANDARD.decode(spec["caBundle"].as_str().unwrap_or_default());
    let bundle = bundle.map_err(|e| format!("caBundle: {e}"))?;
    let insecure = spec["insecureSkipTLSVerify"] == true;
    Client::new(&format!("{}.{}.svc", place.name, place.namespace), &bundle, insecure, identity)
}

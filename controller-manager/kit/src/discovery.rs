//! Which resources the server has, from one request each for the core group and all others.

use kube::Client;
use kube::core::{ApiResource, GroupVersionKind};
use serde::Deserialize;

/// A resource in its preferred version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl Found {
    /// Whether the resource can be used that way.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// `group/version`, or the version alone in the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The form that kube's dynamic API takes.
    pub fn dynamic(&self) -> ApiResource {
        let gvk = GroupVersionKind::gvk(&self.group, &self.version, &self.kind);
        ApiResource::from_gvk_with_plural(&gvk, &self.plural)
    }
}

/// What discovery told.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    pub resources: Vec<Found>,
    /// Every version of every kind, for owner references that name another than the preferred version.
    pub others: Vec<Found>,
    /// Group versions whose server did not answer.
    pub stale: Vec<String>,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    items: Vec<Group>,
}
#[derive(Deserialize)]
struct Group {
    metadata: Meta,
    #[serde(default)]
    versions: Vec<Version>,
}
#[derive(Deserialize)]
struct Meta {
    #[serde(default)]
    name: String,
}
#[derive(Deserialize)]
struct Version {
    version: String,
    #[serde(default)]
    resources: Vec<Resource>,
    #[serde(default)]
    freshness: String,
}
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    resource: String,
    response_kind: Option<Kind>,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    verbs: Vec<String>,
}
#[derive(Deserialize)]
struct Kind {
    kind: String,
}

const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Asks the server.
pub async fn discover(client: &Client) -> Result<Discovery, kube::Error> {
    let mut found = Discovery::default();
    for path in ["/api", "/apis"] {
        let request = http::Request::get(path)
            .header("accept", ACCEPT)
            .body(Vec::new())
            .map_err(|e| kube::Error::BuildRequest(kube::core::request::Error::BuildRequest(e)))?;
        let list: List = client.request(request).await?;
        list.items.into_iter().for_each(|group| found.add(group));
    }
    Ok(found)
}

impl Discovery {
    fn add(&mut self, group: Group) {
        let name = group.metadata.name;
        for version in group.versions {
            if version.freshness == "Stale" {
                let gv = if name.is_empty() {
                    version.version.clone()
                } else {
                    format!("{name}/{}", version.version)
                };
                self.stale.push(gv);
            }
            for resource in version.resources {
                let Some(kind) = resource.response_kind else { continue };
                let found = Found {
                    group: name.clone(),
                    version: version.version.clone(),
                    kind: kind.kind,
                    plural: resource.resource,
                    namespaced: resource.scope == "Namespaced",
                    verbs: resource.verbs,
                };
                let known = self.resources.iter().any(|r| r.group == found.group && r.plural == found.plural);
                if !known {
                    self.resources.push(found.clone());
                }
                self.others.push(found);
            }
        }
    }

    /// Every resource in every version that is served.
    pub fn all(&self) -> &[Found] {
        &self.others
    }

    /// The resource of a kind; in the version asked for if it is served, else in the preferred one.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<&Found> {
        let group = api_version.rsplit_once('/').map_or("", |(g, _)| g);
        let exact = self.others.iter().find(|r| r.kind == kind && r.api_version() == api_version);
        exact.or_else(|| self.resources.iter().find(|r| r.kind == kind && r.group == group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_version_is_preferred() {
        let group = json!({"metadata": {"name": "g"}, "versions": [
            {"version": "v1", "resources": [{"resource": "as", "scope": "Namespaced", "verbs": ["list"],
              "responseKind": {"group": "g", "version": "v1", "kind": "A"}}]},
            {"version": "v1beta1", "freshness": "Stale", "resources": [{"resource": "as", "scope": "Namespaced", "verbs": [],
              "responseKind": {"group": "g", "version": "v1beta1", "kind": "A"}}]}]});
        let mut d = Discovery::default();
        d.add(serde_json::from_value(group).unwrap());
        assert_eq!(d.resources.len(), 1);
        assert_eq!(d.stale, ["g/v1beta1"]);
        assert_eq!(d.by_kind("g/v1beta1", "A").map(|r| r.version.as_str()), Some("v1beta1"));
        assert_eq!(d.by_kind("g/v2", "A").map(|r| r.version.as_str()), Some("v1"));
        assert_eq!(d.by_kind("h/v2", "A"), None);
    }
}

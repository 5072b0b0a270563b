//! What a kubelet may do: its own Node, Lease and CSINode, and of everything else only what the pods
//! on its node refer to. Relations are read from the objects themselves when a question is asked, so
//! there is no graph that could lag behind or leak.

use super::rules::Rule;
use super::{Attributes, Authorizer, Rules, Verdict};
use crate::user::{NODE_PREFIX, NODES, UserInfo};
use crate::values::{items, name, namespace, text};
use api::Value;
use api::registry::Reader;
use references::Target;
use std::sync::Arc;

pub mod references;

const LEASE_NAMESPACE: &str = "kube-node-lease";

pub struct NodeAuthorizer {
    reader: Arc<dyn Reader>,
    rules: Vec<Rule>,
    pod_certificates: bool,
}

impl NodeAuthorizer {
    pub fn new(reader: Arc<dyn Reader>, gate: &dyn Fn(&str) -> bool) -> Self {
        let rules = super::bootstrap::node_rules(gate);
        NodeAuthorizer { reader, rules, pod_certificates: gate("PodCertificateRequest") }
    }

    fn decide(&self, node: &str, a: &Attributes<'_>) -> Verdict {
        match (a.group, a.resource) {
            ("", "secrets") => self.read_namespaced(node, Target::Secret, a),
            ("", "configmaps") => self.read_namespaced(node, Target::ConfigMap, a),
            ("", "persistentvolumeclaims") if a.subresource == "status" => match a.verb {
                "update" | "patch" => self.related(node, Target::Claim, a),
                _ => refuse("can only get/update/patch this type"),
            },
            ("", "persistentvolumeclaims") => self.get_one(node, Target::Claim, a),
            ("", "persistentvolumes") => self.get_one(node, Target::Volume, a),
            ("resource.k8s.io", "resourceclaims") => self.get_one(node, Target::ResourceClaim, a),
            ("storage.k8s.io", "volumeattachments") => self.get_one(node, Target::Attachment, a),
            ("", "serviceaccounts") => self.service_account(node, a),
            ("coordination.k8s.io", "leases") => lease(node, a),
            ("storage.k8s.io", "csinodes") => csi_node(node, a),
            ("resource.k8s.io", "resourceslices") => self.resource_slice(node, a),
            ("", "nodes") => own_node(node, a),
            ("", "pods") => self.pod(node, a),
            ("certificates.k8s.io", "podcertificaterequests") => self.pod_certificate(node, a),
            _ => self.by_rules(a),
        }
    }

    fn by_rules(&self, a: &Attributes<'_>) -> Verdict {
        if self.rules.iter().any(|r| r.allows(a)) { Verdict::allow("") } else { refuse("") }
    }

    fn get_one(&self, node: &str, target: Target, a: &Attributes<'_>) -> Verdict {
        if a.verb != "get" {
            return refuse("can only get individual resources of this type");
        }
        if !a.subresource.is_empty() {
            return refuse("cannot get subresource");
        }
        self.related(node, target, a)
    }

    fn read_namespaced(&self, node: &str, target: Target, a: &Attributes<'_>) -> Verdict {
        if !a.is_read_only() {
            return refuse("can only read resources of this type");
        }
        if !a.subresource.is_empty() {
            return refuse("cannot read subresource");
        }
        if a.namespace.is_empty() {
            return refuse("can only read namespaced object of this type");
        }
        self.related(node, target, a)
    }

    fn related(&self, node: &str, target: Target, a: &Attributes<'_>) -> Verdict {
        if a.name.is_empty() {
            return refuse("No Object name found");
        }
        if self.has_relation(node, target, a.namespace, a.name) {
            return Verdict::allow("");
        }
        Verdict::no_opinion(format!("no relationship found between node '{node}' and this object"))
    }

    fn has_relation(&self, node: &str, target: Target, ns: &str, object: &str) -> bool {
        let on_node = |gr, namespace: &str| {
            self.reader.get(gr, namespace, object).is_some_and(|o| text(&o, &["spec", "nodeName"]) == node)
        };
        match target {
            Target::Pod => on_node(("", "pods"), ns),
            Target::Attachment => on_node(("storage.k8s.io", "volumeattachments"), ""),
            Target::Slice => on_node(("resource.k8s.io", "resourceslices"), ""),
            Target::PodCertificate => on_node(("certificates.k8s.io", "podcertificaterequests"), ns),
            Target::Volume => self.volume_on(node, object).is_some(),
            Target::Secret => {
                self.pod_refers(node, target, ns, object) || self.volume_secret(node, ns, object)
            }
            _ => self.pod_refers(node, target, ns, object),
        }
    }

    fn pods(&self, node: &str) -> Vec<Arc<Value>> {
        self.reader.list_by_field(("", "pods"), "spec.nodeName", node)
    }

    fn pod_refers(&self, node: &str, target: Target, ns: &str, object: &str) -> bool {
        self.pods(node).iter().any(|pod| namespace(pod) == ns && references::pod_refers(pod, target, object))
    }

    /// A volume whose claim is used by a pod on the node.
    fn volume_on(&self, node: &str, volume: &str) -> Option<Arc<Value>> {
        let found = self.reader.get(("", "persistentvolumes"), "", volume)?;
        let claim = &found["spec"]["claimRef"];
        let (ns, claim) = (text(claim, &["namespace"]), text(claim, &["name"]));
        (!claim.is_empty() && self.pod_refers(node, Target::Claim, ns, claim)).then_some(found)
    }

    /// A secret that the driver of a mounted volume needs.
    fn volume_secret(&self, node: &str, ns: &str, secret: &str) -> bool {
        let claims = self.pods(node).into_iter().flat_map(|pod| {
            let place = namespace(&pod).to_owned();
            references::claims(&pod).into_iter().map(move |c| (place.clone(), c)).collect::<Vec<_>>()
        });
        claims
            .filter_map(|(place, claim)| self.reader.get(("", "persistentvolumeclaims"), &place, &claim))
            .filter_map(|claim| {
                let volume =
                    self.reader.get(("", "persistentvolumes"), "", text(&claim, &["spec", "volumeName"]))?;
                let back = &volume["spec"]["claimRef"];
                let same =
                    text(back, &["name"]) == name(&claim) && text(back, &["namespace"]) == namespace(&claim);
                same.then_some(volume)
            })
            .any(|volume| references::volume_secrets(&volume).iter().any(|(n, s)| n == ns && s == secret))
    }

    fn service_account(&self, node: &str, a: &Attributes<'_>) -> Verdict {
        if a.verb == "get" && a.subresource.is_empty() {
            return self.read_namespaced(node, Target::ServiceAccount, a);
        }
        if a.verb != "create" || a.name.is_empty() {
            return refuse("can only create tokens for individual service accounts");
        }
        if a.subresource != "token" {
            return refuse("can only create token subresource of serviceaccount");
        }
        self.related(node, Target::ServiceAccount, a)
    }

    fn resource_slice(&self, node: &str, a: &Attributes<'_>) -> Verdict {
        if !a.subresource.is_empty() {
            return refuse("cannot authorize ResourceSlice subresources");
        }
        match a.verb {
            "create" => Verdict::allow(""),
            "get" | "update" | "patch" | "delete" => self.related(node, Target::Slice, a),
            "watch" | "list" | "deletecollection" if selects(a, "spec.nodeName", node) => Verdict::allow(""),
            "watch" | "list" | "deletecollection" => {
                refuse("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => refuse(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        }
    }

    fn pod(&self, node: &str, a: &Attributes<'_>) -> Verdict {
        match (a.subresource, a.verb) {
            ("", "get") => self.get_one(node, Target::Pod, a),
            ("", "list" | "watch") if selects(a, "spec.nodeName", node) => Verdict::allow(""),
            ("", "list" | "watch") if !a.name.is_empty() => self.related(node, Target::Pod, a),
            ("", "list" | "watch") => refuse("can only list/watch pods with spec.nodeName field selector"),
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
                Verdict::allow("")
            }
            _ => refuse(""),
        }
    }

    fn pod_certificate(&self, node: &str, a: &Attributes<'_>) -> Verdict {
        if !self.pod_certificates {
            return refuse("");
        }
        if !a.subresource.is_empty() {
            return refuse("nodes may not access the status subresource of PodCertificateRequests");
        }
        match a.verb {
            "create" => Verdict::allow(""),
            "get" => self.related(node, Target::PodCertificate, a),
            "list" | "watch" if selects(a, "spec.nodeName", node) => Verdict::allow(""),
            "list" | "watch" => {
                refuse("can only list/watch podcertificaterequests with nodeName field selector")
            }
            verb => Verdict::no_opinion(format!("nodes may not {verb} podcertificaterequests")),
        }
    }
}

fn refuse(reason: &'static str) -> Verdict {
    Verdict::no_opinion(reason)
}

fn selects(a: &Attributes<'_>, field: &str, value: &str) -> bool {
    a.field_selector.iter().any(|(f, v)| *f == field && *v == value)
}

fn lease(node: &str, a: &Attributes<'_>) -> Verdict {
    if !matches!(a.verb, "get" | "create" | "update" | "patch" | "delete") {
        return refuse("can only get, create, update, patch, or delete a node lease");
    }
    if a.namespace != LEASE_NAMESPACE {
        return Verdict::no_opinion(format!(
            "can only access leases in the {LEASE_NAMESPACE:?} system namespace"
        ));
    }
    if a.verb != "create" && a.name != node {
        return refuse("can only access node lease with the same name as the requesting node");
    }
    Verdict::allow("")
}

fn csi_node(node: &str, a: &Attributes<'_>) -> Verdict {
    if !matches!(a.verb, "get" | "create" | "update" | "patch" | "delete") {
        return refuse("can only get, create, update, patch, or delete a CSINode");
    }
    if !a.subresource.is_empty() {
        return refuse("cannot authorize CSINode subresources");
    }
    if a.verb != "create" && a.name != node {
        return refuse("can only access CSINode with the same name as the requesting node");
    }
    Verdict::allow("")
}

fn own_node(node: &str, a: &Attributes<'_>) -> Verdict {
    match (a.subresource, a.verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Verdict::allow(""),
        ("", "get" | "list" | "watch") if a.name == node => Verdict::allow(""),
        ("", "get" | "list" | "watch") if a.name.is_empty() => {
            Verdict::no_opinion(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch") => {
            Verdict::no_opinion(format!("node '{node}' cannot read '{}', only its own Node object", a.name))
        }
        _ => refuse(""),
    }
}

#[async_trait::async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, a: &Attributes<'_>) -> Verdict {
        if !a.user.in_group(NODES) {
            return refuse("");
        }
        let Some(node) = a.user.name.strip_prefix(NODE_PREFIX) else { return refuse("") };
        if node.is_empty() {
            return Verdict::no_opinion(format!("unknown node for user {:?}", a.user.name));
        }
        if a.resource_request { self.decide(node, a) } else { self.by_rules(a) }
    }

    fn rules_for(&self, user: &UserInfo, _namespace: &str) -> Option<Rules> {
        user.node_name()?;
        Some(Rules {
            incomplete: true,
            errors: vec!["node authorizer does not support user rule resolution".into()],
            ..Default::default()
        })
    }
}

/// Whether a pod is the shadow of a static one; such a pod gives its node access to nothing.
pub fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_some()
}

/// All containers of a pod, of every sort.
pub fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|f| items(pod, &["spec", f]))
}

#[cfg(test)]
mod tests;

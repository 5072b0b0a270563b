//! NodeRestriction: what a kubelet writes concerns only itself. Together with the node authorizer it
//! keeps one stolen node credential from becoming more than one lost node.

mod tokens;

use super::certificates::subject;
use crate::attributes::{Attributes, Operation};
use crate::chain::{Deps, Plugin};
use crate::objects::{at, items, labels, name, text, uid};
use api::Value;
use api::registry::Registry;
use api::status::Result;
use auth::Authorizer;
use auth::authz::node::{is_mirror, references};
use auth::user::{NODE_PREFIX, NODES};
use std::collections::BTreeSet;
use std::sync::Arc;

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASE_NAMESPACE: &str = "kube-node-lease";
const RESTRICTION_DOMAIN: &str = "node-restriction.kubernetes.io";
const KUBELET_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
const KUBELET_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
const NODE_SIGNERS: [&str; 2] =
    ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];

pub struct NodeRestriction {
    registry: Arc<dyn Registry>,
    authorizer: Arc<dyn Authorizer>,
    restrict_audiences: bool,
    pod_certificates: bool,
    any_csr: bool,
}

impl NodeRestriction {
    pub fn new(deps: &Deps) -> Self {
        NodeRestriction {
            registry: deps.registry.clone(),
            authorizer: deps.authorizer.clone(),
            restrict_audiences: (deps.gate)("ServiceAccountNodeAudienceRestriction"),
            pod_certificates: (deps.gate)("PodCertificateRequest"),
            any_csr: (deps.gate)("AllowInsecureKubeletCertificateSigningRequests"),
        }
    }

    fn pod_on_node(&self, a: &Attributes, pod: &str, node: &str, refusal: String) -> Result<()> {
        let found = self.registry.get(("", "pods"), &a.namespace, pod);
        let found = found.ok_or_else(|| a.not_found("", "pods", pod))?;
        if text(&found, &["spec", "nodeName"]) == node { Ok(()) } else { Err(a.forbidden(refusal)) }
    }

    fn pod(&self, a: &Attributes, node: &str) -> Result<()> {
        match (a.operation, &a.object) {
            (Operation::Create, Some(pod)) => self.create_pod(a, node, pod),
            (Operation::Delete, _) => {
                let why = format!("node {node:?} can only delete pods with spec.nodeName set to itself");
                self.pod_on_node(a, &a.name, node, why)
            }
            (operation, _) => Err(a.forbidden(format!(
                "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                operation.as_str()
            ))),
        }
    }

    fn create_pod(&self, a: &Attributes, node: &str, pod: &Value) -> Result<()> {
        let refuse = |why: String| Err(a.forbidden(why));
        if !is_mirror(pod) {
            return refuse(format!(
                "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
            ));
        }
        if text(pod, &["spec", "nodeName"]) != node {
            return refuse(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
        }
        let owner = match items(pod, &["metadata", "ownerReferences"]) {
            [owner] => owner,
            [] => {
                return refuse(format!(
                    "node {node:?} can only create pods with an owner reference set to itself"
                ));
            }
            _ => {
                return refuse(format!(
                    "node {node:?} can only create pods with a single owner reference set to itself"
                ));
            }
        };
        if (text(owner, &["apiVersion"]), text(owner, &["kind"]), name_of(owner)) != ("v1", "Node", node) {
            return refuse(format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            ));
        }
        if at(owner, &["controller"]) != &Value::Bool(true) {
            return refuse(format!(
                "node {node:?} can only create pods with a controller owner reference set to itself"
            ));
        }
        if at(owner, &["blockOwnerDeletion"]) == &Value::Bool(true) {
            return refuse(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
        }
        let Some(found) = self.registry.get(("", "nodes"), "", node) else {
            return Err(a.not_found("", "nodes", node));
        };
        if text(owner, &["uid"]) != uid(&found) {
            return refuse(format!(
                "node {node} UID mismatch: expected {} got {}",
                text(owner, &["uid"]),
                uid(&found)
            ));
        }
        match api_reference(pod) {
            Some(what) => refuse(format!("node {node:?} can not create pods that reference {what}")),
            None => Ok(()),
        }
    }

    fn pod_status(&self, a: &Attributes, node: &str) -> Result<()> {
        let (Operation::Update, Some(new), Some(old)) = (a.operation, &a.object, a.old_object.as_deref())
        else {
            return Err(unexpected(a));
        };
        if text(old, &["spec", "nodeName"]) != node {
            return Err(a.forbidden(format!(
                "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
            )));
        }
        let same = |path: &[&str]| kinds::value::same(at(old, path), at(new, path));
        if labels(old) != labels(new) {
            return Err(a.forbidden(format!("node {node:?} cannot update labels through pod status")));
        }
        if !same(&["status", "resourceClaimStatuses"]) {
            return Err(a.forbidden(format!("node {node:?} cannot update resource claim statues")));
        }
        if !same(&["status", "extendedResourceClaimStatus"]) {
            return Err(a.forbidden(format!("node {node:?} cannot update extended resource claim status")));
        }
        Ok(())
    }

    fn eviction(&self, a: &Attributes, node: &str) -> Result<()> {
        if a.operation != Operation::Create {
            return Err(unexpected(a));
        }
        let given = a.object.as_ref().map_or("", |o| name(o));
        let pod = if a.name.is_empty() { given } else { &a.name };
        if pod.is_empty() {
            return Err(a.forbidden("could not determine pod from request data"));
        }
        let why = format!("node {node} can only evict pods with spec.nodeName set to itself");
        self.pod_on_node(a, pod, node, why)
    }

    fn csr(&self, a: &Attributes, node: &str) -> Result<()> {
        let Some(csr) = a.object.as_ref().filter(|_| a.operation == Operation::Create && !self.any_csr)
        else {
            return Ok(());
        };
        if !NODE_SIGNERS.contains(&text(csr, &["spec", "signerName"])) {
            return Ok(());
        }
        match subject(csr) {
            Err(why) => Err(a.forbidden(format!("unable to parse csr: {why}"))),
            Ok((cn, _)) if cn != format!("{NODE_PREFIX}{node}") => {
                Err(a.forbidden(format!("can only create a node CSR with CN={NODE_PREFIX}{node}")))
            }
            Ok(_) => Ok(()),
        }
    }

    async fn check(&self, a: &Attributes, node: &str) -> Result<()> {
        let resource = (a.resource.group.as_str(), a.resource.resource.as_str());
        match (resource, a.subresource.as_str()) {
            (("", "pods"), "") => self.pod(a, node),
            (("", "pods"), "status") => self.pod_status(a, node),
            (("", "pods"), "eviction") => self.eviction(a, node),
            (("", "pods"), other) => Err(a.forbidden(format!(
                "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
            ))),
            (("", "nodes"), _) => own_node(a, node),
            (("", "persistentvolumeclaims"), "status") => claim_status(a, node),
            (("", "persistentvolumeclaims"), _) => Err(a.forbidden("may only update PVC status")),
            (("", "serviceaccounts"), _) => self.token(a, node).await,
            (("certificates.k8s.io", "podcertificaterequests"), _) => self.pod_certificate(a, node),
            (("certificates.k8s.io", "certificatesigningrequests"), _) => self.csr(a, node),
            (("coordination.k8s.io", "leases"), _) => lease(a, node),
            (("storage.k8s.io", "csinodes"), _) if requested_name(a) != node => {
                Err(a.forbidden("can only access CSINode with the same name as the requesting node"))
            }
            (("resource.k8s.io", "resourceslices"), _) => resource_slice(a, node),
            _ => Ok(()),
        }
    }
}

fn name_of(reference: &Value) -> &str {
    text(reference, &["name"])
}

fn unexpected(a: &Attributes) -> api::status::Status {
    a.forbidden(format!("unexpected operation {:?}", a.operation.as_str()))
}

/// On creation the name is in the object.
fn requested_name(a: &Attributes) -> &str {
    match (&a.object, a.operation) {
        (Some(object), Operation::Create) => name(object),
        _ => &a.name,
    }
}

/// The first sort of API object that a pod refers to; a static pod cannot.
fn api_reference(pod: &Value) -> Option<&'static str> {
    if !text(pod, &["spec", "serviceAccountName"]).is_empty() {
        return Some("serviceaccounts");
    }
    if references::secrets(pod).next().is_some() {
        return Some("secrets");
    }
    if references::config_maps(pod).next().is_some() {
        return Some("configmaps");
    }
    if !items(pod, &["spec", "resourceClaims"]).is_empty() {
        return Some("resourceclaims");
    }
    items(pod, &["spec", "volumes"]).iter().find_map(volume_reference)
}

fn volume_reference(volume: &Value) -> Option<&'static str> {
    const BY_SORT: [(&str, &str); 7] = [
        ("configMap", "configmaps (via configmap volumes)"),
        ("secret", "secrets (via secret volumes)"),
        ("csi", "csidrivers (via CSI volumes)"),
        ("glusterfs", "endpoints (via glusterFS volumes)"),
        ("persistentVolumeClaim", "persistentvolumeclaims"),
        ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
        ("azureFile", "secrets (via azureFile volumes)"),
    ];
    const BY_SOURCE: [(&str, &str); 5] = [
        ("configMap", "configmaps (via projected volumes)"),
        ("secret", "secrets (via projected volumes)"),
        ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
        ("clusterTrustBundle", "clustertrustbundles"),
        ("podCertificate", "podcertificates"),
    ];
    let has = |v: &Value, sort: &str| v.get(sort).is_some_and(Value::is_object);
    if let Some((_, what)) = BY_SORT.iter().find(|(sort, _)| has(volume, sort)) {
        return Some(what);
    }
    items(volume, &["projected", "sources"])
        .iter()
        .find_map(|source| BY_SOURCE.iter().find(|(sort, _)| has(source, sort)))
        .map(|(_, what)| *what)
}

fn domain(label: &str) -> &str {
    label.split_once('/').map_or("", |(domain, _)| domain)
}

fn within(domain: &str, parent: &str) -> bool {
    domain == parent || domain.strip_suffix(parent).is_some_and(|d| d.ends_with('.'))
}

fn is_forbidden_label(label: &str) -> bool {
    let domain = domain(label);
    let ours = KUBELET_LABELS.contains(&label) || KUBELET_DOMAINS.iter().any(|d| within(domain, d));
    within(domain, RESTRICTION_DOMAIN)
        || (within(domain, "kubernetes.io") || within(domain, "k8s.io")) && !ours
}

/// Labels that differ and that a node may not touch.
fn forbidden_labels(new: &Value, old: Option<&Value>) -> Vec<String> {
    let (new, old) = (labels(new), old.map(labels).unwrap_or_default());
    let keys: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    let touched = keys.into_iter().filter(|k| new.get(*k) != old.get(*k));
    touched.filter(|k| is_forbidden_label(k)).cloned().collect()
}

fn own_node(a: &Attributes, node: &str) -> Result<()> {
    let wanted = if a.name.is_empty() { requested_name(a) } else { &a.name };
    if wanted != node {
        return Err(a.forbidden(format!("node {node:?} is not allowed to modify node {wanted:?}")));
    }
    let Some(new) = &a.object else { return Ok(()) };
    let config = at(new, &["spec", "configSource"]);
    match (a.operation, a.old_object.as_deref()) {
        (Operation::Create, _) => {
            if !config.is_null() {
                let why = format!("node {node:?} is not allowed to create pods with a non-nil configSource");
                return Err(a.forbidden(why));
            }
            let bad = forbidden_labels(new, None);
            if !bad.is_empty() {
                let why =
                    format!("node {node:?} is not allowed to set the following labels: {}", bad.join(", "));
                return Err(a.forbidden(why));
            }
        }
        (Operation::Update, Some(old)) => {
            let same = |path: &[&str]| kinds::value::same(at(old, path), at(new, path));
            if !config.is_null() && !same(&["spec", "configSource"]) {
                return Err(a.forbidden(format!(
                    "node {node:?} is not allowed to update configSource to a new non-nil configSource"
                )));
            }
            if !same(&["spec", "taints"]) {
                return Err(a.forbidden(format!("node {node:?} is not allowed to modify taints")));
            }
            if !same(&["metadata", "ownerReferences"]) {
                return Err(a.forbidden(format!("node {node:?} is not allowed to modify ownerReferences")));
            }
            let bad = forbidden_labels(new, Some(old));
            if !bad.is_empty() {
                return Err(a.forbidden(format!("is not allowed to modify labels: {}", bad.join(", "))));
            }
        }
        _ => {}
    }
    Ok(())
}

fn claim_status(a: &Attributes, node: &str) -> Result<()> {
    let (Operation::Update, Some(new), Some(old)) = (a.operation, &a.object, a.old_object.as_deref()) else {
        return Err(unexpected(a));
    };
    let bare = |claim: &Value| {
        let mut claim = claim.clone();
        for (parent, keys) in [
            ("metadata", &["resourceVersion", "managedFields"][..]),
            ("status", &["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"][..]),
        ] {
            if let Some(map) = claim.get_mut(parent).and_then(Value::as_object_mut) {
                map.retain(|k, _| !keys.contains(&k.as_str()));
            }
        }
        claim
    };
    if kinds::value::same(&bare(old), &bare(new)) {
        return Ok(());
    }
    Err(a.forbidden(format!(
        "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
    )))
}

fn lease(a: &Attributes, node: &str) -> Result<()> {
    if a.namespace != LEASE_NAMESPACE {
        return Err(
            a.forbidden(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"))
        );
    }
    if requested_name(a) != node {
        return Err(a.forbidden("can only access node lease with the same name as the requesting node"));
    }
    Ok(())
}

fn resource_slice(a: &Attributes, node: &str) -> Result<()> {
    let (object, verb) = match a.operation {
        Operation::Create => (a.object.as_ref(), "create"),
        Operation::Delete => (a.old_object.as_deref(), "delete"),
        _ => return Ok(()),
    };
    if object.is_some_and(|s| text(s, &["spec", "nodeName"]) == node) {
        return Ok(());
    }
    Err(a.forbidden(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node")))
}

#[async_trait::async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }
    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }
    async fn admit(&self, a: &mut Attributes) -> Result<()> {
        let user = a.user.clone();
        if !user.in_group(NODES) {
            return Ok(());
        }
        let Some(node) = user.name.strip_prefix(NODE_PREFIX) else { return Ok(()) };
        if node.is_empty() {
            return Err(a.forbidden(format!("could not determine node from user {:?}", user.name)));
        }
        self.check(a, node).await
    }
}

#[cfg(test)]
mod tests;

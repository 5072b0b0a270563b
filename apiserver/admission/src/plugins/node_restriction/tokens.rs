//! Tokens and certificates that a kubelet asks for on behalf of its pods.

use super::{NodeRestriction, unexpected};
use crate::attributes::{Attributes, Operation};
use crate::objects::{at, items, name, namespace, strings, text, uid};
use api::Value;
use api::status::{Result, Status};
use auth::authz::node::is_mirror;

impl NodeRestriction {
    /// A token only for a pod on the node, and only for an audience that the pod mounts.
    pub(super) async fn token(&self, a: &Attributes, node: &str) -> Result<()> {
        let Some(request) =
            a.object.as_ref().filter(|_| a.operation == Operation::Create && a.subresource == "token")
        else {
            return Ok(());
        };
        let reference = at(request, &["spec", "boundObjectRef"]);
        let pod_name = text(reference, &["name"]);
        let to_pod = (text(reference, &["apiVersion"]), text(reference, &["kind"])) == ("v1", "Pod");
        if !to_pod || pod_name.is_empty() {
            return Err(a.forbidden("node requested token not bound to a pod"));
        }
        let wanted = text(reference, &["uid"]);
        if wanted.is_empty() {
            return Err(a.forbidden("node requested token with a pod binding without a uid"));
        }
        let found = self.registry.get(("", "pods"), &a.namespace, pod_name);
        let pod = found.ok_or_else(|| a.not_found("", "pods", pod_name))?;
        if wanted != uid(&pod) {
            return Err(a.forbidden(format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
            )));
        }
        if text(&pod, &["spec", "nodeName"]) != node {
            return Err(a.forbidden("node requested token bound to a pod scheduled on a different node"));
        }
        if self.restrict_audiences {
            self.check_audience(a, request, &pod).await?;
        }
        Ok(())
    }

    async fn check_audience(&self, a: &Attributes, request: &Value, pod: &Value) -> Result<()> {
        let audiences = strings(request, &["spec", "audiences"]);
        let audience = match audiences.as_slice() {
            [] => "",
            [one] => one.as_str(),
            _ => return Err(a.forbidden("node may only request 0 or 1 audiences")),
        };
        if self.mounts_audience(pod, audience) {
            return Ok(());
        }
        let ask = auth::Attributes::resource(&a.user, "request-serviceaccounts-token-audience", "", audience)
            .version("v1")
            .namespace(&a.namespace)
            .name(&a.name);
        if self.authorizer.authorize(&ask).await.allowed() {
            return Ok(());
        }
        Err(a.forbidden(format!(
            "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
            a.user.name
        )))
    }

    fn mounts_audience(&self, pod: &Value, audience: &str) -> bool {
        items(pod, &["spec", "volumes"]).iter().any(|volume| {
            let projected = items(volume, &["projected", "sources"])
                .iter()
                .map(|s| at(s, &["serviceAccountToken"]))
                .any(|t| t.is_object() && text(t, &["audience"]) == audience);
            projected || self.driver_of(pod, volume).is_some_and(|d| self.driver_has_audience(&d, audience))
        })
    }

    /// The CSI driver behind a volume: inline, or by its claim and persistent volume.
    fn driver_of(&self, pod: &Value, volume: &Value) -> Option<String> {
        let inline = text(volume, &["csi", "driver"]);
        if !inline.is_empty() {
            return Some(inline.to_owned());
        }
        let claim = match text(volume, &["persistentVolumeClaim", "claimName"]) {
            "" if at(volume, &["ephemeral", "volumeClaimTemplate"]).is_object() => {
                format!("{}-{}", name(pod), text(volume, &["name"]))
            }
            "" => return None,
            claim => claim.to_owned(),
        };
        let claim = self.registry.get(("", "persistentvolumeclaims"), namespace(pod), &claim)?;
        let volume =
            self.registry.get(("", "persistentvolumes"), "", text(&claim, &["spec", "volumeName"]))?;
        Some(text(&volume, &["spec", "csi", "driver"]).to_owned()).filter(|d| !d.is_empty())
    }

    fn driver_has_audience(&self, driver: &str, audience: &str) -> bool {
        let found = self.registry.get(("storage.k8s.io", "csidrivers"), "", driver);
        found.is_some_and(|d| {
            items(&d, &["spec", "tokenRequests"]).iter().any(|t| text(t, &["audience"]) == audience)
        })
    }

    pub(super) fn pod_certificate(&self, a: &Attributes, node: &str) -> Result<()> {
        if !self.pod_certificates {
            return Err(a.forbidden("PodCertificateRequest feature gate is disabled"));
        }
        let Some(request) = a.object.as_ref().filter(|_| a.operation == Operation::Create) else {
            return Err(unexpected(a));
        };
        if !a.subresource.is_empty() {
            return Err(a.forbidden(format!("unexpected subresource {}", a.subresource)));
        }
        let field = |f: &str| text(request, &["spec", f]).to_owned();
        if field("nodeName") != node {
            return Err(a.forbidden(format!(
                "PodCertificateRequest.Spec.NodeName={:?}, which is not the requesting node {node:?}",
                field("nodeName")
            )));
        }
        // What may be memory that lags is an internal error, so that the kubelet tries again.
        self.same_uid(("nodes", "", node), &field("nodeUID"))?;
        let pod = self.same_uid(("pods", &a.namespace, &field("podName")), &field("podUID"))?;
        let shown = format!("{}/{}", a.namespace, field("podName"));
        if text(&pod, &["spec", "nodeName"]) != node {
            return Err(a.forbidden(format!(
                "pod {shown:?} is not running on node {node:?} named in the PodCertificateRequest"
            )));
        }
        if is_mirror(&pod) {
            return Err(a.forbidden(format!("pod {shown:?} is a mirror pod")));
        }
        let account = field("serviceAccountName");
        let actual = text(&pod, &["spec", "serviceAccountName"]);
        if account != actual {
            return Err(a.forbidden(format!(
                "PodCertificateRequest for pod {shown:?} contains serviceAccountName ({account:?}) that differs from running pod ({actual:?})"
            )));
        }
        self.same_uid(("serviceaccounts", &a.namespace, &account), &field("serviceAccountUID")).map(drop)
    }

    fn same_uid(
        &self,
        (resource, ns, object): (&str, &str, &str),
        wanted: &str,
    ) -> Result<std::sync::Arc<Value>> {
        let found = self.registry.get(("", resource), ns, object).ok_or_else(|| {
            Status::internal(format!(
                "while retrieving {resource} {object:?} named in the PodCertificateRequest: not found"
            ))
        })?;
        if uid(&found) == wanted {
            return Ok(found);
        }
        Err(Status::internal(format!(
            "PodCertificateRequest names {resource} {object:?} with UID {wanted:?}, which differs from the running one ({:?})",
            uid(&found)
        )))
    }
}

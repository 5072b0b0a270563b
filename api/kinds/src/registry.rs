//! Which kind has which room.

use crate::{
    Kind, PLAIN, Room, admissionregistration as admission, apiservice, apps, autoscaling, batch,
    certificates, coordination, corev1, crd, discovery, dra, flowcontrol, networking, node, pod, policy,
    rbac, reviews, scheduling, storage,
};
use std::collections::HashMap;
use std::sync::LazyLock;

const ADMISSION: &str = "admissionregistration.k8s.io";
const AUTHN: &str = "authentication.k8s.io";
const AUTHZ: &str = "authorization.k8s.io";
const CERTIFICATES: &str = "certificates.k8s.io";
const DRA: &str = "resource.k8s.io";
const FLOW: &str = "flowcontrol.apiserver.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const STORAGE: &str = "storage.k8s.io";

/// Group, version (empty: every version), kind, room.
const ROOMS: &[(&str, &str, &str, &(dyn Room + 'static))] = &[
    ("", "", "Binding", &reviews::BINDING),
    ("", "", "ComponentStatus", &corev1::serviceaccount::COMPONENT_STATUS),
    ("", "", "ConfigMap", &corev1::configmap::ROOM),
    ("", "", "Endpoints", &corev1::endpoints::ROOM),
    ("", "", "Event", &corev1::event::ROOM),
    ("", "", "LimitRange", &corev1::limits::LIMIT_RANGE),
    ("", "", "Namespace", &corev1::namespace::ROOM),
    ("", "", "Node", &corev1::node::ROOM),
    ("", "", "PersistentVolume", &corev1::pv::ROOM),
    ("", "", "PersistentVolumeClaim", &corev1::pvc::ROOM),
    ("", "", "Pod", &pod::ROOM),
    ("", "", "PodTemplate", &corev1::rc::POD_TEMPLATE),
    ("", "", "ReplicationController", &corev1::rc::ROOM),
    ("", "", "ResourceQuota", &corev1::limits::RESOURCE_QUOTA),
    ("", "", "Secret", &corev1::secret::ROOM),
    ("", "", "Service", &corev1::service::ROOM),
    ("", "", "ServiceAccount", &corev1::serviceaccount::ROOM),
    ("events.k8s.io", "", "Event", &corev1::event::ROOM),
    ("apps", "", "ControllerRevision", &apps::controllerrevision::ROOM),
    ("apps", "", "DaemonSet", &apps::daemonset::ROOM),
    ("apps", "", "Deployment", &apps::deployment::ROOM),
    ("apps", "", "ReplicaSet", &apps::replicaset::ROOM),
    ("apps", "", "StatefulSet", &apps::statefulset::ROOM),
    ("batch", "", "CronJob", &batch::cronjob::ROOM),
    ("batch", "", "Job", &batch::job::ROOM),
    ("autoscaling", "v1", "HorizontalPodAutoscaler", &autoscaling::HPA_V1),
    ("autoscaling", "v2", "HorizontalPodAutoscaler", &autoscaling::HPA_V2),
    ("autoscaling", "", "Scale", &autoscaling::SCALE),
    (AUTHN, "", "SelfSubjectReview", &reviews::REVIEW),
    (AUTHN, "", "TokenRequest", &reviews::TOKEN_REQUEST),
    (AUTHN, "", "TokenReview", &reviews::REVIEW),
    (AUTHZ, "", "LocalSubjectAccessReview", &reviews::REVIEW),
    (AUTHZ, "", "SelfSubjectAccessReview", &reviews::REVIEW),
    (AUTHZ, "", "SelfSubjectRulesReview", &reviews::REVIEW),
    (AUTHZ, "", "SubjectAccessReview", &reviews::REVIEW),
    (CERTIFICATES, "", "CertificateSigningRequest", &certificates::CSR),
    (CERTIFICATES, "", "ClusterTrustBundle", &certificates::TRUST_BUNDLE),
    (CERTIFICATES, "", "PodCertificateRequest", &certificates::POD_REQUEST),
    (NETWORKING, "", "Ingress", &networking::ingress::ROOM),
    (NETWORKING, "", "IngressClass", &networking::ingress::CLASS),
    (NETWORKING, "", "IPAddress", &networking::ip::IP_ADDRESS),
    (NETWORKING, "", "NetworkPolicy", &networking::networkpolicy::ROOM),
    (NETWORKING, "", "ServiceCIDR", &networking::ip::SERVICE_CIDR),
    ("policy", "", "PodDisruptionBudget", &policy::PDB),
    ("policy", "", "Eviction", &policy::EVICTION),
    (RBAC, "", "ClusterRole", &rbac::CLUSTER_ROLE),
    (RBAC, "", "ClusterRoleBinding", &rbac::CLUSTER_BINDING),
    (RBAC, "", "Role", &rbac::ROLE),
    (RBAC, "", "RoleBinding", &rbac::BINDING),
    (STORAGE, "", "CSIDriver", &storage::csi::DRIVER),
    (STORAGE, "", "CSINode", &storage::csi::NODE),
    (STORAGE, "", "CSIStorageCapacity", &storage::csi::CAPACITY),
    (STORAGE, "", "StorageClass", &storage::class::STORAGE_CLASS),
    (STORAGE, "", "VolumeAttachment", &storage::volumeattachment::ROOM),
    (STORAGE, "", "VolumeAttributesClass", &storage::class::ATTRIBUTES_CLASS),
    ("storagemigration.k8s.io", "", "StorageVersionMigration", &storage::migration::MIGRATION),
    ("internal.apiserver.k8s.io", "", "StorageVersion", &storage::migration::STORAGE_VERSION),
    ("scheduling.k8s.io", "", "PriorityClass", &scheduling::PRIORITY_CLASS),
    ("scheduling.k8s.io", "", "PodGroup", &scheduling::POD_GROUP),
    ("scheduling.k8s.io", "", "Workload", &scheduling::WORKLOAD),
    ("coordination.k8s.io", "", "Lease", &coordination::LEASE),
    ("coordination.k8s.io", "", "LeaseCandidate", &coordination::CANDIDATE),
    ("discovery.k8s.io", "", "EndpointSlice", &discovery::ENDPOINT_SLICE),
    (ADMISSION, "", "MutatingAdmissionPolicy", &admission::MUTATING_POLICY),
    (ADMISSION, "", "MutatingAdmissionPolicyBinding", &admission::MUTATING_BINDING),
    (ADMISSION, "", "MutatingWebhookConfiguration", &admission::MUTATING_WEBHOOKS),
    (ADMISSION, "", "ValidatingAdmissionPolicy", &admission::VALIDATING_POLICY),
    (ADMISSION, "", "ValidatingAdmissionPolicyBinding", &admission::VALIDATING_BINDING),
    (ADMISSION, "", "ValidatingWebhookConfiguration", &admission::VALIDATING_WEBHOOKS),
    ("apiextensions.k8s.io", "", "CustomResourceDefinition", &crd::CRD),
    ("apiregistration.k8s.io", "", "APIService", &apiservice::API_SERVICE),
    ("node.k8s.io", "", "RuntimeClass", &node::RUNTIME_CLASS),
    (FLOW, "", "FlowSchema", &flowcontrol::FLOW_SCHEMA),
    (FLOW, "", "PriorityLevelConfiguration", &flowcontrol::PRIORITY_LEVEL),
    (DRA, "", "DeviceClass", &dra::CLASS),
    (DRA, "", "DeviceTaintRule", &dra::TAINT_RULE),
    (DRA, "", "ResourceClaim", &dra::CLAIM),
    (DRA, "", "ResourceClaimTemplate", &dra::TEMPLATE),
    (DRA, "", "ResourcePoolStatusRequest", &dra::POOL_STATUS_REQUEST),
    (DRA, "", "ResourceSlice", &dra::SLICE),
];

type Key = (&'static str, &'static str, &'static str);

static INDEX: LazyLock<HashMap<Key, &'static dyn Room>> =
    LazyLock::new(|| ROOMS.iter().map(|(g, v, k, room)| ((*g, *v, *k), *room)).collect());

static GENERIC: Kind = Kind { any_finalizer: true, ..PLAIN };

/// The room of a kind; a kind that has none of its own gets one that knows only metadata.
pub fn room(group: &str, version: &str, kind: &str) -> &'static dyn Room {
    let found = INDEX.get(&(group, version, kind)).or_else(|| INDEX.get(&(group, "", kind)));
    found.copied().unwrap_or(&GENERIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn every_room_is_found_and_stands_an_empty_object() {
        assert_eq!(INDEX.len(), ROOMS.len(), "no kind is listed twice");
        for (group, version, kind, _) in ROOMS {
            let room = room(group, version, kind);
            let mut object = json!({"metadata": {"name": "x"}});
            room.defaults(&mut object);
            let once = object.clone();
            room.defaults(&mut object);
            assert_eq!(object, once, "{kind}: filling twice is filling once");
            room.row(&object);
            room.validate(&crate::Context::default(), &object, None);
            room.validate(&crate::Context::default(), &object, Some(&once));
        }
    }
}

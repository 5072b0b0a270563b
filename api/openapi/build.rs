//! Gathers what k8s-openapi's types say about themselves and their fields, so that the documents carry the
//! types' own documentation. The result is one compressed JSON object: definition → `""` for itself and a field's
//! name for each field → text.

use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::{api, apiextensions_apiserver as extensions, apimachinery, kube_aggregator as aggregator};
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};
use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

/// Describes the named types and all that they are made of.
macro_rules! describe {
    ($generator:ident: $($root:path { $($kind:ident),* $(,)? })*) => {
        $({ use $root::*; $($generator.subschema_for::<$kind>();)* })*
    };
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let path = Path::new(&std::env::var("OUT_DIR")?).join("descriptions.json.gz");
    let mut out = GzEncoder::new(BufWriter::new(File::create(path)?), Compression::best());
    serde_json::to_writer(&mut out, &texts(roots()))?;
    out.finish()?;
    Ok(())
}

fn texts(mut generator: SchemaGenerator) -> Map<String, Value> {
    let text_of = |v: &Value| v.get("description").cloned();
    let mut out = Map::new();
    for (name, schema) in generator.take_definitions(true) {
        let mut texts = Map::new();
        texts.extend(text_of(&schema).map(|t| (String::new(), t)));
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            texts.extend(properties.iter().filter_map(|(field, v)| Some((field.clone(), text_of(v)?))));
        }
        out.insert(name, texts.into());
    }
    out
}

fn roots() -> SchemaGenerator {
    let mut g = SchemaSettings::draft07().with(|s| s.inline_subschemas = false).into_generator();
    workloads(&mut g);
    policies(&mut g);
    devices(&mut g);
    machinery(&mut g);
    g
}

fn workloads(g: &mut SchemaGenerator) {
    describe!(g:
        api::core::v1 {
            Binding, ComponentStatus, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolume,
            PersistentVolumeClaim, Pod, PodTemplate, ReplicationController, ResourceQuota, Secret, Service, ServiceAccount,
        }
        api::apps::v1 { ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet }
        api::autoscaling::v1 { HorizontalPodAutoscaler, Scale }
        api::autoscaling::v2 { HorizontalPodAutoscaler }
        api::batch::v1 { CronJob, Job }
        api::coordination::v1 { Lease }
        api::coordination::v1alpha2 { LeaseCandidate }
        api::coordination::v1beta1 { LeaseCandidate }
        api::discovery::v1 { EndpointSlice }
        api::events::v1 { Event }
        api::networking::v1 { IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR }
        api::networking::v1beta1 { IPAddress, ServiceCIDR }
        api::scheduling::v1 { PriorityClass }
        api::scheduling::v1alpha2 { PodGroup, Workload }
    );
}

fn policies(g: &mut SchemaGenerator) {
    describe!(g:
        api::admissionregistration::v1 {
            MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingWebhookConfiguration,
            ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration,
        }
        api::admissionregistration::v1alpha1 { MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding }
        api::admissionregistration::v1beta1 { MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding }
        api::authentication::v1 { SelfSubjectReview, TokenRequest, TokenReview }
        api::authorization::v1 {
            LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
        }
        api::certificates::v1 { CertificateSigningRequest }
        api::certificates::v1alpha1 { ClusterTrustBundle }
        api::certificates::v1beta1 { ClusterTrustBundle, PodCertificateRequest }
        api::flowcontrol::v1 { FlowSchema, PriorityLevelConfiguration }
        api::policy::v1 { Eviction, PodDisruptionBudget }
        api::rbac::v1 { ClusterRole, ClusterRoleBinding, Role, RoleBinding }
    );
}

fn devices(g: &mut SchemaGenerator) {
    describe!(g:
        api::node::v1 { RuntimeClass }
        api::resource::v1 { DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice }
        api::resource::v1alpha3 { DeviceTaintRule, ResourcePoolStatusRequest }
        api::resource::v1beta1 { DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice }
        api::resource::v1beta2 { DeviceClass, DeviceTaintRule, ResourceClaim, ResourceClaimTemplate, ResourceSlice }
        api::storage::v1 {
            CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass,
        }
        api::storage::v1beta1 { VolumeAttributesClass }
    );
}

fn machinery(g: &mut SchemaGenerator) {
    describe!(g:
        api::apiserverinternal::v1alpha1 { StorageVersion }
        api::storagemigration::v1beta1 { StorageVersionMigration }
        extensions::pkg::apis::apiextensions::v1 { CustomResourceDefinition }
        aggregator::pkg::apis::apiregistration::v1 { APIService }
        apimachinery::pkg::apis::meta::v1 {
            APIGroup, APIGroupList, APIResourceList, APIVersions, DeleteOptions, ListMeta, MicroTime, Patch, Status,
        }
        apimachinery::pkg::runtime { RawExtension }
        apimachinery::pkg::version { Info }
    );
}

//! The table of plugins, in the order in which they run.

mod certificates;
mod event_rate_limit;
mod lifecycle;
mod limit_ranger;
mod node_restriction;
mod node_selector;
mod owner_references;
mod pod_security;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod simple;
mod storage;
mod tolerations;

#[cfg(test)]
mod tests;

use crate::chain::{Deps, Plugin};
use crate::policy;
use crate::webhook;
use anyhow::Result;
use api::Value;
use std::sync::Arc;

type Make = fn(&Deps, Option<&Value>) -> Result<Arc<dyn Plugin>>;

/// One plugin. A row without a maker is known by name and does nothing here.
pub struct Row {
    pub name: &'static str,
    pub default_on: bool,
    pub make: Option<Make>,
}

const fn row(name: &'static str, default_on: bool, make: Make) -> Row {
    Row { name, default_on, make: Some(make) }
}

const fn nothing(name: &'static str, default_on: bool) -> Row {
    Row { name, default_on, make: None }
}

pub static TABLE: &[Row] = &[
    row("AlwaysAdmit", false, |_, _| Ok(Arc::new(simple::AlwaysAdmit))),
    row("NamespaceAutoProvision", false, |d, _| Ok(Arc::new(lifecycle::AutoProvision::new(d)))),
    row("NamespaceLifecycle", true, |d, _| Ok(Arc::new(lifecycle::Lifecycle::new(d)))),
    row("NamespaceExists", false, |d, _| Ok(Arc::new(lifecycle::Exists::new(d)))),
    row("LimitPodHardAntiAffinityTopology", false, |_, _| Ok(Arc::new(simple::AntiAffinity))),
    row("LimitRanger", true, |d, _| Ok(Arc::new(limit_ranger::LimitRanger::new(d)))),
    row("ServiceAccount", true, |d, _| Ok(Arc::new(service_account::ServiceAccount::new(d)))),
    row("NodeRestriction", false, |d, _| Ok(Arc::new(node_restriction::NodeRestriction::new(d)))),
    row("TaintNodesByCondition", true, |_, _| Ok(Arc::new(tolerations::TaintNodes))),
    row("AlwaysPullImages", false, |_, _| Ok(Arc::new(simple::AlwaysPullImages))),
    nothing("ImagePolicyWebhook", false),
    row("PodSecurity", true, |d, c| Ok(Arc::new(pod_security::PodSecurity::new(d, c)?))),
    row("PodNodeSelector", false, |d, c| Ok(Arc::new(node_selector::PodNodeSelector::new(d, c)))),
    row("Priority", true, |d, _| Ok(Arc::new(priority::Priority::new(d)))),
    row("DefaultTolerationSeconds", true, |d, _| {
        let (not_ready, unreachable) = d.toleration_seconds;
        Ok(Arc::new(tolerations::DefaultSeconds::new(not_ready, unreachable)))
    }),
    row("PodTolerationRestriction", false, |d, c| Ok(Arc::new(tolerations::Restriction::new(d, c)))),
    row("EventRateLimit", false, |_, c| Ok(Arc::new(event_rate_limit::EventRateLimit::new(c)?))),
    row("ExtendedResourceToleration", false, |_, _| Ok(Arc::new(tolerations::ExtendedResources))),
    row("DefaultStorageClass", true, |d, _| Ok(Arc::new(storage::DefaultClass::new(d)))),
    row("StorageObjectInUseProtection", true, |_, _| Ok(Arc::new(storage::InUseProtection))),
    nothing("PodGroupProtection", true),
    row("OwnerReferencesPermissionEnforcement", false, |d, _| {
        Ok(Arc::new(owner_references::OwnerReferences::new(d)))
    }),
    row("PersistentVolumeClaimResize", true, |d, _| Ok(Arc::new(storage::Resize::new(d)))),
    row("RuntimeClass", true, |d, _| Ok(Arc::new(runtime_class::RuntimeClass::new(d)))),
    row("CertificateApproval", true, |d, _| Ok(Arc::new(certificates::Signers::approval(d)))),
    row("CertificateSigning", true, |d, _| Ok(Arc::new(certificates::Signers::signing(d)))),
    row("ClusterTrustBundleAttest", true, |d, _| Ok(Arc::new(certificates::Attest::new(d)))),
    row("CertificateSubjectRestriction", true, |_, _| Ok(Arc::new(certificates::Subject))),
    row("DefaultIngressClass", true, |d, _| Ok(Arc::new(simple::DefaultIngressClass::new(d)))),
    row("DenyServiceExternalIPs", false, |_, _| Ok(Arc::new(simple::DenyExternalIps))),
    row("PodTopologyLabels", true, |d, _| Ok(Arc::new(simple::TopologyLabels::new(d)))),
    nothing("PodGroupWorkloadExists", true),
    nothing("NodeDeclaredFeatureValidator", true),
    nothing("JobValidation", true),
    row("PodResizeValidator", true, |d, _| Ok(Arc::new(simple::PodResize::new(d)))),
    row("MutatingAdmissionPolicy", true, |d, _| Ok(Arc::new(policy::Mutating::new(d)))),
    row("MutatingAdmissionWebhook", true, |d, _| Ok(Arc::new(webhook::Mutating::new(d)))),
    row("ValidatingAdmissionPolicy", true, |d, _| Ok(Arc::new(policy::Validating::new(d)))),
    row("ValidatingAdmissionWebhook", true, |d, _| Ok(Arc::new(webhook::Validating::new(d)))),
    row("ResourceQuota", true, |d, c| Ok(Arc::new(resource_quota::ResourceQuota::new(d, c)))),
    row("AlwaysDeny", false, |_, _| Ok(Arc::new(simple::AlwaysDeny))),
];

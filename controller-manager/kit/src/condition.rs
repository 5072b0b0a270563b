//! Conditions: set one by type, keeping the transition time while the status stays.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// What the condition types of the API have in common.
pub trait ConditionLike: Clone {
    fn kind(&self) -> &str;
    fn status(&self) -> &str;
    fn reason(&self) -> &str;
    fn message(&self) -> &str;
    fn transition(&mut self) -> &mut Option<Time>;
}

macro_rules! condition_like {
    ($($t:ty),*) => {$(
        impl ConditionLike for $t {
            fn kind(&self) -> &str { &self.type_ }
            fn status(&self) -> &str { &self.status }
            fn reason(&self) -> &str { self.reason.as_deref().unwrap_or_default() }
            fn message(&self) -> &str { self.message.as_deref().unwrap_or_default() }
            fn transition(&mut self) -> &mut Option<Time> { &mut self.last_transition_time }
        }
    )*};
}

condition_like!(
    k8s_openapi::api::apps::v1::DeploymentCondition,
    k8s_openapi::api::apps::v1::ReplicaSetCondition,
    k8s_openapi::api::apps::v1::StatefulSetCondition,
    k8s_openapi::api::apps::v1::DaemonSetCondition,
    k8s_openapi::api::batch::v1::JobCondition,
    k8s_openapi::api::core::v1::PodCondition,
    k8s_openapi::api::core::v1::NodeCondition,
    k8s_openapi::api::core::v1::NamespaceCondition,
    k8s_openapi::api::core::v1::ReplicationControllerCondition,
    k8s_openapi::api::core::v1::PersistentVolumeClaimCondition,
    k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerCondition,
    k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition
);

/// The condition of that type.
pub fn find<'a, C: ConditionLike>(all: &'a Option<Vec<C>>, kind: &str) -> Option<&'a C> {
    all.as_ref()?.iter().find(|c| c.kind() == kind)
}

/// Sets a condition. Nothing changes when status and reason are what they were (and, where `message_counts`,
/// the message too); the transition time stays while the status does. Says whether anything changed.
pub fn set<C: ConditionLike>(all: &mut Option<Vec<C>>, mut new: C, message_counts: bool) -> bool {
    let list = all.get_or_insert_with(Vec::new);
    if let Some(old) = list.iter_mut().find(|c| c.kind() == new.kind()) {
        let same = old.status() == new.status() && old.reason() == new.reason();
        if same && (!message_counts || old.message() == new.message()) {
            return false;
        }
        if old.status() == new.status() {
            *new.transition() = old.transition().clone();
        }
    }
    list.retain(|c| c.kind() != new.kind());
    list.push(new);
    true
}

/// Takes the condition of a type away; says whether it was there.
pub fn remove<C: ConditionLike>(all: &mut Option<Vec<C>>, kind: &str) -> bool {
    let Some(list) = all else { return false };
    let before = list.len();
    list.retain(|c| c.kind() != kind);
    list.len() != before
}

/// Sets a `metav1.Condition` in place, as newer kinds keep them.
pub fn set_meta(all: &mut Option<Vec<Condition>>, new: Condition) -> bool {
    let list = all.get_or_insert_with(Vec::new);
    match list.iter_mut().find(|c| c.type_ == new.type_) {
        None => {
            list.push(new);
            true
        }
        Some(old) => {
            let keep = (old.status == new.status).then(|| old.last_transition_time.clone());
            let next = Condition {
                last_transition_time: keep.unwrap_or_else(|| new.last_transition_time.clone()),
                ..new
            };
            let changed = *old != next;
            *old = next;
            changed
        }
    }
}

//! What daemons need to talk to the API server, on top of kube-rs: a connection whose credentials rotate and whose rate
//! is limited, shared informers, a work queue that never works on a key twice at a time, leader election, events.

mod connect;
pub mod events;
mod informer;
pub mod leader;
mod limit;
mod queue;
mod store;

pub use connect::{ConnectError, Connection, connect, connect_anonymous, from_config};
pub use events::Recorder;
pub use informer::{Event, Informer};
pub use limit::TokenBucket;
pub use queue::{Guard, WorkQueue};
pub use store::{Key, Store};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Resource, ResourceExt};

/// A reference to an object, for events about it.
pub fn object_ref<K>(object: &K) -> ObjectReference
where
    K: Resource,
    K::DynamicType: Default,
{
    let kind = K::DynamicType::default();
    ObjectReference {
        api_version: Some(K::api_version(&kind).into_owned()),
        kind: Some(K::kind(&kind).into_owned()),
        name: Some(object.name_any()),
        namespace: object.namespace(),
        uid: object.uid(),
        resource_version: object.resource_version(),
        field_path: None,
    }
}

/// Whether an error is a 404.
pub fn is_not_found(error: &kube::Error) -> bool {
    has_code(error, 404)
}

/// Whether an error is a 409 of any reason.
pub fn is_conflict(error: &kube::Error) -> bool {
    has_code(error, 409)
}

fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

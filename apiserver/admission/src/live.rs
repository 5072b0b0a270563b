//! Objects from memory or, if memory has not heard of them yet, straight from etcd.

use api::Value;
use api::registry::{GroupResource, Registry};
use api::status::Result;
use std::sync::Arc;

/// A 404 means that the object really is not there.
pub async fn fetch(
    registry: &dyn Registry,
    gr: GroupResource<'_>,
    namespace: &str,
    name: &str,
) -> Result<Arc<Value>> {
    match registry.get(gr, namespace, name) {
        Some(found) => Ok(found),
        None => registry.get_live(gr, namespace, name).await.map(Arc::new),
    }
}

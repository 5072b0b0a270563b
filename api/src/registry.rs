//! The apiserver's view of its own objects, as authorizers, admission plugins and the built-in
//! controllers of the apiserver see it. Reads come from memory and never block.

use crate::Value;
use crate::status::Result;
use std::sync::Arc;

/// `(group, resource)`, e.g. `("", "pods")`; objects have their storage version.
pub type GroupResource<'a> = (&'a str, &'a str);

/// Objects in memory. Cluster-scoped objects have the empty namespace.
pub trait Reader: Send + Sync {
    fn get(&self, gr: GroupResource<'_>, namespace: &str, name: &str) -> Option<Arc<Value>>;
    /// All objects of a resource, of one namespace if one is given.
    fn list(&self, gr: GroupResource<'_>, namespace: Option<&str>) -> Vec<Arc<Value>>;
    /// Objects whose selectable field has that value, e.g. pods by `spec.nodeName`.
    fn list_by_field(&self, gr: GroupResource<'_>, field: &str, value: &str) -> Vec<Arc<Value>>;
    /// Changes whenever any object of the resource changes: compiled state is kept until it does.
    fn revision(&self, gr: GroupResource<'_>) -> i64;
}

/// Reads and writes that pass by authorization and admission, for the apiserver's own needs.
#[async_trait::async_trait]
pub trait Registry: Reader {
    /// Waits until [`Reader`] sees this resource: one that nobody asked for may not be in memory.
    async fn awake(&self, _gr: GroupResource<'_>) {}
    /// Straight from etcd.
    async fn get_live(&self, gr: GroupResource<'_>, namespace: &str, name: &str) -> Result<Value>;
    async fn create(&self, gr: GroupResource<'_>, namespace: &str, object: Value) -> Result<Value>;
    /// Compared on `metadata.resourceVersion` when the object carries one. `subresource` is `""` or e.g. `status`.
    async fn update(&self, gr: GroupResource<'_>, subresource: &str, object: Value) -> Result<Value>;
    async fn delete(&self, gr: GroupResource<'_>, namespace: &str, name: &str) -> Result<()>;
}

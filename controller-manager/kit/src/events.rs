//! Events about objects, under a controller's name.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;

/// Records events; never blocks and never fails the caller. Cloning is cheap.
#[derive(Clone)]
pub struct Events(client::Recorder);

impl Events {
    /// Events of a component.
    pub fn new(client: kube::Client, component: &str) -> Events {
        Events(client::Recorder::new(client, component, ""))
    }

    /// Something went as it should.
    pub fn normal<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, message: impl AsRef<str>) {
        self.about(&client::object_ref(object), "Normal", reason, message);
    }

    /// Something needs a user's attention.
    pub fn warning<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, message: impl AsRef<str>) {
        self.about(&client::object_ref(object), "Warning", reason, message);
    }

    /// An event about an object that is known by reference only.
    pub fn about(&self, object: &ObjectReference, kind: &str, reason: &str, message: impl AsRef<str>) {
        self.0.event(object, kind, reason, message.as_ref());
    }
}

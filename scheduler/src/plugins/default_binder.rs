//! DefaultBinder: binds through the apiserver's `pods/binding`.

use crate::framework::{Bind, Plugin, Status};
use crate::pod_info::PodInfo;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use serde_json::json;

pub const NAME: &str = "DefaultBinder";

pub struct DefaultBinder(pub Client);

impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        NAME
    }
    fn as_bind(&self) -> Option<&dyn Bind> {
        Some(self)
    }
}

#[async_trait]
impl Bind for DefaultBinder {
    async fn bind(&self, pod: &PodInfo, node: &str) -> Status {
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid()},
            "target": {"kind": "Node", "name": node},
        });
        let api: Api<Pod> = Api::namespaced(self.0.clone(), pod.namespace());
        let params = Default::default();
        match api.create_subresource::<_, serde_json::Value>("binding", pod.name(), &params, &binding).await {
            Ok(_) => Status::success(),
            Err(e) => Status::error(e.to_string()),
        }
    }
}

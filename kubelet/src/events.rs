//! Events: what people see under `kubectl describe`.

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};

use crate::pod::{Kind, PodExt};

type Annotations = std::collections::BTreeMap<String, String>;

/// Records events about this node and its pods. Never blocks.
#[derive(Clone)]
pub struct Events {
    recorder: Option<client::Recorder>,
    node_name: String,
}

impl Events {
    /// Events are only logged where there is no apiserver to send them to.
    pub fn new(api: Option<kube::Client>, node_name: &str) -> Self {
        let recorder = api.map(|api| client::Recorder::new(api, "kubelet", node_name));
        Self { recorder, node_name: node_name.to_string() }
    }

    fn send(&self, about: &ObjectReference, kind: &str, reason: &str, message: &str) {
        self.send_with(about, Annotations::new(), kind, reason, message);
    }

    fn send_with(
        &self,
        about: &ObjectReference,
        annotations: Annotations,
        kind: &str,
        reason: &str,
        message: &str,
    ) {
        tracing::info!(target: "event", object = about.name, kind = about.kind, r#type = kind, reason, message, "Event occurred");
        if let Some(recorder) = &self.recorder {
            recorder.annotated_event(about, annotations, kind, reason, message);
        }
    }

    /// About a pod.
    pub fn pod(&self, pod: &Pod, kind: &str, reason: &str, message: &str) {
        self.send(&pod_reference(pod, None), kind, reason, message);
    }

    /// About a pod, with annotations for programs.
    pub fn annotated(&self, pod: &Pod, annotations: Annotations, kind: &str, reason: &str, message: &str) {
        self.send_with(&pod_reference(pod, None), annotations, kind, reason, message);
    }

    /// About a container of a pod.
    pub fn container(&self, pod: &Pod, which: Kind, name: &str, kind: &str, reason: &str, message: &str) {
        let list = match which {
            Kind::Init | Kind::Sidecar => "initContainers",
            Kind::Main => "containers",
            Kind::Ephemeral => "ephemeralContainers",
        };
        let path = format!("spec.{list}{{{name}}}");
        self.send(&pod_reference(pod, Some(path)), kind, reason, message);
    }

    /// About a claim of a pod.
    pub fn claim(&self, claim: &PersistentVolumeClaim, kind: &str, reason: &str, message: &str) {
        let meta = &claim.metadata;
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("PersistentVolumeClaim".into()),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: None,
        };
        self.send(&about, kind, reason, message);
    }

    /// About a persistent volume.
    pub fn volume(&self, volume: &PersistentVolume, kind: &str, reason: &str, message: &str) {
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("PersistentVolume".into()),
            name: volume.metadata.name.clone(),
            uid: volume.metadata.uid.clone(),
            resource_version: volume.metadata.resource_version.clone(),
            ..Default::default()
        };
        self.send(&about, kind, reason, message);
    }

    /// About this node.
    pub fn node(&self, kind: &str, reason: &str, message: &str) {
        let about = ObjectReference {
            kind: Some("Node".into()),
            name: Some(self.node_name.clone()),
            // Upstream uses the name; `kubectl describe node` looks for that.
            uid: Some(self.node_name.clone()),
            ..Default::default()
        };
        self.send(&about, kind, reason, message);
    }
}

fn pod_reference(pod: &Pod, field_path: Option<String>) -> ObjectReference {
    // Events of a static pod belong to its mirror, which carries the static pod's hash.
    let uid = pod.annotation(crate::pod::MIRROR_ANNOTATION).unwrap_or(pod.uid());
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(pod.namespace().into()),
        name: Some(pod.name().into()),
        uid: Some(uid.into()),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}

//! The objects that the load is made of.

use serde_json::{Value, json};

use crate::args::LoadArgs;

/// Of every so many pods one has the label that a selector looks for.
pub const APPS: usize = 100;

/// Names and bodies of the pods.
pub struct Pods {
    args: LoadArgs,
    template: Value,
}

impl Pods {
    pub fn new(args: LoadArgs) -> Pods {
        let mut pods = Pods { template: template(), args };
        let bare = pods.body(0).len();
        if let Some(missing) = pods.args.object_bytes.checked_sub(bare).filter(|m| *m > 0) {
            // Odd words rather than one letter, so that compression has something to do.
            let padding: String = (0..missing).map(|i| char::from(b'a' + (i * i % 23) as u8)).collect();
            pods.template["metadata"]["annotations"]["bench/description"] = padding.into();
        }
        pods
    }

    pub fn namespace(&self, i: usize) -> String {
        format!("{}-{}", self.args.prefix, i % self.args.namespaces.max(1))
    }

    pub fn name(&self, i: usize) -> String {
        format!("web-{}-7d9c5b8f4-{i:06}", i % APPS)
    }

    /// The path of the collection that the pod is in.
    pub fn collection(&self, i: usize) -> String {
        format!("/api/v1/namespaces/{}/pods", self.namespace(i))
    }

    pub fn path(&self, i: usize) -> String {
        format!("{}/{}", self.collection(i), self.name(i))
    }

    pub fn app(i: usize) -> String {
        format!("web-{}", i % APPS)
    }

    pub fn node(i: usize, nodes: usize) -> String {
        format!("bench-node-{}", (i / 7) % nodes.max(1))
    }

    /// A pod of the usual size under another name.
    pub fn named(&self, name: &str) -> String {
        let mut pod = self.template.clone();
        pod["metadata"]["name"] = name.into();
        pod["metadata"]["labels"]["app"] = "watched".into();
        pod.to_string()
    }

    pub fn body(&self, i: usize) -> Vec<u8> {
        let mut pod = self.template.clone();
        let app = Pods::app(i);
        pod["metadata"]["name"] = self.name(i).into();
        pod["metadata"]["labels"]["app"] = app.into();
        if self.args.nodes > 0 {
            pod["spec"]["nodeName"] = Pods::node(i, self.args.nodes).into();
        }
        pod.to_string().into_bytes()
    }
}

/// A pod as a Deployment would make it. No scheduler and no kubelet takes it up.
fn template() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "",
            "labels": {"app": "", "pod-template-hash": "7d9c5b8f4", "tier": "frontend", "version": "v1.2.3"},
            "annotations": {"bench/description": ""},
        },
        "spec": {
            "schedulerName": "bench",
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "web",
                "image": "example.invalid/shop/web:1.2.3",
                "args": ["--port=8080", "--log-level=info"],
                "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                "env": [
                    {"name": "REGION", "value": "eu-central-1"},
                    {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                ],
                "resources": {
                    "requests": {"cpu": "100m", "memory": "128Mi"},
                    "limits": {"cpu": "500m", "memory": "256Mi"},
                },
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 5},
                "volumeMounts": [{"name": "config", "mountPath": "/etc/web"}],
            }],
            "volumes": [{"name": "config", "configMap": {"name": "web-config"}}],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn pods_have_the_wanted_size() {
        let args = crate::args::Args::parse_from(["bench", "--object-bytes", "2000", "create"]);
        let pods = Pods::new(args.load);
        for i in [0, 50, 999] {
            assert!((1990..=2010).contains(&pods.body(i).len()), "{}", pods.body(i).len());
        }
        assert_ne!(pods.path(1), pods.path(2));
    }
}

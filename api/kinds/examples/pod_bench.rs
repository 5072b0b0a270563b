//! How long a pod takes from decoded to stored: `cargo run --release -p kinds --example pod_bench`.

use api::json;
use kinds::{Context, Operation, metadata};
use std::hint::black_box;
use std::time::Instant;

const ROUNDS: u32 = 20_000;

fn timed(what: &str, mut f: impl FnMut()) {
    let start = Instant::now();
    for _ in 0..ROUNDS {
        f();
    }
    println!("{what}: {:?}", start.elapsed() / ROUNDS);
}

fn main() {
    let container = |name: &str| {
        json!({
            "name": name, "image": "registry.example.com/app:v1",
            "command": ["/bin/app"], "args": ["--port=8080"],
            "ports": [{"name": "http", "containerPort": 8080}],
            "env": [{"name": "A", "value": "b"}, {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
            "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http"}},
            "volumeMounts": [{"name": "config", "mountPath": "/etc/app"}],
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        })
    };
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "app-5d4f8c7b9-x2x7z", "namespace": "default", "labels": {"app": "app", "pod-template-hash": "5d4f8c7b9"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "app-5d4f8c7b9", "uid": "u", "controller": true}],
        },
        "spec": {
            "containers": [container("app"), container("sidecar")],
            "volumes": [{"name": "config", "configMap": {"name": "app"}}],
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
        },
    });
    let room = kinds::room("", "v1", "Pod");
    let cx = Context::default();
    timed("clone", || {
        black_box(pod.clone());
    });
    timed("clone and defaults", || {
        let mut p = pod.clone();
        room.defaults(&mut p);
        black_box(p);
    });
    let mut ready = pod.clone();
    room.defaults(&mut ready);
    timed("clone and prepare", || {
        let mut p = ready.clone();
        metadata::prepare(Operation::Create, &mut p, None);
        room.prepare(Operation::Create, &cx, &mut p, None);
        black_box(p);
    });
    room.prepare(Operation::Create, &cx, &mut ready, None);
    timed("metadata", || {
        black_box(metadata::validate(room, &Context::default(), true, &ready, None));
    });
    let errors = room.validate(&cx, &ready, None);
    assert!(errors.is_empty(), "{errors:?}");
    timed("validate a new one", || {
        black_box(room.validate(&cx, &ready, None));
    });
    timed("validate an update", || {
        black_box(room.validate(&cx, &ready, Some(&ready)));
    });
    timed("row", || {
        black_box(room.row(&ready));
    });
}

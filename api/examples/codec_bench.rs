//! Prints how fast the codec is, on a pod of the size that clusters have.
//! Run with `cargo run --release -p api --example codec_bench`.

use api::{GroupVersionKind, Value, decode, json, protobuf, schema};
use std::hint::black_box;
use std::time::Instant;

fn pod() -> Value {
    let container = |name: &str| {
        json!({"name": name, "image": "registry.example/team/app:v1.2.3", "imagePullPolicy": "IfNotPresent",
            "env": [{"name": "A", "value": "1"}, {"name": "NODE", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}}}],
            "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
            "resources": {"limits": {"cpu": "500m", "memory": "128Mi"}, "requests": {"cpu": "100m", "memory": "64Mi"}},
            "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10},
            "volumeMounts": [{"name": "kube-api-access-abcde", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"})
    };
    json!({"metadata": {"name": "web-6d4cf56db6-abcde", "generateName": "web-6d4cf56db6-", "namespace": "default",
            "uid": "4b0e4f6a-1111-2222-3333-444455556666", "creationTimestamp": "2024-01-01T00:00:00Z",
            "labels": {"app": "web", "pod-template-hash": "6d4cf56db6"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6d4cf56db6", "uid": "x", "controller": true}],
            "managedFields": [{"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1", "time": "2024-01-01T00:00:00Z",
                "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}, "f:name": {}}}}}}]},
        "spec": {"containers": [container("web"), container("sidecar")], "nodeName": "node-17", "restartPolicy": "Always",
            "serviceAccountName": "default", "schedulerName": "default-scheduler", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]},
        "status": {"phase": "Running", "podIP": "10.244.1.7", "hostIP": "192.0.2.17", "startTime": "2024-01-01T00:00:01Z",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2024-01-01T00:00:09Z"}]}})
}

fn measure(name: &str, bytes: usize, mut step: impl FnMut()) {
    const ROUNDS: u32 = 20_000;
    let start = Instant::now();
    (0..ROUNDS).for_each(|_| step());
    let each = start.elapsed() / ROUNDS;
    println!("{name:24} {each:>10.2?}  {:>7.0} MB/s", bytes as f64 / each.as_secs_f64() / 1e6);
}

fn main() {
    let start = Instant::now();
    let gvk = GroupVersionKind::new("", "v1", "Pod");
    let Some(message) = schema::for_kind(&gvk) else { return };
    println!("field table              {:>10.2?}", start.elapsed());
    let start = Instant::now();
    black_box(api::resources::Table::defaults());
    println!("resource table           {:>10.2?}", start.elapsed());

    let value = pod();
    let raw = protobuf::encode(message, &value).unwrap_or_default();
    let mut text = Vec::new();
    let _ = protobuf::to_json(message, Some(&gvk), Some("1"), &raw, &mut text);
    println!("pod: {} bytes protobuf, {} bytes JSON", raw.len(), text.len());
    let mut out = Vec::with_capacity(text.len());
    measure("protobuf to JSON text", text.len(), || {
        out.clear();
        let _ = black_box(protobuf::to_json(message, Some(&gvk), Some("1"), &raw, &mut out));
    });
    measure("protobuf to tree", text.len(), || {
        drop(black_box(protobuf::to_value(message, Some(&gvk), &raw)))
    });
    measure("tree to protobuf", raw.len(), || drop(black_box(protobuf::encode(message, &value))));
    measure("decode JSON body", text.len(), || {
        drop(black_box(decode::decode(decode::Format::Json, &text, Some(&gvk))));
    });
    measure("set resource version", raw.len(), || {
        drop(black_box(protobuf::set_resource_version(&raw, "123456")))
    });
    measure("peek metadata", raw.len(), || drop(black_box(protobuf::peek::meta(&raw))));
}

//! Pods that are accepted and pods that are refused, each with the one error that it is refused for.

use crate::value::Put;
use crate::{Context, Operation, Room, pod::ROOM};
use api::{Value, json};

fn valid() -> Value {
    let mut p = json!({"metadata": {"name": "p", "namespace": "ns"},
        "spec": {"containers": [{"name": "a", "image": "b"}]}});
    ROOM.defaults(&mut p);
    p
}

/// The valid pod with other values at JSON pointers; parents are made as needed.
fn with(changes: &[(&str, Value)]) -> Value {
    let mut p = valid();
    for (path, value) in changes {
        change(&mut p, path, value.clone());
    }
    ROOM.defaults(&mut p);
    p
}

fn change(object: &mut Value, path: &str, value: Value) {
    let mut at = object;
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        match part.parse::<usize>() {
            Ok(i) if parts.peek().is_none() => at[i] = value.clone(),
            Ok(i) => at = &mut at[i],
            Err(_) if parts.peek().is_none() => at.set(part, value.clone()),
            Err(_) => {
                at.fill(part, json!({}));
                at = at.sub(part).unwrap();
            }
        }
    }
}

fn errors(subresource: &str, new: &Value, old: Option<&Value>) -> Vec<String> {
    let cx = Context { subresource, ..Context::default() };
    ROOM.validate(&cx, new, old).iter().map(|e| format!("{}: {}", e.kind.reason(), e)).collect()
}

#[test]
fn accepted() {
    for changes in [
        vec![],
        vec![(
            "spec.containers.0.env",
            json!([{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['x']"}}}]),
        )],
        vec![(
            "spec.containers.0.env",
            json!([{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}}]),
        )],
        vec![("spec.containers.0.resources", json!({"limits": {"cpu": "1", "example.com/gpu": "2"}}))],
        vec![
            ("spec.volumes", json!([{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}])),
            ("spec.containers.0.volumeMounts", json!([{"name": "v", "mountPath": "/x", "subPath": "a/b"}])),
        ],
        vec![(
            "spec.tolerations",
            json!([{"operator": "Exists"}, {"key": "a", "effect": "NoExecute", "tolerationSeconds": 3}]),
        )],
        vec![(
            "spec.initContainers",
            json!([{"name": "i", "image": "x", "restartPolicy": "Always", "readinessProbe": {"tcpSocket": {"port": 80}}}]),
        )],
        vec![(
            "spec.volumes",
            json!([{"name": "t", "ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}}]),
        )],
        vec![(
            "spec.securityContext",
            json!({"runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}, "sysctls": [{"name": "net.ipv4.ip_forward", "value": "1"}]}),
        )],
        vec![(
            "spec.topologySpreadConstraints",
            json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}]),
        )],
        vec![
            ("spec.dnsPolicy", json!("None")),
            ("spec.dnsConfig", json!({"nameservers": ["1.1.1.1"], "searches": ["a.b", "."]})),
        ],
    ] {
        let got = errors("", &with(&changes), None);
        assert!(got.is_empty(), "{changes:?}: {got:?}");
    }
}

#[test]
fn refused() {
    let c = "spec.containers.0.";
    let at = |field: &str| format!("{c}{field}");
    let cases: Vec<(String, Value, &str)> = vec![
        ("spec.containers".into(), json!([]), "FieldValueRequired: spec.containers: Required value"),
        (
            at("name"),
            json!("A"),
            "FieldValueInvalid: spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label",
        ),
        (at("image"), json!(""), "FieldValueRequired: spec.containers[0].image: Required value"),
        (
            at("image"),
            json!(" b"),
            "FieldValueInvalid: spec.containers[0].image: Invalid value: \" b\": must not have leading or trailing whitespace",
        ),
        (
            at("imagePullPolicy"),
            json!("Sometimes"),
            "FieldValueNotSupported: spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (
            at("ports"),
            json!([{"containerPort": 70000}]),
            "FieldValueInvalid: spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            at("ports"),
            json!([{"containerPort": 1, "hostPort": 5}, {"containerPort": 2, "hostPort": 5}]),
            "FieldValueDuplicate: spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//5\"",
        ),
        (
            at("env"),
            json!([{"name": "a=b"}]),
            "FieldValueInvalid: spec.containers[0].env[0].name: Invalid value: \"a=b\": a valid environment variable name",
        ),
        (
            at("env"),
            json!([{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}}]),
            "FieldValueNotSupported: spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"status.phase\"",
        ),
        (
            at("env"),
            json!([{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]),
            "FieldValueInvalid: spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.x\": error converting fieldPath: field label not supported: spec.x",
        ),
        (
            at("volumeMounts"),
            json!([{"name": "v", "mountPath": "/"}]),
            "FieldValueNotFound: spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            at("resources"),
            json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
            "FieldValueInvalid: spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            at("resources"),
            json!({"limits": {"pods": "1"}}),
            "FieldValueInvalid: spec.containers[0].resources.limits[pods]: Invalid value: \"pods\": must be a standard resource for containers",
        ),
        (
            at("resources"),
            json!({"limits": {"cpu": "-1"}, "requests": {"cpu": "-1"}}),
            "FieldValueInvalid: spec.containers[0].resources.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        (
            at("livenessProbe"),
            json!({"httpGet": {"port": 80}, "successThreshold": 2}),
            "FieldValueInvalid: spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            at("livenessProbe"),
            json!({}),
            "FieldValueRequired: spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            at("lifecycle"),
            json!({"preStop": {"sleep": {"seconds": 60}}}),
            "FieldValueInvalid: spec.containers[0].lifecycle.preStop.sleep: Invalid value: 60: must be non-negative and less than terminationGracePeriodSeconds (30)",
        ),
        (
            at("securityContext"),
            json!({"runAsUser": -1}),
            "FieldValueInvalid: spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ),
        (
            at("securityContext"),
            json!({"procMount": "Unmasked"}),
            "FieldValueInvalid: spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false",
        ),
        (
            "spec.initContainers".into(),
            json!([{"name": "a", "image": "x"}]),
            "FieldValueDuplicate: spec.initContainers[0].name: Duplicate value: \"a\"",
        ),
        (
            "spec.initContainers".into(),
            json!([{"name": "i", "image": "x", "livenessProbe": {"exec": {"command": ["x"]}}}]),
            "FieldValueForbidden: spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ),
        (
            "spec.volumes".into(),
            json!([{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]),
            "FieldValueForbidden: spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        ),
        (
            "spec.volumes".into(),
            json!([{"name": "v", "hostPath": {"path": "/a/.."}}]),
            "FieldValueInvalid: spec.volumes[0].hostPath.path: Invalid value: \"/a/..\": must not contain '..'",
        ),
        (
            "spec.volumes".into(),
            json!([{"name": "v", "configMap": {"name": "c", "items": [{"key": "k", "path": "/abs"}]}}]),
            "FieldValueInvalid: spec.volumes[0].configMap.items[0].path: Invalid value: \"/abs\": must be a relative path",
        ),
        (
            "spec.volumes".into(),
            json!([{"name": "v", "secret": {"secretName": "s", "defaultMode": 1000}}]),
            "FieldValueInvalid: spec.volumes[0].secret.defaultMode: Invalid value: 1000: must be a number between 0 and 0777",
        ),
        (
            "spec.volumes".into(),
            json!([{"name": "v"}, {"name": "v"}]),
            "FieldValueDuplicate: spec.volumes[1].name: Duplicate value: \"v\"",
        ),
        (
            "spec.restartPolicy".into(),
            json!("Maybe"),
            "FieldValueNotSupported: spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            "spec.volumes".into(),
            json!([{"name": "v", "secret": {"secretName": "s"}, "downwardAPI": {}}]),
            "FieldValueForbidden: spec.volumes[0].downwarAPI: Forbidden: may not specify more than 1 volume type",
        ),
        (
            "spec.volumes".into(),
            json!([{"name": "v", "quobyte": {"registry": "r", "volume": "v"}}]),
            "FieldValueInvalid: spec.volumes[0].quobyte.registry: Invalid value: \"r\": must be a host:port pair",
        ),
        (
            "spec.securityContext".into(),
            json!({"windowsOptions": {"hostProcess": true}}),
            "FieldValueInvalid: spec.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any hostProcess",
        ),
        (
            "spec.securityContext".into(),
            json!({"windowsOptions": {"runAsUserName": "a/b"}}),
            "FieldValueInvalid: spec.securityContext.windowsOptions.runAsUserName: Invalid value: \"a/b\": runAsUserName's User cannot contain",
        ),
        (
            "spec.securityContext".into(),
            json!({"seLinuxChangePolicy": "MountOption"}),
            "FieldValueNotSupported: spec.securityContext.seLinuxChangePolicy: Unsupported value: \"MountOption\": supported values: \"Recursive\"",
        ),
        (
            "spec.securityContext".into(),
            json!({"seccompProfile": {"type": "Unconfined", "localhostProfile": "x"}}),
            "FieldValueInvalid: spec.securityContext.seccompProfile.localhostProfile: Invalid value: {\"Type\":\"Unconfined\",\"LocalhostProfile\":\"x\"}: can only be set",
        ),
        (
            "spec.resourceClaims".into(),
            json!([{"name": "c"}]),
            "FieldValueInvalid: spec.resourceClaims[0]: Invalid value: {\"Name\":\"c\",\"ResourceClaimName\":null,\"ResourceClaimTemplateName\":null}: must specify one of",
        ),
        (
            "spec.initContainers".into(),
            json!([{"name": "i", "image": "x", "restartPolicyRules": [{"action": "Restart"}]}]),
            "FieldValueRequired: spec.initContainers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
        ),
        (
            "spec.dnsPolicy".into(),
            json!("None"),
            "FieldValueRequired: spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
        ),
        (
            "spec.activeDeadlineSeconds".into(),
            json!(0),
            "FieldValueInvalid: spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
        ),
        (
            "spec.tolerations".into(),
            json!([{"key": "a", "tolerationSeconds": 1}]),
            "FieldValueInvalid: spec.tolerations[0].effect: Invalid value: \"\": effect must be 'NoExecute'",
        ),
        (
            "spec.affinity".into(),
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}),
            "FieldValueRequired: spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one",
        ),
        (
            "spec.nodeSelector".into(),
            json!({"a b": "x"}),
            "FieldValueInvalid: spec.nodeSelector: Invalid value: \"a b\": name part",
        ),
        (
            "spec.hostname".into(),
            json!("a.b"),
            "FieldValueInvalid: spec.hostname: Invalid value: \"a.b\": must not contain dots",
        ),
        (
            "spec.ephemeralContainers".into(),
            json!([{"name": "e", "image": "x"}]),
            "FieldValueForbidden: spec.ephemeralContainers: Forbidden: cannot be set on create",
        ),
        (
            "spec.hostAliases".into(),
            json!([{"ip": "x"}]),
            "FieldValueInvalid: spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address",
        ),
        (
            "spec.os".into(),
            json!({"name": "plan9"}),
            "FieldValueNotSupported: spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\"",
        ),
        (
            "metadata.annotations".into(),
            json!({"controller.kubernetes.io/pod-deletion-cost": "x"}),
            "FieldValueInvalid: metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"x\": must be a 32bit integer",
        ),
    ];
    for (path, value, want) in cases {
        let got = errors("", &with(&[(path.as_str(), value)]), None);
        assert!(
            got.first().is_some_and(|g| g.starts_with(want)),
            "{path}: {got:#?} should start with {want}"
        );
    }
}

#[test]
fn updates() {
    let old =
        with(&[("spec.tolerations", json!([{"key": "a", "effect": "NoExecute", "tolerationSeconds": 5}]))]);
    for (path, value, want) in [
        ("spec.containers.0.image", json!("c"), None),
        ("spec.activeDeadlineSeconds", json!(5), None),
        (
            "spec.tolerations",
            json!([{"key": "a", "effect": "NoExecute", "tolerationSeconds": 9}, {"key": "b"}]),
            None,
        ),
        (
            "spec.tolerations",
            json!([]),
            Some("FieldValueForbidden: spec.tolerations: Forbidden: existing toleration"),
        ),
        (
            "spec.containers.0.env",
            json!([{"name": "A"}]),
            Some(
                "FieldValueForbidden: spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,",
            ),
        ),
        ("spec.containers", json!([]), Some("FieldValueRequired: spec.containers: Required value")),
        (
            "spec.schedulingGates",
            json!([{"name": "g"}]),
            Some(
                "FieldValueForbidden: spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'",
            ),
        ),
        (
            "metadata.annotations",
            json!({"kubernetes.io/config.mirror": "x"}),
            Some("FieldValueInvalid: metadata.annotations[kubernetes.io/config.mirror]"),
        ),
    ] {
        let mut new = old.clone();
        change(&mut new, path, value);
        ROOM.defaults(&mut new);
        let got = errors("", &new, Some(&old));
        match want {
            None => assert!(got.is_empty(), "{path}: {got:?}"),
            Some(want) => assert!(got.first().is_some_and(|g| g.starts_with(want)), "{path}: {got:?}"),
        }
    }
}

#[test]
fn subresources() {
    let mut old = with(&[("spec.containers.0.resources", json!({"requests": {"cpu": "1"}}))]);
    ROOM.prepare(Operation::Create, &Context::default(), &mut old, None);

    let mut new = old.clone();
    change(&mut new, "spec.containers.0.resources", json!({"requests": {"cpu": "2"}}));
    assert!(errors("resize", &new, Some(&old)).is_empty());
    change(
        &mut new,
        "spec.containers.0.resources",
        json!({"requests": {"cpu": "2", "memory": "1"}, "limits": {"cpu": "2", "memory": "1"}}),
    );
    assert!(errors("resize", &new, Some(&old))[0].contains("Pod QOS Class may not change"));

    let mut new = old.clone();
    change(&mut new, "spec.ephemeralContainers", json!([{"name": "e", "image": "x"}]));
    ROOM.defaults(&mut new);
    new["spec"]["ephemeralContainers"][0].unset("resources");
    assert!(errors("ephemeralcontainers", &new, Some(&old)).is_empty());
    assert!(
        errors("ephemeralcontainers", &old, Some(&new))[0]
            .contains("existing ephemeral containers \"e\" may not be removed")
    );

    let mut new = old.clone();
    change(&mut new, "status.podIPs", json!([{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]));
    assert!(
        errors("status", &new, Some(&old))[0].contains("may specify no more than one IP for each IP family")
    );
    let mut ended = with(&[("spec.restartPolicy", json!("Never"))]);
    ROOM.prepare(Operation::Create, &Context::default(), &mut ended, None);
    let mut alive = ended.clone();
    change(
        &mut ended,
        "status.containerStatuses",
        json!([{"name": "a", "state": {"terminated": {"exitCode": 1}}}]),
    );
    change(&mut alive, "status.containerStatuses", json!([{"name": "a", "state": {"running": {}}}]));
    assert!(
        errors("status", &alive, Some(&ended))[0].contains("may not be transitioned to non-terminated state")
    );
}

#[test]
fn a_pod_is_checked_quickly() {
    let p = with(&[]);
    let started = std::time::Instant::now();
    for _ in 0..1000 {
        assert!(errors("", &p, None).is_empty());
    }
    // Unoptimized builds are an order of magnitude slower than released ones.
    assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
}

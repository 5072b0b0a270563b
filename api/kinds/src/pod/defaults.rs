//! Defaults of pods and of everything that has a pod template.

use crate::value::{Get, Put};
use api::{Value, json};

/// A pod: its spec, and what only pods (not templates) default.
pub fn pod(pod: &mut Value) {
    no_old_init_containers(pod);
    if let Some(spec) = pod.sub("spec") {
        self::spec(spec);
        grace_at_least_one(spec);
        for list in ["containers", "initContainers"] {
            spec.items(list).for_each(requests_from_limits);
        }
        pod_level_resources(spec);
        spec.fill("enableServiceLinks", true);
        if spec.flag("hostNetwork") {
            for list in ["containers", "initContainers"] {
                spec.items(list).for_each(host_ports);
            }
        }
    }
    if let Some(status) = pod.sub("status") {
        sync_pod_ips(status);
        sync_ips(status, "hostIP", "hostIPs");
    }
}

/// The pod template under `spec.template` or wherever it stands.
pub fn template(template: &mut Value) {
    no_old_init_containers(template);
    if let Some(s) = template.sub("spec") {
        spec(s);
    }
}

/// The single address is what counts, as kubelets that know no other write it.
fn sync_pod_ips(status: &mut Value) {
    let one = status.text("podIP").to_owned();
    let first = status.list("podIPs").first().map(|v| v.text("ip").to_owned());
    match first {
        Some(first) if one.is_empty() => status.set("podIP", first),
        Some(first) if first == one => {}
        _ if one.is_empty() => {}
        _ => status.set("podIPs", json!([{ "ip": one }])),
    }
}

/// The list starts with the single address where nobody wrote a list.
fn sync_ips(status: &mut Value, one: &str, many: &str) {
    let single = status.text(one).to_owned();
    let first = status.list(many).first().map(|v| v.text("ip").to_owned());
    match first {
        None if !single.is_empty() => status.set(many, json!([{ "ip": single }])),
        _ => {}
    }
}

fn spec(spec: &mut Value) {
    spec.fill_zero("dnsPolicy", "ClusterFirst");
    spec.fill_zero("restartPolicy", "Always");
    spec.ensure("securityContext");
    spec.fill("terminationGracePeriodSeconds", 30);
    spec.fill_zero("schedulerName", "default-scheduler");
    service_account(spec);
    spec.items("volumes").for_each(volume);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        spec.items(list).for_each(container);
    }
    if let Some(r) = spec.sub("resources") {
        resource_requirements(r);
    }
}

/// Annotations that once held init containers would mislead clients that still look at them.
fn no_old_init_containers(pod: &mut Value) {
    let Some(annotations) = pod.sub("metadata").and_then(|m| m.sub("annotations")) else { return };
    for version in ["alpha", "beta"] {
        for what in ["init-containers", "init-container-statuses"] {
            annotations.unset(&format!("pod.{version}.kubernetes.io/{what}"));
        }
    }
}

/// Less than nothing was once a way to say at once.
fn grace_at_least_one(spec: &mut Value) {
    if spec.int("terminationGracePeriodSeconds") < 0 {
        spec.set("terminationGracePeriodSeconds", 1);
    }
}

/// The old and the new name of the field carry the same.
fn service_account(spec: &mut Value) {
    let name = match spec.text("serviceAccountName") {
        "" => spec.text("serviceAccount").to_owned(),
        name => name.to_owned(),
    };
    if !name.is_empty() {
        spec.set("serviceAccountName", name.clone());
        spec.set("serviceAccount", name);
    } else {
        spec.unset("serviceAccount");
    }
}

fn container(c: &mut Value) {
    if c.text("imagePullPolicy").is_empty() {
        c.set("imagePullPolicy", pull_policy(c.text("image")));
    }
    c.fill_zero("terminationMessagePath", "/dev/termination-log");
    c.fill_zero("terminationMessagePolicy", "File");
    for port in c.items("ports") {
        port.fill_zero("protocol", "TCP");
    }
    for env in c.items("env") {
        if let Some(from) = env.sub("valueFrom") {
            if let Some(field) = from.sub("fieldRef") {
                field.fill_zero("apiVersion", "v1");
            }
            if let Some(file) = from.sub("fileKeyRef") {
                file.fill("optional", false);
            }
        }
    }
    resource_requirements(c.ensure("resources"));
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(p) = c.sub(name) {
            probe(p);
        }
    }
    if let Some(lifecycle) = c.sub("lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(get) = lifecycle.sub(hook).and_then(|h| h.sub("httpGet")) {
                http_get(get);
            }
        }
    }
}

/// Quantities are kept in thousandths at least.
pub fn resource_requirements(r: &mut Value) {
    for list in ["limits", "requests"] {
        if let Some(map) = r.sub(list) {
            resource_list(map);
        }
    }
}

/// Amounts below a thousandth round up to one.
pub fn resource_list(map: &mut Value) {
    let Some(map) = map.as_object_mut() else { return };
    for quantity in map.values_mut() {
        let Some(text) = quantity.as_str() else { continue };
        if !text.ends_with(['n', 'u']) && !text.contains('.') {
            continue;
        }
        if let Some(amount) = crate::value::amount(text)
            && amount % 1_000_000 != 0
        {
            let milli = amount.div_euclid(1_000_000) + 1;
            *quantity = format!("{milli}m").into();
        }
    }
}

fn probe(p: &mut Value) {
    for (field, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        p.fill_zero(field, value);
    }
    if let Some(get) = p.sub("httpGet") {
        http_get(get);
    }
    if let Some(grpc) = p.sub("grpc") {
        grpc.fill("service", "");
    }
}

fn http_get(get: &mut Value) {
    get.fill_zero("path", "/");
    get.fill_zero("scheme", "HTTP");
}

/// `Always` for an image without a tag or tagged latest, unless a digest pins it.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let (repository, tag) = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (name, None),
    };
    let latest = tag.map_or(digest.is_none(), |t| t == "latest");
    if latest && is_repository(repository) { "Always" } else { "IfNotPresent" }
}

/// Whether the name of a repository is one, with a host before it or without.
fn is_repository(name: &str) -> bool {
    let is_host = |h: &str| h.contains(['.', ':']) || h == "localhost" || h.contains(char::is_uppercase);
    let (path, full) = match name.split_once('/').filter(|(host, _)| is_host(host)) {
        Some((_, path)) => (path, name.len()),
        // What has no host is found at a well-known one, in its `library` if it has no folder either.
        None => (name, name.len() + "docker.io/".len() + if name.contains('/') { 0 } else { 8 }),
    };
    let is_hash = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase());
    full <= 255 && !is_hash && path.split('/').all(is_component)
}

/// Lower case letters and digits, with single separators between them.
fn is_component(part: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = |b: Option<u8>| b.is_some_and(word);
    let separated = !part.contains("..") && !part.contains("___");
    ends(part.bytes().next())
        && ends(part.bytes().next_back())
        && separated
        && part.bytes().all(|b| word(b) || matches!(b, b'.' | b'_' | b'-'))
        && !["._", "_.", "-.", ".-", "_-", "-_"].iter().any(|mixed| part.contains(mixed))
}

fn volume(v: &mut Value) {
    let Some(map) = v.as_object() else { return };
    let has_source = map.iter().any(|(k, v)| k != "name" && !v.is_null());
    if !has_source {
        v.set("emptyDir", json!({}));
        return;
    }
    for (source, mode_items) in [("secret", false), ("configMap", false), ("downwardAPI", true)] {
        if let Some(s) = v.sub(source) {
            s.fill("defaultMode", 420);
            if mode_items {
                s.items("items").for_each(downward_item);
            }
        }
    }
    if let Some(p) = v.sub("projected") {
        projected(p);
    }
    if let Some(i) = v.sub("image") {
        let policy = pull_policy(i.text("reference"));
        i.fill_zero("pullPolicy", policy);
    }
    if let Some(spec) =
        v.sub("ephemeral").and_then(|e| e.sub("volumeClaimTemplate")).and_then(|t| t.sub("spec"))
    {
        claim_spec(spec);
    }
    volume_source(v);
}

fn projected(p: &mut Value) {
    p.fill("defaultMode", 420);
    for source in p.items("sources") {
        if let Some(d) = source.sub("downwardAPI") {
            d.items("items").for_each(downward_item);
        }
        if let Some(token) = source.sub("serviceAccountToken") {
            token.fill("expirationSeconds", 3600);
        }
    }
}

fn downward_item(item: &mut Value) {
    if let Some(field) = item.sub("fieldRef") {
        field.fill_zero("apiVersion", "v1");
    }
}

/// Sources that pods and persistent volumes share.
pub fn volume_source(v: &mut Value) {
    if let Some(h) = v.sub("hostPath") {
        h.fill("type", "");
    }
    if let Some(i) = v.sub("iscsi") {
        i.fill_zero("iscsiInterface", "default");
    }
    if let Some(r) = v.sub("rbd") {
        r.fill_zero("pool", "rbd");
        r.fill_zero("user", "admin");
        r.fill_zero("keyring", "/etc/ceph/keyring");
    }
    if let Some(a) = v.sub("azureDisk") {
        a.fill("cachingMode", "ReadWrite");
        a.fill("fsType", "ext4");
        a.fill("readOnly", false);
        a.fill("kind", "Shared");
    }
    if let Some(s) = v.sub("scaleIO") {
        s.fill_zero("storageMode", "ThinProvisioned");
        s.fill_zero("fsType", "xfs");
    }
}

/// The spec of a claim, also in templates of claims.
pub fn claim_spec(spec: &mut Value) {
    spec.fill("volumeMode", "Filesystem");
    if let Some(r) = spec.sub("resources") {
        resource_requirements(r);
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(resources) = container.sub("resources") else { return };
    if !resources.has("limits") {
        return;
    }
    let limits = resources.at("limits").clone();
    let requests = resources.ensure("requests");
    for (name, quantity) in limits.as_object().into_iter().flatten() {
        requests.fill(name, quantity.clone());
    }
}

fn host_ports(container: &mut Value) {
    for port in container.items("ports") {
        let number = port.int("containerPort");
        port.fill_zero("hostPort", number);
    }
}

/// Requests of the whole pod come from its containers, else from its limits.
fn pod_level_resources(spec: &mut Value) {
    if !spec.has("resources") {
        return;
    }
    let huge = crate::pods::aggregate(spec, "limits");
    let requested = crate::pods::aggregate(spec, "requests");
    let Some(resources) = spec.sub("resources") else { return };
    if resources.len("limits") == 0 && resources.len("requests") == 0 {
        return;
    }
    for (name, quantity) in huge.iter().filter(|(n, _)| n.starts_with("hugepages-")) {
        if !resources.at("requests").has(name) {
            resources.ensure("limits").fill(name, quantity.as_str());
        }
    }
    if resources.len("limits") == 0 {
        return;
    }
    let limits = resources.at("limits").clone();
    for (name, quantity) in requested.iter().filter(|(n, _)| matches!(n.as_str(), "cpu" | "memory")) {
        resources.ensure("requests").fill(name, quantity.as_str());
    }
    for (name, quantity) in limits.as_object().into_iter().flatten() {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
            resources.ensure("requests").fill(name, quantity.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        for (image, want) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1", "IfNotPresent"),
            ("host:5000/nginx", "Always"),
            ("nginx@sha256:abc", "IfNotPresent"),
            ("Nginx", "IfNotPresent"),
            ("-x", "IfNotPresent"),
            ("Host/a__b/c--d", "Always"),
        ] {
            assert_eq!(pull_policy(image), want, "{image}");
        }
    }

    #[test]
    fn a_pod_is_filled_and_filling_again_changes_nothing() {
        let mut p = json!({"spec": {
            "containers": [{"name": "a", "image": "b", "ports": [{"containerPort": 80}],
                "livenessProbe": {"httpGet": {"port": 80}}, "resources": {"limits": {"cpu": "1.0005"}}}],
            "volumes": [{"name": "e"}, {"name": "h", "hostPath": {"path": "/"}}, {"name": "s", "secret": {"secretName": "x"}}],
            "serviceAccount": "sa", "hostNetwork": true,
        }});
        pod(&mut p);
        let want = json!({"spec": {
            "containers": [{"name": "a", "image": "b", "imagePullPolicy": "Always",
                "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}],
                "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                    "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "resources": {"limits": {"cpu": "1001m"}, "requests": {"cpu": "1001m"}},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
            "volumes": [{"name": "e", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/", "type": ""}},
                {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}}],
            "serviceAccount": "sa", "serviceAccountName": "sa", "hostNetwork": true, "enableServiceLinks": true,
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
            "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler",
        }});
        assert_eq!(p, want);
        pod(&mut p);
        assert_eq!(p, want);
    }

    #[test]
    fn whole_pod_resources() {
        let mut p = json!({"spec": {
            "containers": [{"name": "a", "image": "b", "resources": {"requests": {"cpu": "100m"}}}],
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
        }});
        pod(&mut p);
        assert_eq!(p["spec"]["resources"]["requests"], json!({"cpu": "100m", "memory": "1Gi"}));
    }
}

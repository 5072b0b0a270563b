//! Containers of every kind.

use super::volumes::Volumes;
use super::{Options, image_not_padded, resources, security};
use crate::checks::{self, descending_path, label, local_path, no_backsteps, one_of_required, texts};
use crate::names;
use crate::value::Get;
use api::Value;
use api::field::{Error, ErrorList, Path};

/// What a container is checked against.
struct Surroundings<'a> {
    spec: &'a Value,
    volumes: &'a Volumes<'a>,
    claims: Vec<&'a str>,
    grace: Option<i64>,
    restart_policy: &'a str,
    host_users: bool,
}

pub fn all(spec: &Value, volumes: &Volumes<'_>, _options: Options, at: &Path, e: &mut ErrorList) {
    let around = Surroundings {
        spec,
        volumes,
        claims: spec
            .list("resourceClaims")
            .iter()
            .map(|c| c.text("name"))
            .filter(|n| !n.is_empty())
            .collect(),
        grace: spec.opt_int("terminationGracePeriodSeconds"),
        restart_policy: spec.text("restartPolicy"),
        host_users: spec.opt_flag("hostUsers").unwrap_or(true),
    };
    main(&around, &at.child("containers"), e);
    init(&around, &at.child("initContainers"), e);
    ephemeral(&around, &at.child("ephemeralContainers"), e);
}

fn main(around: &Surroundings<'_>, at: &Path, e: &mut ErrorList) {
    let list = around.spec.list("containers");
    if list.is_empty() {
        e.push(Error::required(at, ""));
        return;
    }
    for (i, c) in list.iter().enumerate() {
        let at = at.index(i);
        common(c, around, &at, e);
        if list[..i].iter().any(|o| o.text("name") == c.text("name")) {
            e.push(Error::duplicate(&at.child("name"), c.text("name")));
        }
        lifecycle(c, around, &at.child("lifecycle"), e);
        probes(c, around, &at, e);
        restart_rules(c, &at, e);
    }
    host_port_conflicts(list, at, e);
}

fn init(around: &Surroundings<'_>, at: &Path, e: &mut ErrorList) {
    let (list, mains) = (around.spec.list("initContainers"), around.spec.list("containers"));
    for (i, c) in list.iter().enumerate() {
        let at_list = at;
        let at = at.index(i);
        common(c, around, &at, e);
        restart_rules(c, &at, e);
        let name = c.text("name");
        if mains.iter().chain(&list[..i]).any(|o| !name.is_empty() && o.text("name") == name) {
            e.push(Error::duplicate(&at.child("name"), name));
        }
        host_port_conflicts(std::slice::from_ref(c), at_list, e);
        if c.text("restartPolicy") == "Always" {
            lifecycle(c, around, &at.child("lifecycle"), e);
            probes(c, around, &at, e);
            continue;
        }
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if c.has(field) {
                let text = "may not be set for init containers without restartPolicy=Always";
                e.push(Error::forbidden(&at.child(field), text));
            }
        }
        for (j, policy) in c.list("resizePolicy").iter().enumerate() {
            if policy.text("restartPolicy") == "RestartContainer" {
                let at = at.child("resizePolicy").index(j).child("restartPolicy");
                let text = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                e.push(Error::invalid(&at, "RestartContainer", text));
            }
        }
    }
}

/// What an ephemeral container cannot have.
const NOT_EPHEMERAL: [&str; 8] = [
    "ports",
    "resources",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "resizePolicy",
    "restartPolicy",
];

fn ephemeral(around: &Surroundings<'_>, at: &Path, e: &mut ErrorList) {
    let list = around.spec.list("ephemeralContainers");
    let others = || {
        around
            .spec
            .list("containers")
            .iter()
            .chain(around.spec.list("initContainers"))
            .map(|c| c.text("name"))
    };
    for (i, c) in list.iter().enumerate() {
        let at = at.index(i);
        common(c, around, &at, e);
        image_not_padded(c, &at, e);
        let name = c.text("name");
        if others().chain(list[..i].iter().map(|c| c.text("name"))).any(|o| o == name) {
            e.push(Error::duplicate(&at.child("name"), name));
        }
        let target = c.text("targetContainerName");
        if !target.is_empty() && !others().any(|o| o == target) {
            e.push(Error::not_found(&at.child("targetContainerName"), target));
        }
        let text = "cannot be set for an Ephemeral Container";
        for field in NOT_EPHEMERAL {
            if !crate::value::is_zero(c.at(field)) {
                e.push(Error::forbidden(&at.child(field), text));
            }
        }
        for (j, mount) in c.list("volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !mount.text(field).is_empty() {
                    e.push(Error::forbidden(&at.child("volumeMounts").index(j).child(field), text));
                }
            }
        }
    }
}

fn common(c: &Value, around: &Surroundings<'_>, at: &Path, e: &mut ErrorList) {
    if checks::required(c, "name", at, e) {
        label(c.text("name"), &at.child("name"), e);
    }
    checks::required(c, "image", at, e);
    let policies = ["File", "FallbackToLogsOnError"];
    one_of_required(c.text("terminationMessagePolicy"), &policies, &at.child("terminationMessagePolicy"), e);
    ports(c.list("ports"), &at.child("ports"), e);
    env(c.list("env"), &at.child("env"), e);
    env_from(c.list("envFrom"), &at.child("envFrom"), e);
    mounts(c, around.volumes, &at.child("volumeMounts"), e);
    devices(c, around.volumes, &at.child("volumeDevices"), e);
    pull_policy(c.text("imagePullPolicy"), &at.child("imagePullPolicy"), e);
    if c.has("resources") {
        resources::requirements(c.at("resources"), Some(&around.claims), &at.child("resources"), e);
    }
    resize_policies(c.list("resizePolicy"), around.restart_policy, &at.child("resizePolicy"), e);
    if c.has("securityContext") {
        security::container(c.at("securityContext"), around.host_users, &at.child("securityContext"), e);
    }
}

pub fn pull_policy(policy: &str, at: &Path, e: &mut ErrorList) {
    one_of_required(policy, &["Always", "IfNotPresent", "Never"], at, e);
}

fn ports(list: &[Value], at: &Path, e: &mut ErrorList) {
    for (i, port) in list.iter().enumerate() {
        let at = at.index(i);
        let name = port.text("name");
        if !name.is_empty() {
            let messages = names::port_name(name);
            if messages.is_empty() && list[..i].iter().any(|o| o.text("name") == name) {
                e.push(Error::duplicate(&at.child("name"), name));
            }
            texts(name, messages, &at.child("name"), e);
        }
        match port.int("containerPort") {
            0 => e.push(Error::required(&at.child("containerPort"), "")),
            n => texts(n, names::port_number(n), &at.child("containerPort"), e),
        }
        if port.int("hostPort") != 0 {
            let n = port.int("hostPort");
            texts(n, names::port_number(n), &at.child("hostPort"), e);
        }
        one_of_required(port.text("protocol"), &["TCP", "UDP", "SCTP"], &at.child("protocol"), e);
    }
}

fn host_port_conflicts(containers: &[Value], at: &Path, e: &mut ErrorList) {
    let mut seen: Vec<String> = Vec::new();
    for (i, c) in containers.iter().enumerate() {
        for (j, port) in c.list("ports").iter().enumerate() {
            if port.int("hostPort") == 0 {
                continue;
            }
            let key = format!("{}/{}/{}", port.text("protocol"), port.text("hostIP"), port.int("hostPort"));
            if seen.contains(&key) {
                e.push(Error::duplicate(&at.index(i).child("ports").index(j).child("hostPort"), key));
            } else {
                seen.push(key);
            }
        }
    }
}

fn env(list: &[Value], at: &Path, e: &mut ErrorList) {
    for (i, var) in list.iter().enumerate() {
        let name = var.text("name");
        if name.is_empty() {
            e.push(Error::required(&at.index(i).child("name"), ""));
        } else {
            let messages = names::env_name(name);
            if !messages.is_empty() {
                texts(name, messages, &at.index(i).child("name"), e);
            }
        }
        if var.has("valueFrom") {
            env_source(var, &at.index(i).child("valueFrom"), e);
        }
    }
}

const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn env_source(var: &Value, at: &Path, e: &mut ErrorList) {
    let from = var.at("valueFrom");
    let mut sources = 0;
    if from.has("fieldRef") {
        sources += 1;
        field_ref(from.at("fieldRef"), &ENV_FIELDS, &at.child("fieldRef"), e);
    }
    if from.has("resourceFieldRef") {
        sources += 1;
        resource_ref(from.at("resourceFieldRef"), false, &at.child("resourceFieldRef"), e);
    }
    for source in ["configMapKeyRef", "secretKeyRef"] {
        if from.has(source) {
            sources += 1;
            key_ref(from.at(source), &at.child(source), e);
        }
    }
    if from.has("fileKeyRef") {
        sources += 1;
        file_key_ref(from.at("fileKeyRef"), &at.child("fileKeyRef"), e);
    }
    let text = if sources == 0 {
        "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
    } else if !var.text("value").is_empty() {
        "may not be specified when `value` is not empty"
    } else if sources > 1 {
        "may not have more than one field specified at a time"
    } else {
        return;
    };
    e.push(Error::invalid(at, "", text));
}

/// Labels that the downward API knows, if only to refuse them here.
const DOWNWARD: [&str; 14] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// `metadata.labels['key']` in its two parts.
pub fn subscripted(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['").filter(|(p, _)| !p.is_empty())
}

pub fn field_ref(field: &Value, known: &[&str], at: &Path, e: &mut ErrorList) {
    if !checks::required(field, "apiVersion", at, e) || !checks::required(field, "fieldPath", at, e) {
        return;
    }
    let path = field.text("fieldPath");
    let error = |why: String, e: &mut ErrorList| {
        let text = format!("error converting fieldPath: {why}");
        e.push(Error::invalid(&at.child("fieldPath"), path, text));
    };
    if field.text("apiVersion") != "v1" {
        return error(format!("unsupported pod version: {}", field.text("apiVersion")), e);
    }
    if let Some((map, key)) = subscripted(path) {
        return match map {
            "metadata.annotations" => checks::qualified(&key.to_lowercase(), at, e),
            "metadata.labels" => checks::qualified(key, at, e),
            _ => error(format!("field label does not support subscript: {path}"), e),
        };
    }
    let path = if path == "spec.host" { "spec.nodeName" } else { path };
    if !DOWNWARD.contains(&path) {
        error(format!("field label not supported: {path}"), e);
    } else if !known.contains(&path) {
        e.push(Error::not_supported(&at.child("fieldPath"), path, known));
    }
}

const RESOURCE_FIELDS: [&str; 6] = [
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
];
const DIVISORS: [&str; 13] =
    ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

pub fn resource_ref(field: &Value, in_volume: bool, at: &Path, e: &mut ErrorList) {
    let resource = field.text("resource");
    let huge = resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    if in_volume && field.text("containerName").is_empty() {
        e.push(Error::required(&at.child("containerName"), ""));
    } else if resource.is_empty() {
        e.push(Error::required(&at.child("resource"), ""));
    } else if !RESOURCE_FIELDS.contains(&resource) && !huge {
        e.push(Error::not_supported(&at.child("resource"), resource, &RESOURCE_FIELDS));
    }
    let divisor = crate::table::int_or_string(field.at("divisor"), "0");
    if divisor == "0" || crate::value::amount(&divisor) == Some(0) {
        return;
    }
    let (word, list): (&str, &[&str]) = match resource.split_once('.').map_or("", |(_, r)| r) {
        "cpu" => ("cpu", &["1m", "1"]),
        "memory" => ("memory", &DIVISORS),
        "ephemeral-storage" => ("local ephemeral storage", &DIVISORS),
        _ if huge => ("hugepages", &DIVISORS),
        _ => return,
    };
    if !list.contains(&divisor.as_str()) {
        let values = if word == "cpu" { "1m and 1".to_owned() } else { DIVISORS.join(", ") };
        let text = format!("only divisor's values {values} are supported with the {word} resource");
        e.push(Error::invalid(&at.child("divisor"), resource, text));
    }
}

fn key_ref(reference: &Value, at: &Path, e: &mut ErrorList) {
    checks::subdomain(reference.text("name"), &at.child("name"), e);
    if checks::required(reference, "key", at, e) {
        let key = reference.text("key");
        texts(key, names::config_key(key), &at.child("key"), e);
    }
}

fn file_key_ref(reference: &Value, at: &Path, e: &mut ErrorList) {
    if checks::required(reference, "key", at, e) {
        let key = reference.text("key");
        texts(key, names::env_name(key), &at.child("key"), e);
    }
    if checks::required(reference, "volumeName", at, e) {
        label(reference.text("volumeName"), &at.child("volumeName"), e);
    }
    if checks::required(reference, "path", at, e) {
        no_backsteps(reference.text("path"), &at.child("path"), e);
    }
}

/// Variables read from files need an emptyDir that the pod has.
pub fn file_keys(spec: &Value, at: &Path, e: &mut ErrorList) {
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, c) in spec.list(list).iter().enumerate() {
            for (j, var) in c.list("env").iter().enumerate() {
                let reference = var.at("valueFrom").at("fileKeyRef");
                if reference.is_null() {
                    continue;
                }
                let name = reference.text("volumeName");
                let at = at.child(list).index(i).child("env").index(j);
                let at = at.child("valueFrom").child("fileKeyRef").child("volumeName");
                match spec.list("volumes").iter().find(|v| v.text("name") == name) {
                    None => e.push(Error::not_found(&at, name)),
                    Some(v) if !v.has("emptyDir") => {
                        e.push(Error::invalid(&at, name, "referenced volume must be of type emptyDir"));
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

fn env_from(list: &[Value], at: &Path, e: &mut ErrorList) {
    for (i, from) in list.iter().enumerate() {
        let at_list = at;
        let at = at.index(i);
        let prefix = from.text("prefix");
        if !prefix.is_empty() {
            texts(prefix, names::env_name(prefix), &at.child("prefix"), e);
        }
        let mut sources = 0;
        for source in ["configMapRef", "secretRef"] {
            if from.has(source) {
                sources += 1;
                let at = at.child(source);
                if checks::required(from.at(source), "name", &at, e) {
                    let name = from.at(source).text("name");
                    let messages = names::dns_subdomain(&names::mask_trailing_dash(name));
                    texts(name, messages, &at.child("name"), e);
                }
            }
        }
        match sources {
            0 => e.push(Error::invalid(at_list, "", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => e.push(Error::invalid(at_list, "", "may not have more than one field specified at a time")),
        }
    }
}

fn mounts(c: &Value, volumes: &Volumes<'_>, at: &Path, e: &mut ErrorList) {
    let (list, devices) = (c.list("volumeMounts"), c.list("volumeDevices"));
    for (i, mount) in list.iter().enumerate() {
        let at_list = at;
        let at = at.index(i);
        let (name, path) = (mount.text("name"), mount.text("mountPath"));
        checks::required(mount, "name", &at, e);
        if !volumes.contains_key(name) {
            e.push(Error::not_found(&at.child("name"), name));
        }
        checks::required(mount, "mountPath", &at, e);
        let mut bad = |field: &str, value: &str, text: &str| {
            e.push(Error::invalid(&at.child(field), value, text));
        };
        if list[..i].iter().any(|o| o.text("mountPath") == path) {
            bad("mountPath", path, "must be unique");
        }
        if devices.iter().any(|d| d.text("name") == name) {
            bad("name", name, "must not already exist in volumeDevices");
        }
        if devices.iter().any(|d| d.text("devicePath") == path) {
            bad("mountPath", path, "must not already exist as a path in volumeDevices");
        }
        let (sub, expression) = (mount.text("subPath"), mount.text("subPathExpr"));
        if !sub.is_empty() {
            if !expression.is_empty() {
                bad("subPathExpr", expression, "subPathExpr and subPath are mutually exclusive");
            }
            descending_path(sub, &at_list.child("subPath"), e);
        }
        if !expression.is_empty() {
            descending_path(expression, &at_list.child("subPathExpr"), e);
        }
        propagation(mount, c, at_list, e);
    }
}

fn propagation(mount: &Value, c: &Value, at: &Path, e: &mut ErrorList) {
    if let Some(mode) = mount.opt_text("mountPropagation") {
        let at = at.child("mountPropagation");
        checks::one_of(mode, &["Bidirectional", "HostToContainer", "None"], &at, e);
        if mode == "Bidirectional" && !c.at("securityContext").flag("privileged") {
            let text = "Bidirectional mount propagation is available only to privileged containers";
            e.push(Error::forbidden(&at, text));
        }
    }
    let Some(recursive) = mount.opt_text("recursiveReadOnly") else { return };
    let at = at.child("recursiveReadOnly");
    match recursive {
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !mount.flag("readOnly") {
                e.push(Error::forbidden(&at, "may only be specified when readOnly is true"));
            }
            if !matches!(mount.opt_text("mountPropagation"), None | Some("None")) {
                let text = "may only be specified when mountPropagation is None or not specified";
                e.push(Error::forbidden(&at, text));
            }
        }
        other => e.push(Error::not_supported(&at, other, &["Disabled", "IfPossible", "Enabled"])),
    }
}

fn devices(c: &Value, volumes: &Volumes<'_>, at: &Path, e: &mut ErrorList) {
    let (list, mounts) = (c.list("volumeDevices"), c.list("volumeMounts"));
    for (i, device) in list.iter().enumerate() {
        let at = at.index(i);
        let (name, path) = (device.text("name"), device.text("devicePath"));
        checks::required(device, "name", &at, e);
        let mut bad = |field: &str, value: &str, text: &str| {
            e.push(Error::invalid(&at.child(field), value, text));
        };
        if !name.is_empty() && list[..i].iter().any(|o| o.text("name") == name) {
            bad("name", name, "must be unique");
        }
        match volumes.get(name) {
            Some(v) if !v.has("persistentVolumeClaim") && !v.has("ephemeral") => bad(
                "name",
                name,
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            ),
            Some(_) => {}
            None => e.push(Error::not_found(&at.child("name"), name)),
        }
        checks::required(device, "devicePath", &at, e);
        let mut bad = |field: &str, value: &str, text: &str| {
            e.push(Error::invalid(&at.child(field), value, text));
        };
        if list[..i].iter().any(|o| o.text("devicePath") == path) {
            bad("devicePath", path, "must be unique");
        }
        if path.split('/').any(|p| p == "..") {
            bad("devicePath", path, "can not contain backsteps ('..')");
        }
        if mounts.iter().any(|m| m.text("name") == name) {
            bad("name", name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|m| m.text("mountPath") == path) {
            bad("devicePath", path, "must not already exist as a path in volumeMounts");
        }
    }
}

fn resize_policies(list: &[Value], pod_policy: &str, at: &Path, e: &mut ErrorList) {
    for (i, policy) in list.iter().enumerate() {
        let (resource, restart) = (policy.text("resourceName"), policy.text("restartPolicy"));
        if list[..i].iter().any(|o| o.text("resourceName") == resource) {
            e.push(Error::duplicate(&at.index(i), resource));
        }
        one_of_required(resource, &["cpu", "memory"], at, e);
        one_of_required(restart, &["NotRequired", "RestartContainer"], at, e);
        if pod_policy == "Never" && restart != "NotRequired" {
            let text = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            e.push(Error::invalid(at, restart, text));
        }
    }
}

fn restart_rules(c: &Value, at: &Path, e: &mut ErrorList) {
    let rules = c.list("restartPolicyRules");
    let policy_at = || at.child("restartPolicy");
    match c.opt_text("restartPolicy") {
        None if !rules.is_empty() => {
            e.push(Error::required(&policy_at(), "must specify restartPolicy when restart rules are used"));
        }
        None => return,
        Some(policy) => checks::one_of(policy, &["Always", "Never", "OnFailure"], &policy_at(), e),
    }
    if rules.len() > 20 {
        e.push(Error::too_many(&at.child("restartPolicyRules"), rules.len(), 20));
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = at.child("restartPolicyRules").index(i);
        checks::one_of(rule.text("action"), &["Restart"], &at.child("action"), e);
        let codes = rule.at("exitCodes");
        if codes.is_null() {
            e.push(Error::required(&at.child("exitCodes"), "must be specified"));
            continue;
        }
        let at = at.child("exitCodes");
        checks::one_of(codes.text("operator"), &["In", "NotIn"], &at.child("operator"), e);
        if codes.len("values") > 255 {
            e.push(Error::too_many(&at.child("values"), codes.len("values"), 255));
        }
    }
}

fn lifecycle(c: &Value, around: &Surroundings<'_>, at: &Path, e: &mut ErrorList) {
    let hooks = c.at("lifecycle");
    for hook in ["postStart", "preStop"] {
        if hooks.has(hook) {
            let known = ["exec", "httpGet", "tcpSocket", "sleep"];
            handler(hooks.at(hook), &known, around.grace, &at.child(hook), e);
        }
    }
    if hooks.has("stopSignal") && !around.spec.has("os") {
        let text = "may not be set for containers with empty `spec.os.name`";
        e.push(Error::forbidden(&at.child("stopSignal"), text));
    }
}

fn probes(c: &Value, around: &Surroundings<'_>, at: &Path, e: &mut ErrorList) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let p = c.at(name);
        if p.is_null() {
            continue;
        }
        let at = at.child(name);
        handler(p, &["exec", "httpGet", "tcpSocket", "grpc"], around.grace, &at, e);
        for field in
            ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            checks::non_negative(p, field, &at, e);
        }
        let grace = p.opt_int("terminationGracePeriodSeconds");
        if let Some(n) = grace.filter(|n| *n <= 0) {
            e.push(Error::invalid(&at.child("terminationGracePeriodSeconds"), n, "must be greater than 0"));
        }
        if name == "readinessProbe" {
            if let Some(n) = grace {
                let text = "must not be set for readinessProbes";
                e.push(Error::invalid(&at.child("terminationGracePeriodSeconds"), n, text));
            }
        } else if p.int("successThreshold") != 1 {
            e.push(Error::invalid(&at.child("successThreshold"), p.int("successThreshold"), "must be 1"));
        }
    }
}

fn handler(h: &Value, known: &[&str], grace: Option<i64>, at: &Path, e: &mut ErrorList) {
    let mut found = 0;
    for kind in known {
        let action = h.at(kind);
        if action.is_null() {
            continue;
        }
        found += 1;
        let at = at.child(kind);
        if found > 1 {
            e.push(Error::forbidden(&at, "may not specify more than 1 handler type"));
            continue;
        }
        match *kind {
            "exec" => {
                checks::required(action, "command", &at, e);
            }
            "httpGet" => http_get(action, &at, e),
            "sleep" => {
                let (seconds, grace) = (action.int("seconds"), grace.unwrap_or(i64::MAX));
                if seconds < 0 || seconds > grace {
                    let text =
                        format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    e.push(Error::invalid(&at, seconds, text));
                }
            }
            _ => checks::port(action.at("port"), &at.child("port"), e),
        }
    }
    if found == 0 {
        e.push(Error::required(at, "must specify a handler type"));
    }
}

fn http_get(get: &Value, at: &Path, e: &mut ErrorList) {
    checks::required(get, "path", at, e);
    checks::port(get.at("port"), &at.child("port"), e);
    checks::one_of(get.text("scheme"), &["HTTP", "HTTPS"], &at.child("scheme"), e);
    for header in get.list("httpHeaders") {
        let name = header.text("name");
        texts(name, names::http_header(name), &at.child("httpHeaders"), e);
    }
}

/// A key of a config map or secret and the file it becomes.
pub fn key_to_path(item: &Value, at: &Path, e: &mut ErrorList) {
    checks::required(item, "key", at, e);
    checks::required(item, "path", at, e);
    local_path(item.text("path"), &at.child("path"), e);
    file_mode(item, "mode", at, e);
}

pub fn file_mode(v: &Value, field: &str, at: &Path, e: &mut ErrorList) {
    if let Some(mode) = v.opt_int(field)
        && !(0..=0o777).contains(&mode)
    {
        let text = "must be a number between 0 and 0777 (octal), both inclusive";
        e.push(Error::invalid(&at.child(field), mode, text));
    }
}

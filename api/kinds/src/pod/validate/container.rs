//! Containers of every kind.

use super::env::{env, env_from};
use super::handlers::{lifecycle, probes};
use super::volumes::Volumes;
use super::{Options, image_not_padded, resources, security};
use crate::checks::{self, descending_path, label, one_of_required, texts};
use crate::names;
use crate::value::Get;
use api::Value;
use api::field::{Error, ErrorList, Path};

/// What a container is checked against.
pub struct Surroundings<'a> {
    pub spec: &'a Value,
    pub volumes: &'a Volumes<'a>,
    pub claims: Vec<&'a str>,
    pub grace: Option<i64>,
    pub restart_policy: &'a str,
    pub host_users: bool,
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
        init_restart_policy(c, &at, e);
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
const NOT_EPHEMERAL: [&str; 9] = [
    "ports",
    "resources",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
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
    let at_policy = at.child("terminationMessagePolicy");
    checks::one_of_in_order(c.text("terminationMessagePolicy"), &policies, &at_policy, e);
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

/// Init containers without a policy have no rules to look at.
fn init_restart_policy(c: &Value, at: &Path, e: &mut ErrorList) {
    if c.has("restartPolicy") {
        restart_rules(c, at, e);
    } else if c.len("restartPolicyRules") > 0 {
        let text = "must specify restartPolicy when restart rules are used";
        e.push(Error::required(&at.child("restartPolicy"), text));
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
        checks::one_of(rule.text("action"), &["Restart", "RestartAllContainers"], &at.child("action"), e);
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

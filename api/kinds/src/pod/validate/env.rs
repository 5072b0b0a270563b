//! Environment variables, and the references that they and volumes share.

use crate::checks::{self, label, local_path, no_backsteps, texts};
use crate::names;
use crate::value::Get;
use api::Value;
use api::field::{Error, ErrorList, Path};

pub fn env(list: &[Value], at: &Path, e: &mut ErrorList) {
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

pub fn env_from(list: &[Value], at: &Path, e: &mut ErrorList) {
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

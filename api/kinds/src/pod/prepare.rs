//! What each way of writing a pod may change.

use crate::prepare::{bump_generation, keep_all_but, keep_user_metadata};
use crate::value::{Get, Put, same};
use crate::{Context, Operation, pods};
use api::{Value, json};

pub fn pod(op: Operation, cx: &Context<'_>, new: &mut Value, old: Option<&Value>) {
    match (op, cx.subresource, old) {
        (Operation::Create, "", _) | (Operation::Create, _, None) => create(new),
        (_, "status", Some(old)) => status(new, old),
        (_, "ephemeralcontainers", Some(old)) => ephemeral_containers(new, old),
        (_, "resize", Some(old)) => resize(new, old),
        (Operation::Update, "", Some(old)) => {
            new.copy_from(old, "status");
            count_generation(new, old);
        }
        _ => {}
    }
}

fn create(pod: &mut Value) {
    pod.ensure("metadata").set("generation", 1);
    let qos = match pod.at("status").text("qosClass") {
        "" => pods::qos_of_spec(pod.at("spec")).to_owned(),
        named => named.to_owned(),
    };
    let mut status = json!({"phase": "Pending", "qosClass": qos});
    if pod.at("spec").len("schedulingGates") > 0 {
        let since = pod.at("metadata").at("creationTimestamp").clone();
        status.set(
            "conditions",
            json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates", "lastTransitionTime": since}]),
        );
    }
    pod.set("status", status);
    merge_label_keys(pod);
    apparmor_fields(pod);
}

/// Profiles were asked for by annotation once; who reads pods now reads the fields.
fn apparmor_fields(pod: &mut Value) {
    const KEY: &str = "container.apparmor.security.beta.kubernetes.io/";
    let asked: Vec<(String, Value)> = pod
        .at("metadata")
        .entries("annotations")
        .filter_map(|(key, v)| Some((key.strip_prefix(KEY)?.to_owned(), profile(v.as_str()?)?)))
        .collect();
    let spec = pod.at("spec");
    if asked.is_empty() || spec.at("os").text("name") == "windows" {
        return;
    }
    let whole = spec.at("securityContext").at("appArmorProfile").clone();
    let spec = pod.ensure("spec");
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for c in spec.items(list) {
            let Some((_, profile)) = asked.iter().find(|(name, _)| name == c.text("name")) else { continue };
            if *profile != whole && !c.at("securityContext").has("appArmorProfile") {
                c.ensure("securityContext").set("appArmorProfile", profile.clone());
            }
        }
    }
}

/// The profile that an old annotation names.
pub fn profile(annotation: &str) -> Option<Value> {
    match annotation {
        "unconfined" => Some(json!({"type": "Unconfined"})),
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        other => {
            let name = other.strip_prefix("localhost/").filter(|n| !n.is_empty() && n.trim() == *n)?;
            Some(json!({"type": "Localhost", "localhostProfile": name}))
        }
    }
}

/// `matchLabelKeys` and `mismatchLabelKeys` become expressions over the pod's own label values.
fn merge_label_keys(pod: &mut Value) {
    let labels = pod.at("metadata").at("labels").clone();
    let Some(spec) = pod.sub("spec") else { return };
    for constraint in spec.items("topologySpreadConstraints") {
        add_keys(constraint, &labels);
    }
    let Some(affinity) = spec.sub("affinity") else { return };
    for side in ["podAffinity", "podAntiAffinity"] {
        let Some(side) = affinity.sub(side) else { continue };
        for term in side.items("preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = term.sub("podAffinityTerm") {
                add_keys(term, &labels);
            }
        }
        for term in side.items("requiredDuringSchedulingIgnoredDuringExecution") {
            add_keys(term, &labels);
        }
    }
}

fn add_keys(term: &mut Value, labels: &Value) {
    let mut added = Vec::new();
    for (list, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in term.texts(list) {
            if let Some(value) = labels.opt_text(key) {
                added.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    // A term without a selector matches nothing; there is nothing to narrow.
    let Some(selector) = term.sub("labelSelector") else { return };
    if added.is_empty() {
        return;
    }
    let mut all = selector.list("matchExpressions").to_vec();
    all.append(&mut added);
    selector.set("matchExpressions", all);
}

fn count_generation(new: &mut Value, old: &Value) {
    if !same(new.at("spec"), old.at("spec")) {
        bump_generation(new, old);
    }
}

fn status(new: &mut Value, old: &Value) {
    keep_all_but(new, old, &["status", "metadata"]);
    let meta = new.ensure("metadata");
    // The generic update rules have put it back if the stored pod has one.
    if !old.at("metadata").has("deletionTimestamp") {
        meta.unset("deletionTimestamp");
    }
    meta.copy_from(old.at("metadata"), "ownerReferences");
    let was = old.at("status");
    let status = new.ensure("status");
    if status.text("qosClass").is_empty() {
        status.copy_from(was, "qosClass");
    }
    if status.int("observedGeneration") == 0 {
        status.copy_from(was, "observedGeneration");
    }
    for condition in status.items("conditions") {
        let before = was.list("conditions").iter().find(|c| c.text("type") == condition.text("type"));
        if condition.int("observedGeneration") == 0
            && let Some(before) = before
        {
            condition.copy_from(before, "observedGeneration");
        }
    }
}

fn ephemeral_containers(new: &mut Value, old: &Value) {
    let added = new.at("spec").at("ephemeralContainers").clone();
    new.copy_from(old, "spec");
    new.copy_from(old, "status");
    keep_user_metadata(new, old);
    match added {
        Value::Null => {
            new.ensure("spec").unset("ephemeralContainers");
        }
        list => new.ensure("spec").set("ephemeralContainers", list),
    }
    count_generation(new, old);
}

fn resize(new: &mut Value, old: &Value) {
    let (spec, was) = (new.at("spec"), old.at("spec"));
    // Added, removed or renamed containers are left for validation to refuse.
    let (Some(containers), Some(inits)) =
        (resized(spec, was, "containers"), resized(spec, was, "initContainers"))
    else {
        return count_generation(new, old);
    };
    let resources = spec.at("resources").clone();
    new.copy_from(old, "spec");
    new.copy_from(old, "status");
    keep_user_metadata(new, old);
    let spec = new.ensure("spec");
    for (field, value) in [("containers", containers), ("initContainers", inits), ("resources", resources)] {
        match value {
            Value::Null => {
                spec.unset(field);
            }
            value => spec.set(field, value),
        }
    }
    count_generation(new, old);
}

/// The stored containers with the resources and resize policies of the new ones.
fn resized(new: &Value, old: &Value, list: &str) -> Option<Value> {
    let (new, was) = (new.list(list), old.at(list));
    let mut merged = was.clone();
    let Some(items) = merged.as_array_mut() else { return new.is_empty().then_some(Value::Null) };
    if items.len() != new.len() {
        return None;
    }
    for (item, new) in items.iter_mut().zip(new) {
        if item.text("name") != new.text("name") {
            return None;
        }
        item.copy_from(new, "resources");
        item.copy_from(new, "resizePolicy");
    }
    Some(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cx(subresource: &str) -> Context<'_> {
        Context { subresource, ..Context::default() }
    }

    #[test]
    fn old_apparmor_annotations() {
        let key = |name: &str| format!("container.apparmor.security.beta.kubernetes.io/{name}");
        let mut p = json!({
            "metadata": {"annotations": {key("a"): "localhost/x", key("b"): "runtime/default"}},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}},
        });
        pod(Operation::Create, &cx(""), &mut p, None);
        let wanted = json!({"type": "Localhost", "localhostProfile": "x"});
        assert_eq!(p["spec"]["containers"][0]["securityContext"]["appArmorProfile"], wanted);
        assert_eq!(p["spec"]["containers"][1], json!({"name": "b"}));
    }

    #[test]
    fn writes_keep_to_their_part() {
        let mut p = json!({"metadata": {"labels": {"v": "1"}}, "spec": {"containers": [{"name": "a"}],
            "topologySpreadConstraints": [{"labelSelector": {}, "matchLabelKeys": ["v", "absent"]}]}, "status": {"phase": "Running"}});
        pod(Operation::Create, &cx(""), &mut p, None);
        assert_eq!(p["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
        assert_eq!(
            p["spec"]["topologySpreadConstraints"][0]["labelSelector"],
            json!({"matchExpressions": [{"key": "v", "operator": "In", "values": ["1"]}]})
        );

        let mut status = p.clone();
        status["spec"]["nodeName"] = json!("n");
        status["status"]["phase"] = json!("Running");
        pod(Operation::Update, &cx("status"), &mut status, Some(&p));
        assert_eq!((&status["spec"], &status["status"]["phase"]), (&p["spec"], &json!("Running")));

        let mut resized = p.clone();
        resized["spec"]["containers"][0] =
            json!({"name": "a", "image": "other", "resources": {"limits": {"cpu": "1"}}});
        pod(Operation::Update, &cx("resize"), &mut resized, Some(&p));
        assert_eq!(
            resized["spec"]["containers"][0],
            json!({"name": "a", "resources": {"limits": {"cpu": "1"}}})
        );
        assert_eq!(resized["metadata"]["generation"], json!(2));
    }
}

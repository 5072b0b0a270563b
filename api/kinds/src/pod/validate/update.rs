//! Updates of a pod: what may still change once it is there.

use super::annotations_and_spec;
use crate::names;
use crate::pods;
use crate::semantic;
use crate::shown::difference;
use crate::value::{Get, Put, same};
use api::Value;
use api::field::{Error, ErrorList, Path};

const SPEC: &str = "k8s.io.api.core.v1.PodSpec";
const EPHEMERAL: &str = "k8s.io.api.core.v1.EphemeralContainer";
const MIRROR: &str = "kubernetes.io/config.mirror";
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Annotations that cannot change on a pod that exists.
pub fn annotation_updates(new: &Value, old: &Value, e: &mut ErrorList) {
    let at = Path::new("metadata").child("annotations");
    let (new, old) = (new.at("metadata").at("annotations"), old.at("metadata").at("annotations"));
    let mut changed = |key: &str, word: &str| {
        if key.starts_with(APPARMOR) {
            e.push(Error::forbidden(&at.key(key), format!("may not {word} AppArmor annotations")));
        } else if key == MIRROR {
            e.push(Error::forbidden(&at.key(key), format!("may not {word} mirror pod annotation")));
        }
    };
    for (key, value) in old.as_object().into_iter().flatten() {
        if new.at(key) != value {
            changed(key, "remove or update");
        }
    }
    for (key, _) in new.as_object().into_iter().flatten() {
        if !old.has(key) {
            changed(key, "add");
        }
    }
}

pub fn pod(new: &Value, old: &Value, e: &mut ErrorList) {
    annotations_and_spec(new, e);
    annotation_updates(new, old, e);
    let (spec, was, at) = (new.at("spec"), old.at("spec"), Path::new("spec"));
    for list in ["containers", "initContainers"] {
        if spec.list(list).len() != was.list(list).len() {
            e.push(Error::forbidden(&at.child(list), "pod updates may not add or remove containers"));
            return;
        }
        for (i, container) in spec.list(list).iter().enumerate() {
            let at = at.child(list).index(i);
            if container.text("image").is_empty() {
                e.push(Error::required(&at.child("image"), ""));
            }
            super::image_not_padded(container, &at, e);
        }
    }
    deadline(spec, was, &at.child("activeDeadlineSeconds"), e);
    only_added_tolerations(spec, was, &at.child("tolerations"), e);
    only_deleted_gates(spec, was, &at.child("schedulingGates"), e);
    if semantic::equal(SPEC, spec, was) {
        return;
    }
    let mut munged = spec.clone();
    allow_what_may_change(&mut munged, was, &at, e);
    if !semantic::equal(SPEC, &munged, was) {
        let text = format!(
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n{}",
            difference(SPEC, was, &munged)
        );
        e.push(Error::forbidden(&at, text));
    }
}

fn deadline(spec: &Value, was: &Value, at: &Path, e: &mut ErrorList) {
    let before = was.opt_int("activeDeadlineSeconds");
    match (spec.opt_int("activeDeadlineSeconds"), before) {
        (Some(now), before) => {
            let max = i64::from(i32::MAX);
            if !(0..=max).contains(&now) {
                e.push(Error::invalid(at, now, names::range_error(0, max)));
            }
            if before.is_some_and(|b| b < now) {
                e.push(Error::invalid(at, now, "must be less than or equal to previous value"));
            }
        }
        (None, Some(_)) => {
            let text = "must not update from a positive integer to nil value";
            e.push(Error::invalid(at, Value::Null, text));
        }
        (None, None) => {}
    }
}

fn only_added_tolerations(spec: &Value, was: &Value, at: &Path, e: &mut ErrorList) {
    let bare = |t: &Value| {
        let mut t = t.clone();
        t.unset("tolerationSeconds");
        t
    };
    for old in was.list("tolerations") {
        let old = bare(old);
        if !spec.list("tolerations").iter().any(|t| same(&bare(t), &old)) {
            let text = "existing toleration can not be modified except its tolerationSeconds";
            e.push(Error::forbidden(at, text));
            return;
        }
    }
    super::tolerations(spec.list("tolerations"), at, e);
}

fn only_deleted_gates(spec: &Value, was: &Value, at: &Path, e: &mut ErrorList) {
    for (i, gate) in spec.list("schedulingGates").iter().enumerate() {
        let name = gate.text("name");
        if !was.list("schedulingGates").iter().any(|g| g.text("name") == name) {
            let text = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            e.push(Error::forbidden(&at.index(i).child("name"), text));
        }
    }
}

/// Puts back what may differ, so that what still differs may not.
fn allow_what_may_change(munged: &mut Value, was: &Value, at: &Path, e: &mut ErrorList) {
    for list in ["containers", "initContainers"] {
        for (c, old) in munged.items(list).zip(was.list(list)) {
            c.copy_from(old, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        munged.copy_from(was, field);
    }
    if was.int("terminationGracePeriodSeconds") < 0 && munged.int("terminationGracePeriodSeconds") == 1 {
        munged.copy_from(was, "terminationGracePeriodSeconds");
    }
    if was.len("schedulingGates") == 0 {
        return;
    }
    // A gated pod may still be narrowed to fewer nodes.
    let selector = munged.at("nodeSelector");
    for (key, value) in was.entries("nodeSelector") {
        if selector.at(key) != value {
            let text = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            e.push(Error::invalid(&at.child("nodeSelector"), selector.clone(), text));
        }
    }
    let (new, old) = (munged.at("affinity").at("nodeAffinity"), was.at("affinity").at("nodeAffinity"));
    node_affinity(new, old, &at.child("affinity").child("nodeAffinity"), e);
    munged.copy_from(was, "nodeSelector");
    let old = old.clone();
    if was.has("affinity") || munged.has("affinity") {
        let affinity = munged.ensure("affinity");
        affinity.unset("nodeAffinity");
        if !old.is_null() {
            affinity.set("nodeAffinity", old);
        }
    }
}

fn node_affinity(new: &Value, old: &Value, at: &Path, e: &mut ErrorList) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let at = at.child(REQUIRED).child("nodeSelectorTerms");
    let (terms, was) =
        (new.at(REQUIRED).list("nodeSelectorTerms"), old.at(REQUIRED).list("nodeSelectorTerms"));
    if !was.is_empty() && terms.len() != was.len() {
        let text = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        e.push(Error::invalid(&at, Value::Array(terms.to_vec()), text));
        return;
    }
    for (i, (term, old)) in terms.iter().zip(was).enumerate() {
        let extends = |field: &str| {
            let (new, old) = (term.list(field), old.list(field));
            new.len() >= old.len() && new.iter().zip(old).all(|(n, o)| same(n, o))
        };
        let lists = ["matchExpressions", "matchFields"];
        let was_empty = lists.iter().all(|f| old.len(f) == 0);
        let grown = lists.iter().any(|f| term.len(f) > 0);
        if (was_empty && grown) || !lists.iter().all(|f| extends(f)) {
            let text = "only additions are allowed (no mutations or deletions)";
            e.push(Error::invalid(&at.index(i), term.clone(), text));
        }
    }
}

pub fn ephemeral_containers(new: &Value, old: &Value, e: &mut ErrorList) {
    if old.at("metadata").at("annotations").has(MIRROR) {
        e.push(Error::forbidden(&Path::new("[]"), "static pods do not support ephemeral containers"));
        return;
    }
    annotations_and_spec(new, e);
    annotation_updates(new, old, e);
    let at = Path::new("spec").child("ephemeralContainers");
    for was in old.at("spec").list("ephemeralContainers") {
        let name = was.text("name");
        match new.at("spec").list("ephemeralContainers").iter().find(|c| c.text("name") == name) {
            None => {
                let text = format!("existing ephemeral containers {name:?} may not be removed\n");
                e.push(Error::forbidden(&at, text));
            }
            Some(now) if !semantic::equal(EPHEMERAL, now, was) => {
                let text = format!(
                    "existing ephemeral containers {name:?} may not be changed\n{}",
                    difference(EPHEMERAL, was, now)
                );
                e.push(Error::forbidden(&at, text));
            }
            Some(_) => {}
        }
    }
}

pub fn resize(new: &Value, old: &Value, e: &mut ErrorList) {
    let root = Path::new("");
    if old.at("metadata").at("annotations").has(MIRROR) {
        e.push(Error::forbidden(&root, "static pods cannot be resized"));
        return;
    }
    if old.at("spec").at("os").text("name") == "windows" {
        e.push(Error::forbidden(&root, "windows pods cannot be resized"));
        return;
    }
    annotations_and_spec(new, e);
    let (spec, was, at) = (new.at("spec"), old.at("spec"), Path::new("spec"));
    let class = match old.at("status").text("qosClass") {
        "" => pods::qos_of_spec(was),
        class => class,
    };
    if class != pods::qos_of_spec(spec) {
        let text = "Pod QOS Class may not change as a result of resizing";
        e.push(Error::invalid(&at, class, text));
    }
    let running = old.at("status").list("containerStatuses").iter().find(|c| c.at("state").has("running"));
    if running.is_some_and(|c| !c.has("resources")) {
        e.push(Error::forbidden(&at, "Pod running on node without support for resize"));
    }
    if !resize_order(spec, was, &at, e) {
        return;
    }
    resize_removals(spec, was, &at, e);
    let mut munged = spec.clone();
    for (c, old) in munged.items("containers").zip(was.list("containers")) {
        keep_compute(c, old);
        if !same(c, old) {
            e.push(Error::forbidden(&at, "only cpu and memory resources are mutable"));
        }
    }
    let at_inits = at.child("initContainers");
    for (i, (c, old)) in munged.items("initContainers").zip(was.list("initContainers")).enumerate() {
        resize_init(c, old, &at, &at_inits.index(i), e);
    }
    if !e.is_empty() {
        return;
    }
    keep_compute(&mut munged, was);
    if !same(&munged, was) {
        e.push(Error::forbidden(&at, "only cpu and memory resources are mutable"));
    }
}

/// An init container of a resize; what may change is put back to what it was.
fn resize_init(c: &mut Value, old: &Value, at_spec: &Path, at: &Path, e: &mut ErrorList) {
    let (sidecar, changed) = (old.text("restartPolicy") == "Always", !same(c, old));
    if !sidecar && !crate::gates::enabled(INIT_RESIZE) {
        if changed {
            let text = "resources for non-sidecar init containers are immutable";
            e.push(Error::forbidden(at_spec, text));
        }
        return;
    }
    keep_compute(c, old);
    if !same(c, old) {
        let text = "only cpu and memory resources for init or sidecar containers are mutable";
        e.push(Error::forbidden(at, text));
    }
    let restarts = |p: &&Value| p.text("restartPolicy") == "RestartContainer";
    for _ in c.list("resizePolicy").iter().filter(restarts).filter(|_| changed && !sidecar) {
        let text = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
        e.push(Error::forbidden(at, text));
    }
}

const INIT_RESIZE: &str = "InPlacePodVerticalScalingInitContainers";

/// The stored CPU and memory, so that only other differences remain.
fn keep_compute(holder: &mut Value, old: &Value) {
    for list in ["requests", "limits"] {
        for name in ["cpu", "memory"] {
            match old.at("resources").at(list).at(name) {
                Value::Null => {
                    if let Some(map) = holder.sub("resources").and_then(|r| r.sub(list)) {
                        map.unset(name);
                    }
                }
                amount => holder.ensure("resources").ensure(list).set(name, amount.clone()),
            }
        }
    }
}

fn resize_order(spec: &Value, was: &Value, at: &Path, e: &mut ErrorList) -> bool {
    let before = e.len();
    for list in ["containers", "initContainers"] {
        let (new, old) = (spec.list(list), was.list(list));
        if new.len() != old.len() {
            let text = format!("{list} may not be added or removed on resize");
            e.push(Error::forbidden(&at.child(list), text));
            continue;
        }
        for (i, (n, o)) in new.iter().zip(old).enumerate() {
            if n.text("name") != o.text("name") {
                let text = format!("{list} may not be renamed or reordered on resize");
                e.push(Error::forbidden(&at.child(list).index(i).child("name"), text));
            }
        }
    }
    e.len() == before
}

fn resize_removals(spec: &Value, was: &Value, at: &Path, e: &mut ErrorList) {
    let removed = |new: &Value, old: &Value| old.as_object().into_iter().flatten().any(|(k, _)| !new.has(k));
    for list in ["initContainers", "containers"] {
        for (i, (c, old)) in spec.list(list).iter().zip(was.list(list)).enumerate() {
            let (r, o) = (c.at("resources"), old.at("resources"));
            let fixed = list == "initContainers" && old.text("restartPolicy") != "Always";
            if fixed && !crate::gates::enabled(INIT_RESIZE) {
                continue;
            }
            for kind in ["requests", "limits"] {
                if removed(r.at(kind), o.at(kind)) {
                    let text = format!("resource {kind} cannot be removed");
                    e.push(Error::forbidden(&at.child(list).index(i).child("resources").child(kind), text));
                }
            }
        }
    }
    let (r, o, at) = (spec.at("resources"), was.at("resources"), at.child("resources"));
    if r.is_null() && !o.is_null() {
        e.push(Error::forbidden(&at, "pod-level resources cannot be removed"));
        return;
    }
    for kind in ["requests", "limits"] {
        if removed(r.at(kind), o.at(kind)) {
            e.push(Error::forbidden(&at.child(kind), format!("pod-level resource {kind} cannot be removed")));
        }
    }
}

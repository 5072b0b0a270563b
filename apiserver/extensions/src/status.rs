//! What the status of a definition says: whether its names are free, and whether it is served.

use api::{Map, Value, json};

/// Names that are taken in a group, by whoever is not the definition in question.
#[derive(Default)]
pub struct Taken {
    resources: Vec<String>,
    kinds: Vec<String>,
}

impl Taken {
    /// By all accepted names of other definitions of the group.
    pub fn by_others(crd: &Value, all: &[impl AsRef<Value>]) -> Taken {
        let mut out = Taken::default();
        let others = all.iter().map(AsRef::as_ref).filter(|o| {
            o["metadata"]["uid"] != crd["metadata"]["uid"] && o["spec"]["group"] == crd["spec"]["group"]
        });
        for other in others {
            let names = &other["status"]["acceptedNames"];
            let texts = |key: &str| names[key].as_str().map(str::to_owned);
            out.resources.extend(["plural", "singular"].into_iter().filter_map(texts));
            out.resources.extend(strings(&names["shortNames"]));
            out.kinds.extend(["kind", "listKind"].into_iter().filter_map(texts));
        }
        out
    }
}

fn strings(v: &Value) -> Vec<String> {
    v.as_array().into_iter().flatten().filter_map(|s| s.as_str().map(str::to_owned)).collect()
}

/// `status` as it should be; `served` says whether the resource is in the routes already.
pub fn wanted(crd: &Value, taken: &Taken, served: bool, now: &str) -> Value {
    let mut status = crd["status"].as_object().cloned().unwrap_or_default();
    let (names, conflict) = names(crd, taken);
    let accepted = conflict.is_none();
    let (reason, message) = conflict.unwrap_or(("NoConflicts", "no conflicts found".to_owned()));
    status.insert("acceptedNames".into(), names.into());
    set(&mut status, condition("NamesAccepted", accepted, reason, &message), now);
    let established = is_true(&status, "Established");
    if accepted && !established {
        let text = "the initial names have been accepted";
        let reason = if served { "InitialNamesAccepted" } else { "Installing" };
        set(&mut status, condition("Established", served, reason, text), now);
    } else if !established {
        set(&mut status, condition("Established", false, "NotAccepted", "not all names are accepted"), now);
    }
    status.into()
}

/// The accepted names, and what stands in the way of those that are asked for.
fn names(crd: &Value, taken: &Taken) -> (Map<String, Value>, Option<(&'static str, String)>) {
    let (asked, had) = (&crd["spec"]["names"], &crd["status"]["acceptedNames"]);
    let mut out = had.as_object().cloned().unwrap_or_default();
    let mut conflict = None;
    let checks = [
        ("plural", "PluralConflict", &taken.resources),
        ("singular", "SingularConflict", &taken.resources),
        ("kind", "KindConflict", &taken.kinds),
        ("listKind", "ListKindConflict", &taken.kinds),
    ];
    for (key, reason, used) in checks {
        let name = asked[key].as_str().unwrap_or_default();
        if had[key].as_str() != Some(name) && used.iter().any(|u| u == name) {
            conflict = Some((reason, format!("{name:?} is already in use")));
        } else {
            out.insert(key.to_owned(), name.into());
        }
    }
    let known = strings(&had["shortNames"]);
    let used: Vec<String> = strings(&asked["shortNames"])
        .into_iter()
        .filter(|s| !known.contains(s) && taken.resources.contains(s))
        .map(|s| format!("{s:?} is already in use"))
        .collect();
    match used.as_slice() {
        [] => copy(&mut out, asked, "shortNames"),
        [one] => conflict = Some(("ShortNamesConflict", one.clone())),
        many => conflict = Some(("ShortNamesConflict", format!("[{}]", many.join(", ")))),
    }
    copy(&mut out, asked, "categories");
    (out, conflict)
}

fn copy(out: &mut Map<String, Value>, from: &Value, key: &str) {
    match from.get(key) {
        Some(v) => out.insert(key.to_owned(), v.clone()),
        None => out.remove(key),
    };
}

/// A condition without its time.
pub fn condition(r#type: &str, on: bool, reason: &str, message: &str) -> Value {
    json!({"type": r#type, "status": if on { "True" } else { "False" }, "reason": reason, "message": message})
}

fn is_true(status: &Map<String, Value>, r#type: &str) -> bool {
    let conditions = status.get("conditions").and_then(Value::as_array).into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == r#type && c["status"] == "True")
}

/// Sets a condition; its time is that of the last change of its status.
pub fn set(status: &mut Map<String, Value>, mut condition: Value, now: &str) {
    let list = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(list) = list.as_array_mut() else { return };
    condition["lastTransitionTime"] = now.into();
    match list.iter_mut().find(|c| c["type"] == condition["type"]) {
        Some(old) => {
            if old["status"] == condition["status"] {
                condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            if !old["observedGeneration"].is_null() {
                condition["observedGeneration"] = old["observedGeneration"].clone();
            }
            *old = condition;
        }
        None => list.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn crd(uid: &str, plural: &str, kind: &str) -> Value {
        let names = json!({"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")});
        json!({"metadata": {"uid": uid}, "spec": {"group": "g", "names": names}})
    }

    #[test]
    fn names_are_accepted_once_and_established_when_served() {
        let mut mine = crd("1", "foos", "Foo");
        let first = wanted(&mine, &Taken::default(), false, "t1");
        let of =
            |s: &Value, i: usize| (s["conditions"][i]["type"].clone(), s["conditions"][i]["status"].clone());
        assert_eq!(of(&first, 0), (json!("NamesAccepted"), json!("True")));
        assert_eq!(of(&first, 1), (json!("Established"), json!("False")));
        assert_eq!(first["acceptedNames"]["plural"], "foos");
        mine["status"] = first;
        let second = wanted(&mine, &Taken::default(), true, "t2");
        assert_eq!(of(&second, 1), (json!("Established"), json!("True")));
        assert_eq!(second["conditions"][0]["lastTransitionTime"], "t1");
        mine["status"] = second.clone();
        assert_eq!(wanted(&mine, &Taken::default(), true, "t3"), second, "nothing more to say");
        let other = Arc::new(mine);
        let taken = Taken::by_others(&crd("2", "foos", "Bar"), &[other]);
        let refused = wanted(&crd("2", "foos", "Bar"), &taken, false, "t");
        assert_eq!(refused["conditions"][0]["reason"], "PluralConflict");
        assert_eq!(refused["conditions"][1]["reason"], "NotAccepted");
        assert_eq!(refused["acceptedNames"]["plural"], Value::Null);
    }
}

//! Fields that a feature gate governs: with the gate off, writes lose them.

use crate::schema::{Field, Label, Message};
use crate::{Map, Value};
use rustc_hash::FxHashSet;

/// Removes the fields of `new` whose gates are off, but for fields that `old` uses already: turning a
/// gate off never takes data from stored objects. Returns whether anything was removed.
pub fn drop_disabled(
    message: &'static Message,
    old: Option<&Value>,
    new: &mut Value,
    enabled: &dyn Fn(&str) -> bool,
) -> bool {
    let mut used = FxHashSet::default();
    if let Some(old) = old {
        collect(message, old, enabled, &mut used);
    }
    strip(message, new, enabled, &used)
}

/// Whether a message has, anywhere in it, a field whose gate is off: most have none, and their writes need no walk.
pub fn governs(message: &'static Message, enabled: &dyn Fn(&str) -> bool) -> bool {
    let (mut seen, mut next) = (FxHashSet::default(), vec![message]);
    while let Some(m) = next.pop() {
        if !seen.insert(std::ptr::from_ref(m)) {
            continue;
        }
        for f in &m.fields {
            if is_off(f, enabled) {
                return true;
            }
            next.extend(f.message().filter(|m| m.special.is_none()));
        }
    }
    false
}

type Fields = FxHashSet<*const Field>;

fn is_off(f: &Field, enabled: &dyn Fn(&str) -> bool) -> bool {
    // A field that several gates govern needs all of them.
    f.feature_gates.iter().any(|g| !enabled(g))
}

/// The governed fields that an object uses, wherever in it.
fn collect(m: &'static Message, v: &Value, enabled: &dyn Fn(&str) -> bool, out: &mut Fields) {
    let Value::Object(map) = v else { return };
    for (key, value) in map {
        let Some(f) = m.field(key) else { continue };
        if is_off(f, enabled) {
            out.insert(std::ptr::from_ref(f));
        }
        let Some(inner) = f.message().filter(|m| m.special.is_none()) else { continue };
        match (f.label, value) {
            (Label::One, v) => collect(inner, v, enabled, out),
            (Label::List, Value::Array(items)) => items.iter().for_each(|v| collect(inner, v, enabled, out)),
            (Label::Map, Value::Object(map)) => map.values().for_each(|v| collect(inner, v, enabled, out)),
            _ => {}
        }
    }
}

fn strip(m: &'static Message, v: &mut Value, enabled: &dyn Fn(&str) -> bool, used: &Fields) -> bool {
    let Value::Object(map) = v else { return false };
    let before = map.len();
    map.retain(|key, _| {
        m.field(key).is_none_or(|f| !is_off(f, enabled) || used.contains(&std::ptr::from_ref(f)))
    });
    let mut removed = map.len() < before;
    let mut emptied = Vec::new();
    for (key, value) in map.iter_mut() {
        let Some(f) = m.field(key) else { continue };
        let Some(inner) = f.message().filter(|m| m.special.is_none()) else { continue };
        removed |= match (f.label, value) {
            (Label::One, v) => {
                let removed = strip(inner, v, enabled, used);
                // Nothing is left of what was there for the sake of the feature.
                if removed && f.nullable && v.as_object().is_some_and(Map::is_empty) {
                    emptied.push(key.clone());
                }
                removed
            }
            (Label::List, Value::Array(items)) => each(items.iter_mut(), inner, enabled, used),
            (Label::Map, Value::Object(map)) => each(map_values(map), inner, enabled, used),
            _ => false,
        };
    }
    for key in emptied {
        map.remove(&key);
    }
    removed
}

fn map_values(map: &mut Map<String, Value>) -> impl Iterator<Item = &mut Value> {
    map.values_mut()
}

fn each<'v>(
    values: impl Iterator<Item = &'v mut Value>,
    m: &'static Message,
    enabled: &dyn Fn(&str) -> bool,
    used: &Fields,
) -> bool {
    values.fold(false, |removed, v| strip(m, v, enabled, used) | removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{json, schema};

    #[test]
    fn fields_go_when_their_gate_is_off_unless_they_are_in_use() {
        let pod = schema::for_kind_parts("", "v1", "Pod").unwrap();
        let rules = json!([{"action": "Restart"}]);
        let object =
            json!({"spec": {"containers": [{"name": "a", "restartPolicyRules": rules}, {"name": "b"}]}});
        let off = |g: &str| g != "ContainerRestartRules";
        assert!(governs(pod, &off) && !governs(pod, &|_| true));

        let mut new = object.clone();
        assert!(drop_disabled(pod, None, &mut new, &off));
        assert_eq!(new, json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}));

        let mut new = object.clone();
        assert!(!drop_disabled(pod, Some(&object), &mut new, &off));
        assert!(!drop_disabled(pod, None, &mut new, &|_| true));
        assert_eq!(new, object);
    }
}

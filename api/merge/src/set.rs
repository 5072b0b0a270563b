//! Sets of fields, and their `fieldsV1` form.
//!
//! A set is a tree. The keys are path elements in their `fieldsV1` spelling (`f:name`,
//! `k:{"name":"a"}`, `v:"x"`, `i:0`), which are unique, so elements compare as strings.

use api::{Map, Value, json};
use std::borrow::Cow;

/// A path element in its `fieldsV1` spelling. Those of the field table are not allocated.
pub(crate) type Key = Cow<'static, str>;

/// A set of fields. The node itself is a member of its parent's set when `member` is true.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    pub(crate) member: bool,
    /// Sorted by key. Sets are built in order and small, so a list beats a tree.
    children: Vec<(Key, Set)>,
}

impl Set {
    pub fn new() -> Self {
        Self::default()
    }

    /// A leaf that is a member.
    pub(crate) fn leaf() -> Self {
        Set { member: true, children: Vec::new() }
    }

    /// A set of paths of plain field names.
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        let mut out = Set::new();
        for path in paths {
            let mut node = &mut out;
            for name in *path {
                node = node.entry(Cow::Owned(format!("f:{name}")));
            }
            node.member = true;
        }
        out
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        // Most keys arrive in order.
        match self.children.last() {
            Some((last, _)) if **last < *key => Err(self.children.len()),
            _ => self.children.binary_search_by(|(k, _)| (**k).cmp(key)),
        }
    }

    pub(crate) fn child(&self, key: &str) -> Option<&Set> {
        self.find(key).ok().map(|i| &self.children[i].1)
    }

    pub(crate) fn children(&self) -> impl Iterator<Item = (&Key, &Set)> {
        self.children.iter().map(|(k, s)| (k, s))
    }

    /// The child under a key, made if it is not there.
    pub(crate) fn entry(&mut self, key: Key) -> &mut Set {
        let i = match self.find(&key) {
            Ok(i) => i,
            Err(i) => {
                self.children.insert(i, (key, Set::new()));
                i
            }
        };
        &mut self.children[i].1
    }

    pub(crate) fn put(&mut self, key: Key, child: Set) {
        if child.is_empty() {
            return;
        }
        match self.find(&key) {
            Ok(i) => self.children[i].1 = child,
            Err(i) => self.children.insert(i, (key, child)),
        }
    }

    /// Whether a path of elements (in `fieldsV1` spelling) is a member.
    pub fn has(&self, path: &[&str]) -> bool {
        let mut node = self;
        for element in path {
            match node.child(element) {
                Some(n) => node = n,
                None => return false,
            }
        }
        node.member
    }

    pub fn union(mut self, other: &Set) -> Set {
        self.union_with(other);
        self
    }

    pub fn union_with(&mut self, other: &Set) {
        self.member |= other.member;
        for (key, theirs) in &other.children {
            match self.find(key) {
                Ok(i) => self.children[i].1.union_with(theirs),
                Err(i) => self.children.insert(i, (key.clone(), theirs.clone())),
            }
        }
    }

    /// Members that are in both.
    pub fn intersection(&self, other: &Set) -> Set {
        let mut out = Set { member: self.member && other.member, children: Vec::new() };
        for (key, a) in &self.children {
            if let Some(b) = other.child(key) {
                out.put(key.clone(), a.intersection(b));
            }
        }
        out
    }

    /// Members that are not in the other; children of removed members stay.
    pub fn difference(&self, other: &Set) -> Set {
        let mut out = self.clone();
        out.remove_all(other, false);
        out
    }

    /// As [`Set::difference`], but everything below a removed member goes too.
    pub fn recursive_difference(&self, other: &Set) -> Set {
        let mut out = self.clone();
        out.remove_all(other, true);
        out
    }

    pub(crate) fn remove_all(&mut self, other: &Set, recursive: bool) {
        self.member &= !other.member;
        for (key, theirs) in &other.children {
            let Ok(i) = self.find(key) else { continue };
            if !(recursive && theirs.member) {
                self.children[i].1.remove_all(theirs, recursive);
                if !self.children[i].1.is_empty() {
                    continue;
                }
            }
            self.children.remove(i);
        }
    }

    /// Only what is at or below a member of `other`.
    pub fn below(&self, other: &Set) -> Set {
        let mut out = Set::new();
        for (key, theirs) in &other.children {
            if let Some(mine) = self.child(key) {
                out.put(key.clone(), if theirs.member { mine.clone() } else { mine.below(theirs) });
            }
        }
        out
    }

    /// The `fieldsV1` object.
    pub fn to_value(&self) -> Value {
        let mut out = Map::new();
        for (key, child) in &self.children {
            let mut inner = match child.to_value() {
                Value::Object(map) => map,
                _ => Map::new(),
            };
            if child.member && !child.children.is_empty() {
                inner.insert(".".into(), Value::Object(Map::new()));
            }
            out.insert(key.to_string(), inner.into());
        }
        out.into()
    }

    /// Reads a `fieldsV1` object. Elements of no spelling at all are errors.
    pub fn from_value(v: &Value) -> Result<Set, String> {
        let mut out = Set::new();
        let Some(map) = v.as_object() else { return Err("fieldsV1 is not an object".into()) };
        for (key, inner) in map {
            if key == "." {
                out.member = true;
                continue;
            }
            // Kinds of path elements that are not known (yet) are passed over.
            let Some(key) = canonical_element(key)? else { continue };
            let mut child = Set::from_value(inner)?;
            child.member |= child.children.is_empty();
            *out.entry(key) = child;
        }
        Ok(out)
    }

    /// Every member as a readable path, e.g. `.spec.containers[name="a"].image`, in order.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect(&mut String::new(), &mut out);
        out
    }

    fn collect(&self, prefix: &mut String, out: &mut Vec<String>) {
        for (key, child) in &self.children {
            let start = prefix.len();
            prefix.push_str(&readable(key));
            if child.member {
                out.push(prefix.clone());
            }
            child.collect(prefix, out);
            prefix.truncate(start);
        }
    }
}

/// Other writers may order or space the JSON inside `k:` and `v:` differently.
fn canonical_element(key: &str) -> Result<Option<Key>, String> {
    match key.split_at_checked(2) {
        Some(("f:", _)) => Ok(Some(Cow::Owned(key.into()))),
        Some(("i:", n)) if n.parse::<i64>().is_ok() => Ok(Some(Cow::Owned(key.into()))),
        Some((prefix @ ("k:" | "v:"), text)) => {
            let v: Value =
                serde_json::from_str(text).map_err(|e| format!("bad path element {key:?}: {e}"))?;
            Ok(Some(Cow::Owned(format!("{prefix}{}", serde_json::to_string(&v).unwrap_or_default()))))
        }
        Some((other, _)) if other.ends_with(':') && other != "i:" => Ok(None),
        _ => Err(format!("bad path element {key:?}")),
    }
}

/// One element as error texts show it.
fn readable(key: &str) -> String {
    let (prefix, rest) = key.split_at_checked(2).unwrap_or(("", key));
    match prefix {
        "f:" => format!(".{rest}"),
        "k:" => {
            let pairs: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let shown: Vec<String> =
                pairs.iter().map(|(k, v)| format!("{k}={}", json::to_string(v))).collect();
            format!("[{}]", shown.join(","))
        }
        "v:" => format!("[={rest}]"),
        _ => format!("[{rest}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn sets_round_trip_and_combine() {
        let v = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}}}, "f:x": {"v:\"a\"": {}}}});
        let s = Set::from_value(&v).unwrap();
        assert_eq!(s.to_value(), v);
        assert_eq!(
            s.paths(),
            [
                ".metadata.labels",
                ".metadata.labels.app",
                ".spec.ports[containerPort=80,protocol=\"TCP\"]",
                ".spec.ports[containerPort=80,protocol=\"TCP\"].name",
                ".spec.x[=\"a\"]"
            ]
        );
        let labels = Set::of_fields(&[&["metadata", "labels"]]);
        assert_eq!(s.intersection(&labels), labels);
        assert!(s.difference(&labels).has(&["f:metadata", "f:labels", "f:app"]));
        assert!(!s.recursive_difference(&labels).has(&["f:metadata", "f:labels", "f:app"]));
        assert_eq!(s.difference(&s), Set::new());
        assert_eq!(s.below(&labels).paths(), [".metadata.labels", ".metadata.labels.app"]);
        assert_eq!(s.difference(&labels).union(&labels), s);
        assert_eq!(Set::from_value(&json!({"x:y": {}})), Ok(Set::new()));
        assert!(Set::from_value(&json!({"bad": {}})).is_err());
        assert!(Set::from_value(&json!({"i:x": {}})).is_err());
        let spaced = Set::from_value(&json!({"f:a": {"k:{\"b\": 1, \"a\": 2}": {}}})).unwrap();
        assert_eq!(spaced.paths(), [".a[a=2,b=1]"]);
    }
}

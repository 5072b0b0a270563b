//! Values as error texts print them: upstream prints its internal structs, which name fields as Go
//! does and leave nothing out. Worked out from the field table, so that no type is spelled out here;
//! where the internal struct differs from the one on the wire, `shown/internal.txt` says how.

use api::field::{Error, ErrorList};

use api::schema::{Field, Kind, Label, Message, Special};
use api::{Map, Value};
use std::collections::HashMap;
use std::sync::LazyLock;

mod difference;
mod patched;
mod place;

pub use patched::{Touched, patched};

/// What is printed, with its fields in the order of the struct.
enum Node {
    /// A scalar, as it stands.
    Text(String),
    List(Vec<Node>),
    Fields(Vec<(String, Node)>),
}

/// The value as the internal struct of that message would print.
pub fn internal(message: &str, v: &Value) -> String {
    match api::schema::message(message) {
        Some(m) => object(m, v, &Value::Null).compact(),
        None => scalar(v),
    }
}

/// The value with its fields in the order of the table, as types that have JSON tags print.
pub fn external(message: &str, v: &Value) -> String {
    match api::schema::message(message) {
        Some(m) => tagged(m, v).compact(),
        None => scalar(v),
    }
}

/// What differs between two values of a message, as a patch of their printed lines.
pub fn difference(message: &str, old: &Value, new: &Value) -> String {
    let pretty = |v: &Value| match api::schema::message(message) {
        Some(m) => object(m, v, &Value::Null).pretty(),
        None => scalar(v),
    };
    difference::unified(&pretty(old), &pretty(new))
}

/// Prints the values of errors that are structures, by the types that stand in those places of the kind.
pub fn as_structs(object: &Value, errors: &mut ErrorList) {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = object["kind"].as_str().unwrap_or_default();
    let Some(kind) = api::schema::for_kind_parts(group, version, kind) else { return };
    errors.iter_mut().for_each(|e| as_struct(kind, e));
}

fn as_struct(kind: &'static Message, e: &mut Error) {
    let Some(v) = e.bad_value.as_ref().filter(|_| e.printed.is_none()) else { return };
    if !matches!(v, Value::Object(_) | Value::Array(_) | Value::Null) {
        return;
    }
    // Nothing is what stands there only where a field was compared; else upstream says nothing itself.
    if v.is_null() && e.detail != crate::metadata::IMMUTABLE {
        return;
    }
    let Some((f, inside)) = place::find(kind, &e.field) else { return };
    let node = match (f.label, v) {
        (Label::List | Label::Map, v) if inside => element(f, v),
        (Label::List, Value::Object(_)) => element(f, v),
        (Label::List, Value::Array(_) | Value::Null) | (Label::Map, Value::Object(_) | Value::Null) => {
            field(f, v, &Value::Null, f.nullable)
        }
        (Label::One, Value::Object(_) | Value::Null) => field(f, v, &Value::Null, f.nullable),
        _ => return,
    };
    e.printed = Some(node.compact());
}

impl Node {
    fn null() -> Node {
        Node::Text("null".to_owned())
    }

    fn compact(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, None);
        out
    }

    fn pretty(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, Some(0));
        out
    }

    /// Writes JSON; `depth` is how far in lines are, if there are lines.
    fn write(&self, out: &mut String, depth: Option<usize>) {
        let inner = depth.map(|d| d + 1);
        let line = |out: &mut String, depth: Option<usize>| {
            if let Some(depth) = depth {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', depth));
            }
        };
        match self {
            Node::Text(text) => out.push_str(text),
            Node::List(items) if items.is_empty() => out.push_str("[]"),
            Node::Fields(fields) if fields.is_empty() => out.push_str("{}"),
            Node::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    out.push(if i == 0 { '[' } else { ',' });
                    line(out, inner);
                    item.write(out, inner);
                }
                line(out, depth);
                out.push(']');
            }
            Node::Fields(fields) => {
                for (i, (name, value)) in fields.iter().enumerate() {
                    out.push(if i == 0 { '{' } else { ',' });
                    line(out, inner);
                    out.push_str(&api::json::text(name));
                    out.push_str(if depth.is_some() { ": " } else { ":" });
                    value.write(out, inner);
                }
                line(out, depth);
                out.push('}');
            }
        }
    }
}

fn scalar(v: &Value) -> String {
    match v {
        Value::String(s) => api::json::text(s),
        other => other.to_string(),
    }
}

/// JSON of no known type, as Go writes it.
fn plain(v: &Value) -> Node {
    match v {
        Value::Array(list) => Node::List(list.iter().map(plain).collect()),
        Value::Object(map) => sorted(map, plain),
        other => Node::Text(scalar(other)),
    }
}

fn sorted(map: &Map<String, Value>, show: impl Fn(&Value) -> Node) -> Node {
    let mut fields: Vec<(String, Node)> = map.iter().map(|(k, v)| (k.clone(), show(v))).collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    Node::Fields(fields)
}

fn struct_of(f: &Field) -> Option<&'static Message> {
    f.message().filter(|m| m.special.is_none())
}

fn tagged(m: &'static Message, v: &Value) -> Node {
    match v {
        Value::Object(map) => Node::Fields(tagged_fields(m, map)),
        Value::Array(list) => Node::List(list.iter().map(|v| tagged(m, v)).collect()),
        other => Node::Text(scalar(other)),
    }
}

fn tagged_fields(m: &'static Message, map: &Map<String, Value>) -> Vec<(String, Node)> {
    let mut fields = Vec::new();
    for f in m.fields.iter() {
        match (map.get(f.json), struct_of(f)) {
            _ if f.inline => fields.extend(f.message().into_iter().flat_map(|m| tagged_fields(m, map))),
            (None, _) => {}
            (Some(v), Some(inner)) if f.label != Label::Map => {
                fields.push((f.json.to_owned(), tagged(inner, v)));
            }
            (Some(v), _) => fields.push((f.json.to_owned(), plain(v))),
        }
    }
    fields
}

/// How one field of an internal struct is named and where its value is.
struct Named {
    name: &'static str,
    from: From,
    /// Whether it is a pointer, where that differs from the wire.
    pointer: Option<bool>,
}

enum From {
    /// A key of the same object.
    Key(&'static str),
    /// A key of the object around.
    Around(&'static str),
    /// The object itself.
    Itself,
    /// Nothing: always the same text.
    Always(&'static str),
}

struct Internal {
    names: HashMap<&'static str, &'static str>,
    keys: HashMap<&'static str, &'static str>,
    structs: HashMap<&'static str, Vec<Named>>,
}

static INTERNAL: LazyLock<Internal> = LazyLock::new(|| {
    let mut all = Internal { names: HashMap::new(), keys: HashMap::new(), structs: HashMap::new() };
    for line in include_str!("shown/internal.txt").lines().filter(|l| !l.starts_with('#')) {
        let mut words = line.split(' ');
        match (words.next(), line.strip_prefix("n ").and_then(|l| l.split_once(' '))) {
            (_, Some((json, name))) => {
                all.names.insert(json, name);
                all.keys.insert(name, json);
            }
            (Some(name), None) if !name.is_empty() => {
                let fields = words.map(|word| named(word, &all.keys)).collect();
                all.structs.insert(name, fields);
            }
            _ => {}
        }
    }
    all
});

fn named(word: &'static str, keys: &HashMap<&'static str, &'static str>) -> Named {
    let (word, pointer) = match (word.strip_suffix('*'), word.strip_suffix('!')) {
        (Some(word), _) => (word, Some(true)),
        (_, Some(word)) => (word, Some(false)),
        _ => (word, None),
    };
    let (name, from) = match word.split_once('=') {
        Some((name, ".")) => (name, From::Itself),
        Some((name, from)) => (
            name,
            match (from.strip_prefix('^'), from.strip_prefix('-')) {
                (Some(key), _) => From::Around(key),
                (_, Some(text)) => From::Always(text),
                _ => From::Key(from),
            },
        ),
        None => (word, From::Key(keys.get(word).copied().unwrap_or_else(|| lower(word)))),
    };
    Named { name, from, pointer }
}

/// The JSON key of a Go name without abbreviations. The table is read once, so nothing piles up.
fn lower(name: &str) -> &'static str {
    let mut key = name.to_owned();
    if let Some(first) = key.get_mut(0..1) {
        first.make_ascii_lowercase();
    }
    String::leak(key)
}

fn go_name(json: &str) -> String {
    if let Some(name) = INTERNAL.names.get(json) {
        return (*name).to_owned();
    }
    let mut name = json.to_owned();
    if let Some(first) = name.get_mut(0..1) {
        first.make_ascii_uppercase();
    }
    name
}

/// A struct, with the object that it stands in.
fn object(m: &'static Message, v: &Value, around: &Value) -> Node {
    // Upstream has no internal form of what all groups share; that has JSON tags.
    if m.name.starts_with("k8s.io.apimachinery.") {
        return tagged(m, if v.is_null() { &EMPTY } else { v });
    }
    Node::Fields(fields(m, v, around))
}

static EMPTY: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));

fn fields(m: &'static Message, v: &Value, around: &Value) -> Vec<(String, Node)> {
    let package = m.package().rsplit('.').nth(1).unwrap_or_default();
    let mut out = Vec::new();
    match INTERNAL.structs.get(format!("{package}.{}", m.short).as_str()) {
        None => m.fields.iter().for_each(|f| own(f, v, &mut out)),
        Some(all) => {
            for one in all {
                let node = match one.from {
                    From::Itself => Node::Fields(m.fields.iter().filter(|f| f.inline).fold(
                        Vec::new(),
                        |mut fields, f| {
                            own(f, v, &mut fields);
                            fields
                        },
                    )),
                    From::Always(text) => Node::Text(text.to_owned()),
                    From::Around(key) => match (&around[key], one.pointer) {
                        (Value::Null, None) => Node::Text("false".to_owned()),
                        (v, _) => plain(v),
                    },
                    From::Key(key) => match m.field(key) {
                        Some(f) => field(f, &v[key], v, one.pointer.unwrap_or(f.nullable)),
                        None => continue,
                    },
                };
                out.push((one.name.to_owned(), node));
            }
        }
    }
    out
}

/// A field that is as on the wire; embedded structs have no name of their own.
fn own(f: &'static Field, v: &Value, out: &mut Vec<(String, Node)>) {
    match f.message() {
        Some(m) if f.inline => out.extend(fields(m, v, &Value::Null)),
        Some(m) if f.json == "metadata" && m.name == api::schema::object_meta().name => {
            out.extend(v["metadata"].as_object().into_iter().flat_map(|map| tagged_fields(m, map)));
        }
        _ => out.push((go_name(f.json), field(f, &v[f.json], v, f.nullable))),
    }
}

fn field(f: &'static Field, v: &Value, around: &Value, pointer: bool) -> Node {
    match (f.label, struct_of(f), v) {
        (Label::List, _, Value::Array(list)) => Node::List(list.iter().map(|v| element(f, v)).collect()),
        (Label::Map, _, Value::Object(map)) => sorted(map, |v| element(f, v)),
        (Label::List | Label::Map, _, Value::Null) => Node::null(),
        (Label::One, Some(m), v) if !v.is_null() || !pointer || is_always_there(m) => object(m, v, around),
        (Label::One, _, Value::Null) if !pointer => Node::Text(zero(f).to_owned()),
        (_, _, v) => plain(v),
    }
}

/// The one struct that upstream makes if there is none: it keeps fields that are elsewhere on the wire.
fn is_always_there(m: &Message) -> bool {
    m.name == "k8s.io.api.core.v1.PodSecurityContext"
}

fn element(f: &'static Field, v: &Value) -> Node {
    match struct_of(f) {
        Some(m) if v.is_object() => object(m, v, &Value::Null),
        _ => plain(v),
    }
}

fn zero(f: &Field) -> &'static str {
    match f.kind {
        Kind::String => "\"\"",
        Kind::Bool => "false",
        Kind::Int32 | Kind::Int64 | Kind::Double => "0",
        Kind::Bytes => "null",
        Kind::Message(_) => match f.message().and_then(|m| m.special) {
            Some(Special::Quantity) => "\"0\"",
            Some(Special::IntOrString) => "0",
            Some(Special::Duration) => "\"0s\"",
            _ => "null",
        },
    }
}

#[cfg(test)]
mod tests;

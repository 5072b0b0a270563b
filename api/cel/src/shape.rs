//! Schemas as expressions see them: the type of each part of an object, how JSON of it is read, and how large
//! it can become.

use crate::names::escape;
use crate::types::{Fields, Type};
use crate::value::{Text, Val};
use api::Value as Json;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What a request may be long at most.
const MAX_REQUEST: u64 = 3 * 1024 * 1024;

/// One part of a schema.
#[derive(Clone)]
pub struct Shape {
    pub kind: Kind,
    /// The most elements, bytes or properties it can have.
    pub max: u64,
    /// The least bytes of JSON that a value takes.
    min_size: u64,
    pub nullable: bool,
}

#[derive(Clone)]
pub enum Kind {
    /// Anything.
    Dyn,
    Bool,
    Int,
    Double,
    String,
    Bytes,
    Timestamp,
    Date,
    Duration,
    List(Box<Shape>, ListKind),
    Map(Box<Shape>),
    Object(Arc<Object>),
}

#[derive(Clone, Debug, PartialEq)]
pub enum ListKind {
    Atomic,
    Set,
    Map(Vec<String>),
}

pub struct Object {
    name: String,
    /// By the name that expressions use.
    fields: BTreeMap<String, (String, Shape)>,
    /// From the name in JSON to the one that expressions use.
    names: BTreeMap<String, String>,
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shape({})", self.as_type())
    }
}

impl Fields for Object {
    fn name(&self) -> &str {
        &self.name
    }
    fn field(&self, name: &str) -> Option<Type> {
        self.fields.get(name).map(|(_, shape)| shape.as_type())
    }
}

struct Shared(Arc<Object>);

impl Fields for Shared {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn field(&self, name: &str) -> Option<Type> {
        self.0.field(name)
    }
}

fn flag(schema: &Json, key: &str) -> bool {
    schema.get(key).and_then(Json::as_bool).unwrap_or_default()
}

fn number(schema: &Json, key: &str) -> Option<u64> {
    schema.get(key).and_then(Json::as_u64)
}

fn text<'a>(schema: &'a Json, key: &str) -> &'a str {
    schema.get(key).and_then(Json::as_str).unwrap_or_default()
}

/// How deep a schema is read.
const MAX_DEPTH: usize = 100;

impl Shape {
    /// From a structural schema; `None` if expressions cannot see values of it. The root of a resource has
    /// metadata of its own.
    pub fn of(schema: &Json, root: bool) -> Option<Shape> {
        Shape::named(schema, root, "object", 0)
    }

    fn plain(kind: Kind, min_size: u64, max: u64) -> Shape {
        Shape { kind, max, min_size, nullable: false }
    }

    fn named(schema: &Json, root: bool, name: &str, depth: usize) -> Option<Shape> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut shape = Shape::read(schema, root, name, depth)?;
        shape.nullable = flag(schema, "nullable");
        if shape.nullable {
            shape.min_size = shape.min_size.min(4);
        }
        Some(shape)
    }

    fn read(schema: &Json, root: bool, name: &str, depth: usize) -> Option<Shape> {
        if flag(schema, "x-kubernetes-int-or-string") {
            return Some(Shape::plain(Kind::Dyn, 1, MAX_REQUEST - 2));
        }
        match text(schema, "type") {
            "array" => {
                let items = Shape::named(schema.get("items")?, false, &format!("{name}.@idx"), depth + 1)?;
                let max = number(schema, "maxItems")
                    .unwrap_or(MAX_REQUEST.saturating_sub(2) / (items.min_size + 1));
                let keys = schema.get("x-kubernetes-list-map-keys").and_then(Json::as_array);
                let keys = keys.into_iter().flatten().filter_map(|k| k.as_str().map(str::to_owned));
                let kind = match text(schema, "x-kubernetes-list-type") {
                    "set" => ListKind::Set,
                    "map" => ListKind::Map(keys.collect()),
                    _ => ListKind::Atomic,
                };
                Some(Shape::plain(Kind::List(Box::new(items), kind), 2, max))
            }
            "object" => Shape::object(schema, root, name, depth),
            "string" => Some(string(schema)),
            "boolean" => Some(Shape::plain(Kind::Bool, 4, 0)),
            "number" => Some(Shape::plain(Kind::Double, 1, 0)),
            "integer" => Some(Shape::plain(Kind::Int, 1, 0)),
            _ => None,
        }
    }

    fn object(schema: &Json, root: bool, name: &str, depth: usize) -> Option<Shape> {
        if let Some(of) = schema.get("additionalProperties").filter(|a| a.is_object()) {
            let values = Shape::named(of, false, &format!("{name}.@elem"), depth + 1)?;
            // A key takes two letters, quotes, a colon and a comma.
            let max = number(schema, "maxProperties")
                .unwrap_or(MAX_REQUEST.saturating_sub(2) / (values.min_size + 6));
            return Some(Shape::plain(Kind::Map(Box::new(values)), 2, max));
        }
        let mut fields = BTreeMap::new();
        let embedded = flag(schema, "x-kubernetes-embedded-resource");
        if root || embedded {
            let string = || Shape::plain(Kind::String, 2, MAX_REQUEST - 2);
            for key in ["apiVersion", "kind"] {
                fields.insert(key.to_owned(), (key.to_owned(), string()));
            }
            let names = ["name", "generateName"].map(|k| (k.to_owned(), (k.to_owned(), string())));
            let metadata = Object::new(format!("{name}.metadata"), names.into());
            let metadata = Shape::plain(Kind::Object(Arc::new(metadata)), 2, 2);
            fields.insert("metadata".to_owned(), ("metadata".to_owned(), metadata));
        }
        let mut min_size = 2;
        let required = schema.get("required").and_then(Json::as_array);
        let required: Vec<&str> = required.into_iter().flatten().filter_map(Json::as_str).collect();
        let properties = schema.get("properties").and_then(Json::as_object);
        for (key, of) in properties.into_iter().flatten() {
            let known = fields.contains_key(key);
            let Some(escaped) = escape(key) else { continue };
            let Some(shape) = Shape::named(of, false, &format!("{name}.{escaped}"), depth + 1) else {
                continue;
            };
            if required.contains(&key.as_str()) && of.get("default").is_none() {
                min_size += key.len() as u64 + 4 + shape.min_size;
            }
            if !known || key == "metadata" && !root && !embedded {
                fields.insert(escaped, (key.clone(), shape));
            }
        }
        Some(Shape::plain(Kind::Object(Arc::new(Object::new(name.to_owned(), fields))), min_size, 0))
    }

    /// The least bytes of JSON that a value takes.
    pub fn min_size(&self) -> u64 {
        self.min_size
    }

    /// The type that the checker sees.
    pub fn as_type(&self) -> Type {
        match &self.kind {
            Kind::Dyn => Type::Dyn,
            Kind::Bool => Type::Bool,
            Kind::Int => Type::Int,
            Kind::Double => Type::Double,
            Kind::String => Type::String,
            Kind::Bytes => Type::Bytes,
            Kind::Timestamp | Kind::Date => Type::Timestamp,
            Kind::Duration => Type::Duration,
            Kind::List(of, _) => Type::list(of.as_type()),
            Kind::Map(of) => Type::map(Type::String, of.as_type()),
            Kind::Object(o) => Type::Struct(Arc::new(Shared(o.clone()))),
        }
    }

    pub fn items(&self) -> Option<&Shape> {
        match &self.kind {
            Kind::List(of, _) => Some(of),
            _ => None,
        }
    }

    pub fn list_kind(&self) -> &ListKind {
        match &self.kind {
            Kind::List(_, kind) => kind,
            _ => &ListKind::Atomic,
        }
    }

    /// The JSON name and shape of what expressions call `name`.
    pub fn field<'a, 'n: 'k, 'k>(&'a self, name: &'n str) -> Option<(&'k str, Option<&'a Shape>)>
    where
        'a: 'k,
    {
        match &self.kind {
            Kind::Object(o) => o.fields.get(name).map(|(key, shape)| (key.as_str(), Some(shape))),
            Kind::Map(of) => Some((name, Some(of))),
            _ => Some((name, None)),
        }
    }

    /// What expressions call a JSON key, and its shape.
    pub fn entry<'a>(&'a self, key: &'a str) -> Option<(Text<'a>, Option<&'a Shape>)> {
        match &self.kind {
            Kind::Object(o) => {
                let name = o.names.get(key)?;
                o.fields.get(name).map(|(_, shape)| (Text::Of(name), Some(shape)))
            }
            Kind::Map(of) => Some((Text::Of(key), Some(of))),
            _ => Some((Text::Of(key), None)),
        }
    }

    /// The shape at a step of a path as costs are estimated (`@items`, `@values`, `@keys` or a field).
    pub fn step(&self, name: &str) -> Option<&Shape> {
        match (&self.kind, name) {
            (Kind::List(of, _), "@items") | (Kind::Map(of), "@values") => Some(of),
            (Kind::Object(o), name) => o.fields.get(name).map(|(_, shape)| shape),
            (Kind::Map(of), name) if !name.starts_with('@') => Some(of),
            _ => None,
        }
    }

    pub(crate) fn is_double(&self) -> bool {
        matches!(self.kind, Kind::Double)
    }

    /// Texts that stand for something else.
    pub(crate) fn read_string<'a>(&self, s: &'a str) -> Option<Val<'a>> {
        match self.kind {
            Kind::Timestamp => crate::time::parse_timestamp(s).map(Val::Timestamp),
            Kind::Date => crate::time::parse_timestamp(&format!("{s}T00:00:00Z")).map(Val::Timestamp),
            Kind::Duration => crate::time::parse_duration(s).map(Val::Duration),
            Kind::Bytes => {
                use base64::Engine;
                let bytes = base64::engine::general_purpose::STANDARD.decode(s).ok()?;
                Some(Val::Bytes(bytes.into()))
            }
            _ => None,
        }
    }
}

impl Object {
    fn new(name: String, fields: BTreeMap<String, (String, Shape)>) -> Object {
        let names = fields.iter().map(|(name, (key, _))| (key.clone(), name.clone())).collect();
        Object { name, fields, names }
    }
}

fn string(schema: &Json) -> Shape {
    match text(schema, "format") {
        "byte" => {
            let max = number(schema, "maxLength").unwrap_or(MAX_REQUEST - 2);
            Shape::plain(Kind::Bytes, 2, max)
        }
        "duration" => Shape::plain(Kind::Duration, 3, 32),
        "date" => Shape::plain(Kind::Date, 12, 12),
        "date-time" => Shape::plain(Kind::Timestamp, 21, 32),
        _ => {
            let enums = schema.get("enum").and_then(Json::as_array);
            let longest = enums.map(|all| all.iter().filter_map(Json::as_str).map(str::len).max());
            // A character can take four bytes.
            let max = match (number(schema, "maxLength"), longest.flatten()) {
                (Some(n), _) => n.saturating_mul(4),
                (None, Some(n)) => n as u64,
                (None, None) => MAX_REQUEST - 2,
            };
            Shape::plain(Kind::String, 2, max)
        }
    }
}

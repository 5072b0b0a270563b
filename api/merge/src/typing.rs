//! What a value's type says about merging: is this map or list one value, or a set of owned parts?

use api::Value;
use api::schema::{Field, Kind, Label, ListType, Message, object_meta};

/// The type of one place in an object.
#[derive(Clone, Copy, Debug)]
pub enum Type<'a> {
    /// A value of a message of the field table.
    Message(&'static Message),
    /// The whole value of a field: single, list or map.
    Field(&'static Field),
    /// An element of a list field, or a value of a map field.
    Item(&'static Field),
    /// A custom object; its structural schema, if it has one.
    Custom(Option<&'a Value>),
    /// A place in a structural schema.
    Schema(&'a Value),
    /// Nothing is known: maps are granular, lists are one value.
    Deduced,
    /// One value whatever it is.
    Atomic,
}

/// How to treat a value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shape<'a> {
    /// Owned and replaced as a whole.
    Leaf,
    /// A struct or granular map.
    Map,
    /// A list of distinct scalars.
    Set,
    /// A list of objects told apart by these keys, sorted.
    Keyed(Vec<&'a str>),
}

/// A child of a map.
pub(crate) struct Child<'a> {
    pub ty: Type<'a>,
    /// Declared by name, as a struct's field is.
    pub named: bool,
    /// Always there in the encoded form, if only as null.
    pub always: bool,
}

impl<'a> Type<'a> {
    /// The type of objects of a built-in kind.
    pub fn of(message: &'static Message) -> Type<'static> {
        Type::Message(message)
    }

    /// How a value of this type is treated; the values decide where the type is open.
    pub(crate) fn shape(self, a: Option<&Value>, b: Option<&Value>) -> Shape<'a> {
        match self {
            Type::Message(m) => message_shape(m),
            Type::Item(f) => f.message().map_or(Shape::Leaf, message_shape),
            Type::Field(f) => field_shape(f),
            Type::Custom(_) => Shape::Map,
            Type::Schema(s) => schema_shape(s, a, b),
            Type::Deduced => deduced(a, b),
            Type::Atomic => Shape::Leaf,
        }
    }

    /// The child of a map under that key; `None` if the key is not declared.
    pub(crate) fn child(self, key: &str) -> Option<Child<'a>> {
        match self {
            Type::Message(m) => message_child(m, key),
            Type::Item(f) => f.message().map_or(known(Type::Deduced), |m| message_child(m, key)),
            Type::Field(f) if f.label == Label::Map => {
                Some(Child { ty: Type::Item(f), named: false, always: false })
            }
            Type::Field(f) => f.message().map_or(known(Type::Deduced), |m| message_child(m, key)),
            Type::Custom(schema) => match (key, schema) {
                ("apiVersion" | "kind", _) => known(Type::Atomic),
                ("metadata", _) => known(Type::Message(object_meta())),
                (_, Some(s)) => schema_child(s, key),
                (_, None) => known(Type::Deduced).map(|c| Child { named: false, ..c }),
            },
            Type::Schema(s) => match key {
                "metadata" if flag(s, "x-kubernetes-embedded-resource") => {
                    known(Type::Message(object_meta()))
                }
                "apiVersion" | "kind" if flag(s, "x-kubernetes-embedded-resource") => known(Type::Atomic),
                _ => schema_child(s, key),
            },
            Type::Deduced | Type::Atomic => Some(Child { ty: self, named: false, always: false }),
        }
    }

    /// The path element of a struct's field, if the field table has it.
    pub(crate) fn static_key(self, name: &str) -> Option<&'static str> {
        self.message_of().and_then(|m| m.field(name)).map(api::schema::Field::path_key)
    }

    fn message_of(self) -> Option<&'static Message> {
        let message = match self {
            Type::Message(m) => Some(m),
            Type::Field(f) if f.label == Label::One => f.message(),
            Type::Item(f) => f.message(),
            _ => None,
        };
        message.filter(|m| m.special.is_none())
    }

    /// Names of a struct's fields that are always written; those that an object lacks are null.
    pub(crate) fn always_written(self) -> impl Iterator<Item = &'static str> {
        let flat = self.message_of().map_or(&[][..], |m| m.flat());
        flat.iter().filter(|f| is_always_written(f.field)).map(|f| f.name)
    }

    /// The elements of a list.
    pub(crate) fn element(self) -> Type<'a> {
        match self {
            Type::Field(f) => Type::Item(f),
            Type::Schema(s) => s.get("items").map_or(Type::Deduced, Type::Schema),
            other => other,
        }
    }

    /// JSON text of a key's default, which stands in when an element of a keyed list omits the key.
    pub(crate) fn key_default(self, key: &str) -> Option<String> {
        match self {
            Type::Item(f) => {
                let key = f.message()?.field(key)?;
                // A field that is always written has its zero value for a default.
                key.default.or_else(|| zero(key)).map(str::to_owned)
            }
            Type::Schema(s) => s.get("properties")?.get(key)?.get("default").map(Value::to_string),
            _ => None,
        }
    }
}

fn zero(f: &Field) -> Option<&'static str> {
    match f.kind {
        _ if f.omitempty || f.nullable || f.label != Label::One => None,
        Kind::String => Some("\"\""),
        Kind::Bool => Some("false"),
        Kind::Int32 | Kind::Int64 | Kind::Double => Some("0"),
        Kind::Bytes | Kind::Message(_) => None,
    }
}

fn known<'a>(ty: Type<'a>) -> Option<Child<'a>> {
    Some(Child { ty, named: true, always: false })
}

fn deduced<'a>(a: Option<&Value>, b: Option<&Value>) -> Shape<'a> {
    let map = |v: Option<&Value>| v.is_none_or(|v| v.is_object());
    if map(a) && map(b) { Shape::Map } else { Shape::Leaf }
}

fn message_shape<'a>(m: &'static Message) -> Shape<'a> {
    match m.special {
        // Types with an encoding of their own are one value, raw objects too.
        Some(_) => Shape::Leaf,
        None if m.atomic => Shape::Leaf,
        None => Shape::Map,
    }
}

fn field_shape<'a>(f: &'static Field) -> Shape<'a> {
    match f.label {
        Label::List => match f.list_type {
            Some(ListType::Set) => Shape::Set,
            Some(ListType::Map) => {
                let mut keys: Vec<&str> = f.list_map_keys.to_vec();
                keys.sort_unstable();
                Shape::Keyed(keys)
            }
            _ => Shape::Leaf,
        },
        Label::Map if f.map_type == Some("atomic") => Shape::Leaf,
        Label::Map => Shape::Map,
        Label::One => match (f.struct_type, f.message()) {
            (Some("atomic"), _) | (_, None) => Shape::Leaf,
            (Some(_), Some(_)) => Shape::Map,
            (None, Some(m)) => message_shape(m),
        },
    }
}

fn message_child<'a>(m: &'static Message, key: &str) -> Option<Child<'a>> {
    if m.special.is_some() {
        return Some(Child { ty: Type::Deduced, named: false, always: false });
    }
    if m.type_meta && (key == "apiVersion" || key == "kind") {
        return known(Type::Atomic);
    }
    let field = m.field(key)?;
    let always = is_always_written(field);
    Some(Child { ty: Type::Field(field), named: true, always })
}

/// What Go's encoder always writes exists on both sides of a comparison, if only as null.
fn is_always_written(field: &Field) -> bool {
    let is_struct = field.label == Label::One && !field.nullable && matches!(field.kind, Kind::Message(_));
    !field.omitempty || (is_struct && !field.omitzero)
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn text<'a>(schema: &'a Value, name: &str) -> &'a str {
    schema.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn schema_shape<'a>(s: &'a Value, a: Option<&Value>, b: Option<&Value>) -> Shape<'a> {
    match text(s, "type") {
        _ if flag(s, "x-kubernetes-int-or-string") => Shape::Leaf,
        "object" if text(s, "x-kubernetes-map-type") == "atomic" => Shape::Leaf,
        "object" => Shape::Map,
        "array" => match text(s, "x-kubernetes-list-type") {
            "set" => Shape::Set,
            "map" => {
                let keys = s.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
                let mut keys: Vec<&str> = keys.into_iter().flatten().filter_map(Value::as_str).collect();
                keys.sort_unstable();
                Shape::Keyed(keys)
            }
            _ => Shape::Leaf,
        },
        "" if flag(s, "x-kubernetes-preserve-unknown-fields") => deduced(a, b),
        _ => Shape::Leaf,
    }
}

fn schema_child<'a>(s: &'a Value, key: &str) -> Option<Child<'a>> {
    if let Some(property) = s.get("properties").and_then(|p| p.get(key)) {
        return known(Type::Schema(property));
    }
    let unnamed = |ty| Some(Child { ty, named: false, always: false });
    match s.get("additionalProperties") {
        Some(inner @ Value::Object(_)) => unnamed(Type::Schema(inner)),
        Some(Value::Bool(true)) => unnamed(Type::Deduced),
        _ if flag(s, "x-kubernetes-preserve-unknown-fields") => unnamed(Type::Deduced),
        _ => None,
    }
}

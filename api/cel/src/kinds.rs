//! The types of whole kinds, as far as they are known: built-in ones by the field table, custom ones by their
//! schemas.

use crate::Type;
use crate::shape::Shape;
use crate::types::Fields;
use api::GroupVersionKind;
use api::schema::{self, Field, Kind, Label, Message, Special};
use std::sync::Arc;

struct Builtin(&'static Message, String);

impl Fields for Builtin {
    fn name(&self) -> &str {
        &self.1
    }
    fn field(&self, name: &str) -> Option<Type> {
        if self.0.type_meta && matches!(name, "apiVersion" | "kind") {
            return Some(Type::String);
        }
        self.0.field(name).and_then(of_field).or_else(|| {
            // Names that are words of the language are written with a prefix and a suffix.
            let plain = name.strip_prefix("__")?.strip_suffix("__")?;
            self.0.field(plain).and_then(of_field)
        })
    }
}

/// Quantities have no type in the documents that upstream checks with: fields of them are not known.
fn of_field(f: &'static Field) -> Option<Type> {
    if f.message().is_some_and(|m| m.special == Some(Special::Quantity)) {
        return None;
    }
    let one = match f.kind {
        Kind::String => Type::String,
        Kind::Bytes => Type::Bytes,
        Kind::Bool => Type::Bool,
        Kind::Int32 | Kind::Int64 => Type::Int,
        Kind::Double => Type::Double,
        Kind::Message(m) => of_message(m.message()),
    };
    Some(match f.label {
        Label::One => one,
        Label::List => Type::list(one),
        Label::Map => Type::map(Type::String, one),
    })
}

fn of_message(m: &'static Message) -> Type {
    match m.special {
        None => Type::Struct(Arc::new(Builtin(m, m.short.to_owned()))),
        Some(Special::Time | Special::MicroTime | Special::Timestamp) => Type::Timestamp,
        Some(Special::Duration) => Type::String,
        Some(Special::Strings) => Type::list(Type::String),
        Some(_) => Type::Dyn,
    }
}

/// The type of a built-in kind.
pub fn builtin(gvk: &GroupVersionKind) -> Option<Type> {
    schema::for_kind(gvk).map(of_message)
}

/// A custom kind: its schema, and metadata as all objects have it.
struct Custom {
    name: String,
    shape: Arc<dyn Fields>,
}

impl Fields for Custom {
    fn name(&self) -> &str {
        &self.name
    }
    fn field(&self, name: &str) -> Option<Type> {
        if name == "metadata" {
            let pod = GroupVersionKind::new("", "v1", "Pod");
            return schema::for_kind(&pod).and_then(|m| m.field("metadata")).and_then(of_field);
        }
        self.shape.field(name)
    }
}

/// The type of a custom kind with a structural schema.
pub fn custom(kind: &str, schema: &api::Value) -> Option<Type> {
    match Shape::of(schema, true)?.as_type() {
        Type::Struct(shape) => Some(Type::Struct(Arc::new(Custom { name: kind.to_owned(), shape }))),
        other => Some(other),
    }
}

//! The field table: what every message of the API consists of.
//!
//! One text table (`data/fields.txt`) is compiled in and parsed once, on first use; everything the
//! table yields is `&'static`. The protobuf codec, strict decoding, patching, server-side apply and
//! the OpenAPI documents are all driven by it, so a field is described in exactly one place.

use rustc_hash::FxHashMap;
use std::ops::Deref;
use std::sync::OnceLock;

mod parse;

/// A message: a kind, or a part of one.
#[derive(Debug)]
pub struct Message {
    /// Full protobuf name, e.g. `k8s.io.api.core.v1.PodSpec`.
    pub name: &'static str,
    /// The Go type's name, e.g. `PodSpec`.
    pub short: &'static str,
    /// Whether this is a kind, with `apiVersion` and `kind`.
    pub type_meta: bool,
    /// Whether server-side apply treats the whole as one value.
    pub atomic: bool,
    /// Set when JSON or protobuf form is not that of a plain struct.
    pub special: Option<Special>,
    /// In JSON output order.
    pub fields: Box<[Field]>,
    /// Indices into `fields`, ascending by number.
    pub(crate) wire_order: Box<[u8]>,
    /// Field number to index into `fields`; `NONE` where there is none.
    pub(crate) by_number: Box<[u8]>,
    flat: OnceLock<Box<[Flat]>>,
}

pub(crate) const NONE: u8 = u8::MAX;

/// A JSON key of a message: its own field, or one of an inlined message.
#[derive(Clone, Copy, Debug)]
pub struct Flat {
    pub name: &'static str,
    pub field: &'static Field,
    /// The Go struct that it is decoded into, the one around inlined ones.
    pub owner: &'static str,
    /// As Go's decoder names the place: with the inlined structs on the way, e.g. `VolumeSource.secret`.
    pub go_path: &'static str,
}

/// One field of a message.
#[derive(Debug)]
pub struct Field {
    pub number: u32,
    /// Name in the protobuf schema.
    pub proto: &'static str,
    /// JSON key; empty for inlined messages and inside special types.
    pub json: &'static str,
    /// `"key":`, ready to be written.
    pub(crate) json_key: &'static str,
    pub(crate) path_key: &'static str,
    /// Type of the value, of the elements of a list, or of the values of a map.
    pub kind: Kind,
    pub label: Label,
    pub omitempty: bool,
    pub omitzero: bool,
    pub nullable: bool,
    pub inline: bool,
    pub required: bool,
    pub list_type: Option<ListType>,
    pub list_map_keys: Box<[&'static str]>,
    /// `x-kubernetes-map-type` of the field itself.
    pub map_type: Option<&'static str>,
    /// Overrides the message's own: `granular` or `atomic`.
    pub struct_type: Option<&'static str>,
    pub patch_strategy: PatchStrategy,
    pub patch_merge_key: Option<&'static str>,
    /// Full name of the named string type, if it is one.
    pub string_type: Option<&'static str>,
    /// Gates that must be on for the field to be kept on writes.
    pub feature_gates: Box<[&'static str]>,
    /// Declared default, as JSON text.
    pub default: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    String,
    Bytes,
    Bool,
    Int32,
    Int64,
    Double,
    Message(Ref),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    One,
    List,
    /// Keys are always strings.
    Map,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    Atomic,
    Set,
    Map,
}

/// Directives of strategic merge patch for one field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    pub merge: bool,
    pub replace: bool,
    pub retain_keys: bool,
}

/// Types whose JSON or protobuf form is peculiar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    Timestamp,
    Duration,
    /// Raw JSON in one bytes field: `RawExtension`, `FieldsV1`, `JSON`.
    Raw,
    /// A list of strings in field 1: `Verbs`, `ExtraValue`.
    Strings,
    GroupVersion,
    SchemaOrBool,
    SchemaOrArray,
    SchemaOrStrings,
    Unknown,
}

/// A message that may not be parsed yet while the table is being built.
#[derive(Clone, Copy)]
pub struct Ref(&'static Slot);

#[derive(Debug, Default)]
struct Slot {
    name: &'static str,
    message: OnceLock<Message>,
}

impl std::fmt::Debug for Ref {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name)
    }
}

impl Ref {
    /// The message itself.
    pub fn message(self) -> &'static Message {
        match self.0.message.get() {
            Some(m) => m,
            // Guarded by a test over the whole table: every reference is defined.
            None => unreachable!("message {} is not in the field table", self.0.name),
        }
    }
}

impl Deref for Ref {
    type Target = Message;
    fn deref(&self) -> &Message {
        self.message()
    }
}

impl Message {
    /// All JSON keys, inlined ones included, sorted by name; `apiVersion` and `kind` are not among them.
    pub fn flat(&'static self) -> &'static [Flat] {
        self.flat.get_or_init(|| {
            let mut out = Vec::with_capacity(self.fields.len());
            self.collect_flat("", self.short, &mut out);
            out.sort_by_key(|f| f.name);
            out.into()
        })
    }

    fn collect_flat(&'static self, way: &str, owner: &'static str, out: &mut Vec<Flat>) {
        for field in &self.fields {
            match field.kind {
                Kind::Message(m) if field.inline => {
                    let m = m.message();
                    m.collect_flat(&format!("{way}{}.", m.short), owner, out);
                }
                _ if field.json.is_empty() => {}
                _ => {
                    let name = field.json;
                    let go_path = if way.is_empty() { name } else { String::leak(format!("{way}{name}")) };
                    out.push(Flat { name, field, owner, go_path });
                }
            }
        }
    }

    /// The field of a JSON key, looking into inlined messages.
    pub fn field(&'static self, json: &str) -> Option<&'static Field> {
        self.flat_field(json).map(|f| f.field)
    }

    /// As [`Message::field`], with the struct that declares it.
    pub fn flat_field(&'static self, json: &str) -> Option<&'static Flat> {
        let flat = self.flat();
        flat.binary_search_by(|f| f.name.cmp(json)).ok().map(|i| &flat[i])
    }

    /// Field with that number on the wire.
    #[inline]
    pub(crate) fn index_of(&self, number: u32) -> Option<usize> {
        match self.by_number.get(number as usize) {
            Some(&i) if i != NONE => Some(i as usize),
            _ => None,
        }
    }

    /// Name of the package without the type, e.g. `k8s.io.api.core.v1`.
    pub fn package(&self) -> &'static str {
        &self.name[..self.name.len() - self.short.len() - 1]
    }

    /// `v1.PodSpec`, as Go prints the type.
    pub fn go_type(&self) -> &'static str {
        let package = self.package();
        let start = package.rfind('.').map_or(0, |i| i + 1);
        &self.name[start..]
    }
}

impl Field {
    /// `f:name`, as field sets of managed fields spell it.
    pub fn path_key(&self) -> &'static str {
        self.path_key
    }

    /// The message of a field, of its elements or of its values.
    pub fn message(&self) -> Option<&'static Message> {
        match self.kind {
            Kind::Message(m) => Some(m.message()),
            _ => None,
        }
    }

    /// Whether elements are whole core kinds that carry `apiVersion` and `kind` in JSON. Upstream's
    /// conversion of StatefulSets sets both in every claim template; protobuf has neither.
    pub fn embeds_type_meta(&self) -> bool {
        self.json == "volumeClaimTemplates"
    }

    /// Whether server-side apply treats the value (a struct or map) as one.
    pub fn is_atomic(&self) -> bool {
        match (self.struct_type.or(self.map_type), self.label) {
            (Some(t), _) => t == "atomic",
            (None, Label::One) => self.message().is_some_and(|m| m.atomic),
            (None, _) => false,
        }
    }
}

/// Everything in `data/fields.txt`.
pub struct Table {
    by_name: FxHashMap<&'static str, Ref>,
    by_kind: FxHashMap<(&'static str, &'static str, &'static str), Ref>,
    enums: FxHashMap<&'static str, &'static str>,
    packages: FxHashMap<&'static str, (&'static str, &'static str)>,
}

/// The table; the first call parses it.
pub fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| parse::parse(include_str!("../data/fields.txt")))
}

impl Table {
    /// By full protobuf name.
    pub fn message(&self, name: &str) -> Option<&'static Message> {
        self.by_name.get(name).map(|r| r.message())
    }

    /// All messages, in no order.
    pub fn messages(&self) -> impl Iterator<Item = &'static Message> {
        self.by_name.values().map(|r| r.message())
    }

    /// Group and version of a message's package.
    pub fn group_version(&self, message: &Message) -> Option<(&'static str, &'static str)> {
        self.packages.get(message.package()).copied()
    }

    /// The closed set of values of a named string type, as a JSON list.
    pub fn enum_values(&self, string_type: &str) -> Option<Vec<String>> {
        serde_json::from_str(self.enums.get(string_type)?).ok()
    }
}

/// By full protobuf name.
pub fn message(name: &str) -> Option<&'static Message> {
    table().message(name)
}

/// The message of a kind. The kinds of `meta/v1` (options, `Status`, `WatchEvent`, …) are found in any group.
pub fn for_kind(gvk: &crate::GroupVersionKind) -> Option<&'static Message> {
    for_kind_parts(&gvk.group, &gvk.version, &gvk.kind)
}

/// As [`for_kind`], from the parts.
pub fn for_kind_parts(group: &str, version: &str, kind: &str) -> Option<&'static Message> {
    let kinds = &table().by_kind;
    kinds
        .get(&(group, version, kind))
        .or_else(|| kinds.get(&("meta.k8s.io", "v1", kind)))
        .map(|r| r.message())
        .filter(|m| m.type_meta)
}

/// `metav1.ObjectMeta`.
pub fn object_meta() -> &'static Message {
    static META: OnceLock<&'static Message> = OnceLock::new();
    META.get_or_init(|| known("k8s.io.apimachinery.pkg.apis.meta.v1.ObjectMeta"))
}

/// `metav1.ListMeta`.
pub fn list_meta() -> &'static Message {
    static META: OnceLock<&'static Message> = OnceLock::new();
    META.get_or_init(|| known("k8s.io.apimachinery.pkg.apis.meta.v1.ListMeta"))
}

fn known(name: &'static str) -> &'static Message {
    match message(name) {
        Some(m) => m,
        None => unreachable!("{name} is not in the field table"),
    }
}

#[cfg(test)]
mod tests;

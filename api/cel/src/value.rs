//! What expressions compute with. Values of objects stay where they are: they are read through their
//! [`Shape`] when an expression gets to them.

use crate::authz::Subject;
use crate::shape::Shape;
use crate::types::Type;
use api::Value as Json;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub enum Text<'a> {
    Of(&'a str),
    Own(Arc<str>),
}

impl std::ops::Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        match self {
            Text::Of(s) => s,
            Text::Own(s) => s,
        }
    }
}

#[derive(Clone, Debug)]
pub enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Str(Text<'a>),
    Bytes(Arc<[u8]>),
    Timestamp(crate::time::Time),
    /// In nanoseconds.
    Duration(i64),
    List(Arc<Vec<Val<'a>>>),
    Map(Arc<BTreeMap<Key, Val<'a>>>),
    /// A list or an object of JSON.
    Json(&'a Json, Option<&'a Shape>),
    /// A value made by its type's name.
    Object(Arc<Object<'a>>),
    Type(Box<Type>),
    Optional(Option<Arc<Val<'a>>>),
    Quantity(api::quantity::Quantity),
    Url(Arc<crate::library::url::Url>),
    Ip(IpAddr),
    Cidr(IpNet),
    Semver(Arc<crate::library::semver::Version>),
    Format(&'static crate::library::formats::Format),
    Authz(Arc<Subject>),
    /// The variables of a policy, evaluated when asked for.
    Variables,
}

/// Keys of maps. Whole numbers are the same key whatever their type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Str(Arc<str>),
}

impl Key {
    pub fn of(v: &Val<'_>) -> Option<Key> {
        Some(match v {
            Val::Bool(b) => Key::Bool(*b),
            Val::Int(i) => Key::Int(*i),
            Val::Uint(u) => i64::try_from(*u).map_or(Key::Uint(*u), Key::Int),
            Val::Double(d) if d.fract() == 0.0 && d.abs() < 9e15 => Key::Int(*d as i64),
            Val::Str(s) => Key::Str(Arc::from(&**s)),
            _ => return None,
        })
    }

    pub fn val<'a>(&self) -> Val<'a> {
        match self {
            Key::Bool(b) => Val::Bool(*b),
            Key::Int(i) => Val::Int(*i),
            Key::Uint(u) => Val::Uint(*u),
            Key::Str(s) => Val::Str(Text::Own(s.clone())),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Object<'a> {
    pub name: Arc<str>,
    pub fields: BTreeMap<Arc<str>, Val<'a>>,
}

impl<'a> Val<'a> {
    pub fn str(s: impl Into<String>) -> Val<'a> {
        Val::Str(Text::Own(s.into().into()))
    }

    pub fn list(items: Vec<Val<'a>>) -> Val<'a> {
        Val::List(Arc::new(items))
    }

    pub fn some(v: Val<'a>) -> Val<'a> {
        Val::Optional(Some(Arc::new(v)))
    }

    /// JSON as it is, without a schema.
    pub fn json(v: &'a Json) -> Val<'a> {
        Val::shaped(v, None)
    }

    /// JSON as a schema reads it. What does not fit its schema is read as it is.
    pub fn shaped(v: &'a Json, shape: Option<&'a Shape>) -> Val<'a> {
        match v {
            Json::Null => Val::Null,
            Json::Bool(b) => Val::Bool(*b),
            Json::Number(n) => number(n, shape),
            Json::String(s) => shape.and_then(|of| of.read_string(s)).unwrap_or(Val::Str(Text::Of(s))),
            Json::Array(_) | Json::Object(_) => Val::Json(v, shape),
        }
    }

    /// The number of elements, or the length.
    pub fn size(&self) -> Option<usize> {
        Some(match self {
            Val::Str(s) => s.chars().count(),
            Val::Bytes(b) => b.len(),
            Val::List(l) => l.len(),
            Val::Map(m) => m.len(),
            Val::Object(o) => o.fields.len(),
            Val::Json(Json::Array(a), _) => a.len(),
            Val::Json(Json::Object(o), _) => o.len(),
            Val::Ip(IpAddr::V4(_)) => 4,
            Val::Ip(IpAddr::V6(_)) => 16,
            Val::Cidr(c) => (c.max_prefix_len() / 8).into(),
            _ => return None,
        })
    }

    /// What a step over this value costs, as upstream reckons.
    pub fn weight(&self) -> u64 {
        match self {
            Val::Optional(Some(v)) => v.weight(),
            other => other.size().map_or(1, |n| n as u64),
        }
    }

    /// The elements of a list.
    pub fn items(&self) -> Option<Vec<Val<'a>>> {
        match self {
            Val::List(l) => Some(l.to_vec()),
            Val::Json(Json::Array(a), shape) => {
                let of = shape.and_then(|s| s.items());
                Some(a.iter().map(|v| Val::shaped(v, of)).collect())
            }
            _ => None,
        }
    }

    /// The entries of a map or object.
    pub fn entries(&self) -> Option<Vec<(Val<'a>, Val<'a>)>> {
        match self {
            Val::Map(m) => Some(m.iter().map(|(k, v)| (k.val(), v.clone())).collect()),
            Val::Object(o) => {
                Some(o.fields.iter().map(|(k, v)| (Val::Str(Text::Own(k.clone())), v.clone())).collect())
            }
            Val::Json(Json::Object(o), shape) => Some(
                o.iter()
                    .filter_map(|(k, v)| {
                        let (key, of) = match shape {
                            None => (Text::Of(k), None),
                            Some(s) => s.entry(k)?,
                        };
                        Some((Val::Str(key), Val::shaped(v, of)))
                    })
                    .collect(),
            ),
            _ => None,
        }
    }

    /// The value at a key or field.
    pub fn get(&self, key: &Val<'a>) -> Option<Val<'a>> {
        match self {
            Val::Map(m) => m.get(&Key::of(key)?).cloned(),
            Val::Json(..) | Val::Object(_) => match key {
                Val::Str(name) => self.field(name),
                _ => None,
            },
            _ => None,
        }
    }

    pub fn field(&self, name: &str) -> Option<Val<'a>> {
        match self {
            Val::Map(m) => m.get(&Key::Str(name.into())).cloned(),
            Val::Object(o) => o.fields.get(name).cloned(),
            Val::Json(Json::Object(o), None) => o.get(name).map(Val::json),
            Val::Json(Json::Object(o), Some(shape)) => {
                let (key, of) = shape.field(name)?;
                o.get(key).map(|v| Val::shaped(v, of))
            }
            _ => None,
        }
    }

    pub fn is_list(&self) -> bool {
        matches!(self, Val::List(_) | Val::Json(Json::Array(_), _))
    }

    pub fn is_map(&self) -> bool {
        matches!(self, Val::Map(_) | Val::Object(_) | Val::Json(Json::Object(_), _))
    }

    /// The value's type, as `type()` tells it.
    pub fn type_of(&self) -> Type {
        match self {
            Val::Null => Type::Null,
            Val::Bool(_) => Type::Bool,
            Val::Int(_) => Type::Int,
            Val::Uint(_) => Type::Uint,
            Val::Double(_) => Type::Double,
            Val::Str(_) => Type::String,
            Val::Bytes(_) => Type::Bytes,
            Val::Timestamp(_) => Type::Timestamp,
            Val::Duration(_) => Type::Duration,
            Val::Type(_) => Type::Type(None),
            Val::Optional(_) => Type::optional(Type::Dyn),
            Val::Object(o) => Type::opaque(&o.name),
            Val::Quantity(_) => Type::opaque("kubernetes.Quantity"),
            Val::Url(_) => Type::opaque("kubernetes.URL"),
            Val::Ip(_) => Type::opaque("net.IP"),
            Val::Cidr(_) => Type::opaque("net.CIDR"),
            Val::Semver(_) => Type::opaque("kubernetes.Semver"),
            Val::Format(_) => Type::opaque("kubernetes.NamedFormat"),
            Val::Authz(s) => Type::opaque(s.type_name()),
            Val::Variables => Type::opaque("kubernetes.variables"),
            other if other.is_list() => Type::list(Type::Dyn),
            _ => Type::map(Type::Dyn, Type::Dyn),
        }
    }

    /// Objects that are made by name must be named by the fields they stand in; what is said of one that is not.
    pub fn misnamed(&self) -> Option<String> {
        let Val::Object(o) = self else { return None };
        o.fields.iter().find_map(|(key, v)| v.misnamed_at(&format!("{}.{key}", o.name)))
    }

    fn misnamed_at(&self, wanted: &str) -> Option<String> {
        match self {
            Val::Object(o) if *o.name != *wanted => Some(format!(
                "unexpected type name {:?}, expected {wanted:?}, which matches field name path from root Object type",
                &*o.name
            )),
            Val::Object(_) => self.misnamed(),
            Val::List(items) => items.iter().find_map(|v| v.misnamed_at(wanted)),
            _ => None,
        }
    }

    /// The type's name without parameters, as `type()` prints.
    pub fn type_name(&self) -> String {
        type_name(&self.type_of())
    }

    /// As JSON, where JSON has a form for it.
    pub fn to_json(&self) -> Option<Json> {
        Some(match self {
            Val::Null => Json::Null,
            Val::Bool(b) => (*b).into(),
            Val::Int(i) => (*i).into(),
            Val::Uint(u) => (*u).into(),
            Val::Double(d) => serde_json::Number::from_f64(*d)?.into(),
            Val::Str(s) => (**s).into(),
            Val::Bytes(b) => {
                use base64::Engine;
                base64::engine::general_purpose::STANDARD.encode(b).into()
            }
            Val::Timestamp(t) => crate::time::text(*t).into(),
            Val::Duration(d) => crate::time::duration_text(*d).into(),
            Val::Json(v, _) => (*v).clone(),
            Val::Quantity(q) => q.to_string().into(),
            Val::Optional(Some(v)) => v.to_json()?,
            Val::Optional(None) => Json::Null,
            other if other.is_list() => {
                Json::Array(other.items()?.iter().map(Val::to_json).collect::<Option<_>>()?)
            }
            other => {
                let mut map = api::Map::new();
                for (k, v) in other.entries()? {
                    let key = match k {
                        Val::Str(s) => s.to_string(),
                        Val::Int(i) => i.to_string(),
                        Val::Uint(u) => u.to_string(),
                        Val::Bool(b) => b.to_string(),
                        _ => return None,
                    };
                    map.insert(key, v.to_json()?);
                }
                Json::Object(map)
            }
        })
    }
}

/// A type's name without parameters.
pub fn type_name(t: &Type) -> String {
    match t {
        Type::Null => "null_type".to_owned(),
        Type::Timestamp => "google.protobuf.Timestamp".to_owned(),
        Type::Duration => "google.protobuf.Duration".to_owned(),
        other => other.to_string().split('(').next().unwrap_or_default().to_owned(),
    }
}

fn number<'a>(n: &serde_json::Number, shape: Option<&Shape>) -> Val<'a> {
    if shape.is_some_and(Shape::is_double) {
        return n.as_f64().map_or(Val::Null, Val::Double);
    }
    match (n.as_i64(), n.as_u64()) {
        (Some(i), _) => Val::Int(i),
        (None, Some(u)) => Val::Uint(u),
        _ => n.as_f64().map_or(Val::Null, Val::Double),
    }
}

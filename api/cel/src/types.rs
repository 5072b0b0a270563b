//! The types an expression is checked with, and when one may stand for another.
//!
//! Type parameters (`list(A)`) are bound in a [`Bindings`] while a call is resolved; a parameter that
//! nothing binds is dynamic in the end.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A type with named fields. Fields are looked up one by one, so that types may refer to each other.
pub trait Fields: Send + Sync {
    fn name(&self) -> &str;
    fn field(&self, name: &str) -> Option<Type>;
}

#[derive(Clone)]
pub enum Type {
    Dyn,
    Error,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    Struct(Arc<dyn Fields>),
    /// Types of libraries: `optional_type(A)`, `kubernetes.URL` and their like.
    Opaque(Arc<str>, Arc<[Type]>),
    Type(Option<Arc<Type>>),
    Param(Arc<str>),
}

impl Type {
    pub fn list(of: Type) -> Type {
        Type::List(Arc::new(of))
    }

    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new(key), Arc::new(value))
    }

    pub fn optional(of: Type) -> Type {
        Type::Opaque("optional_type".into(), [of].into())
    }

    pub fn opaque(name: &str) -> Type {
        Type::Opaque(name.into(), [].into())
    }

    pub fn is_dyn(&self) -> bool {
        matches!(self, Type::Dyn)
    }

    pub fn is_dyn_or_error(&self) -> bool {
        matches!(self, Type::Dyn | Type::Error)
    }

    /// What an optional type wraps.
    pub fn unwrapped(&self) -> Option<&Type> {
        match self {
            Type::Opaque(name, of) if &**name == "optional_type" => of.first(),
            _ => None,
        }
    }

    /// Of a size that does not depend on the value.
    pub fn is_scalar(&self) -> bool {
        match self {
            Type::Bool | Type::Int | Type::Uint | Type::Double | Type::Timestamp | Type::Duration => true,
            other => other.unwrapped().is_some_and(Type::is_scalar),
        }
    }

    fn takes_null(&self) -> bool {
        matches!(
            self,
            Type::Null | Type::Opaque(..) | Type::Struct(_) | Type::Timestamp | Type::Duration | Type::Dyn
        )
    }

    fn params(&self) -> Vec<&Type> {
        match self {
            Type::List(a) | Type::Type(Some(a)) => vec![a],
            Type::Map(a, b) => vec![a, b],
            Type::Opaque(_, of) => of.iter().collect(),
            _ => Vec::new(),
        }
    }

    fn same_head(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::Struct(a), Type::Struct(b)) => a.name() == b.name(),
            (Type::Opaque(a, _), Type::Opaque(b, _)) | (Type::Param(a), Type::Param(b)) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl PartialEq for Type {
    fn eq(&self, other: &Type) -> bool {
        self.same_head(other) && self.params() == other.params()
    }
}

impl fmt::Debug for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Dyn => f.write_str("dyn"),
            Type::Error => f.write_str("!error!"),
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Uint => f.write_str("uint"),
            Type::Double => f.write_str("double"),
            Type::String => f.write_str("string"),
            Type::Bytes => f.write_str("bytes"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::Duration => f.write_str("duration"),
            Type::List(of) => write!(f, "list({of})"),
            Type::Map(k, v) => write!(f, "map({k}, {v})"),
            Type::Struct(s) => f.write_str(s.name()),
            Type::Type(None) => f.write_str("type"),
            Type::Type(Some(of)) => write!(f, "type({of})"),
            Type::Param(name) => f.write_str(name),
            Type::Opaque(name, of) if of.is_empty() => f.write_str(name),
            Type::Opaque(name, of) => {
                let of: Vec<String> = of.iter().map(Type::to_string).collect();
                write!(f, "{name}({})", of.join(", "))
            }
        }
    }
}

/// What type parameters stand for.
#[derive(Clone, Default)]
pub struct Bindings(BTreeMap<Arc<str>, Type>);

impl Bindings {
    fn find(&self, t: &Type) -> Option<&Type> {
        match t {
            Type::Param(name) => self.0.get(name),
            _ => None,
        }
    }

    fn bind(&mut self, name: &Arc<str>, to: Type) {
        self.0.insert(name.clone(), to);
    }

    /// A type with its parameters replaced; those that are free become dynamic if `free_to_dyn`.
    pub fn apply(&self, t: &Type, free_to_dyn: bool) -> Type {
        if let Some(bound) = self.find(t) {
            return self.apply(bound, free_to_dyn);
        }
        let again = |t: &Type| self.apply(t, free_to_dyn);
        match t {
            Type::Param(_) if free_to_dyn => Type::Dyn,
            Type::List(of) => Type::list(again(of)),
            Type::Map(k, v) => Type::map(again(k), again(v)),
            Type::Type(Some(of)) => Type::Type(Some(Arc::new(again(of)))),
            Type::Opaque(name, of) => Type::Opaque(name.clone(), of.iter().map(again).collect()),
            other => other.clone(),
        }
    }

    /// Whether `given` may stand where `wanted` is; on success parameters are bound accordingly.
    pub fn assign(&mut self, wanted: &Type, given: &Type) -> bool {
        self.assign_all(&[(wanted, given)])
    }

    /// All pairs, or nothing is bound.
    pub fn assign_all(&mut self, pairs: &[(&Type, &Type)]) -> bool {
        let before = self.0.clone();
        let fits = pairs.iter().all(|(a, b)| self.fits(a, b));
        if !fits {
            self.0 = before;
        }
        fits
    }

    fn fits(&mut self, a: &Type, b: &Type) -> bool {
        if let Type::Param(name) = b {
            match self.unify(a, b, name) {
                (true, _) => return true,
                (false, true) => return false,
                (false, false) => {}
            }
        }
        if let Type::Param(name) = a {
            return self.unify(b, a, name).0;
        }
        if a.is_dyn_or_error() || b.is_dyn_or_error() {
            return true;
        }
        if matches!(a, Type::Null) {
            return b.takes_null();
        }
        if matches!(b, Type::Null) {
            return a.takes_null();
        }
        if matches!((a, b), (Type::Type(_), Type::Type(_))) {
            return true;
        }
        let (pa, pb) = (a.params(), b.params());
        a.same_head(b) && pa.len() == pb.len() && pa.into_iter().zip(pb).all(|(x, y)| self.fits(x, y))
    }

    /// Whether a parameter may stand for a type, and whether it was bound before.
    fn unify(&mut self, t: &Type, param: &Type, name: &Arc<str>) -> (bool, bool) {
        if t == param {
            return (true, true);
        }
        if let Some(bound) = self.find(param).cloned() {
            if *t == bound {
                return (true, true);
            }
            if !self.fits(t, &bound) {
                return (false, true);
            }
            let general = most_general(t, &bound);
            if self.free_of(param, &general) {
                self.bind(name, general);
            }
            return (true, true);
        }
        let free = self.free_of(param, t);
        if free {
            self.bind(name, t.clone());
        }
        (free, false)
    }

    /// Whether a parameter does not occur in a type, so that binding makes no endless type.
    fn free_of(&self, param: &Type, within: &Type) -> bool {
        if param == within {
            return false;
        }
        match within {
            Type::Param(_) => self.find(within).is_none_or(|bound| self.free_of(param, bound)),
            other => other.params().into_iter().all(|p| self.free_of(param, p)),
        }
    }
}

/// The one of two types that stands for both.
pub fn most_general(a: &Type, b: &Type) -> Type {
    if covers(a, b) { a.clone() } else { b.clone() }
}

fn covers(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Param(_), _) => true,
        (_, Type::Dyn | Type::Param(_)) => false,
        (Type::Type(_), Type::Type(_)) => true,
        _ => {
            let (pa, pb) = (a.params(), b.params());
            a.same_head(b) && pa.len() == pb.len() && pa.into_iter().zip(pb).all(|(x, y)| covers(x, y))
        }
    }
}

/// Reads a type as the table of functions writes it: `map(A, list(string))`.
pub(crate) fn parse(text: &str) -> Type {
    let text = text.trim();
    let Some((head, rest)) = text.split_once('(') else { return simple(text) };
    let of: Vec<Type> = split_args(rest.strip_suffix(')').unwrap_or(rest)).into_iter().map(parse).collect();
    match (head, of.as_slice()) {
        ("list", [a]) => Type::list(a.clone()),
        ("map", [k, v]) => Type::map(k.clone(), v.clone()),
        ("type", [a]) => Type::Type(Some(Arc::new(a.clone()))),
        _ => Type::Opaque(head.into(), of.into()),
    }
}

fn simple(text: &str) -> Type {
    match text {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "type" => Type::Type(None),
        t if t.len() == 1 => Type::Param(t.into()),
        t => Type::opaque(t),
    }
}

/// Splits at the commas that are not in parentheses.
pub(crate) fn split_args(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    if !text[start..].trim().is_empty() {
        parts.push(text[start..].trim());
    }
    parts
}

impl Type {
    /// Whether two values of `type()` are equal: parameters do not count.
    pub fn same_kind(&self, other: &Type) -> bool {
        let name = |t: &Type| match t {
            Type::Struct(s) => s.name().to_owned(),
            Type::Opaque(name, _) => name.to_string(),
            _ => String::new(),
        };
        match (self, other) {
            (Type::Struct(_) | Type::Opaque(..), Type::Struct(_) | Type::Opaque(..)) => {
                name(self) == name(other)
            }
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

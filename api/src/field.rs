//! Field paths and validation errors, as they appear in `Status.details.causes`.

use crate::Value;
use std::fmt;

/// Where in an object a value stands: `spec.containers[0].image`, `metadata.labels[a/b]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    pub fn new(root: &str) -> Self {
        Path(root.to_owned())
    }
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Path(name.to_owned()) } else { Path(format!("{}.{name}", self.0)) }
    }
    pub fn index(&self, i: usize) -> Self {
        Path(format!("{}[{i}]", self.0))
    }
    pub fn key(&self, k: &str) -> Self {
        Path(format!("{}[{k}]", self.0))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// The closed set of validation failures; `reason()` is what clients match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
    TypeInvalid,
}

impl ErrorType {
    pub fn reason(self) -> &'static str {
        match self {
            ErrorType::NotFound => "FieldValueNotFound",
            ErrorType::Required => "FieldValueRequired",
            ErrorType::Duplicate => "FieldValueDuplicate",
            ErrorType::Invalid => "FieldValueInvalid",
            ErrorType::NotSupported => "FieldValueNotSupported",
            ErrorType::Forbidden => "FieldValueForbidden",
            ErrorType::TooLong => "FieldValueTooLong",
            ErrorType::TooMany => "FieldValueTooMany",
            ErrorType::Internal => "InternalError",
            ErrorType::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn words(self) -> &'static str {
        match self {
            ErrorType::NotFound => "Not found",
            ErrorType::Required => "Required value",
            ErrorType::Duplicate => "Duplicate value",
            ErrorType::Invalid | ErrorType::TypeInvalid => "Invalid value",
            ErrorType::NotSupported => "Unsupported value",
            ErrorType::Forbidden => "Forbidden",
            ErrorType::TooLong => "Too long",
            ErrorType::TooMany => "Too many",
            ErrorType::Internal => "Internal error",
        }
    }
}

/// One failed check of one field.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    pub kind: ErrorType,
    pub field: String,
    /// Absent for the kinds that do not print a value (required, forbidden, too long, …).
    pub bad_value: Option<Value>,
    pub detail: String,
    /// How the value is printed, where that is not how it is written in a request.
    pub printed: Option<String>,
}

pub type ErrorList = Vec<Error>;

impl Error {
    fn make(kind: ErrorType, path: &Path, bad: Option<Value>, detail: impl Into<String>) -> Self {
        Error { kind, field: path.to_string(), bad_value: bad, detail: detail.into(), printed: None }
    }
    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        Self::make(ErrorType::Required, path, None, detail)
    }
    pub fn invalid(path: &Path, bad: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::make(ErrorType::Invalid, path, Some(bad.into()), detail)
    }
    /// As [`Error::invalid`], with the value already in print.
    pub fn invalid_printed(path: &Path, printed: impl Into<String>, detail: impl Into<String>) -> Self {
        let error = Self::make(ErrorType::Invalid, path, None, detail);
        Error { printed: Some(printed.into()), ..error }
    }
    pub fn type_invalid(path: &Path, bad: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::make(ErrorType::TypeInvalid, path, Some(bad.into()), detail)
    }
    pub fn duplicate(path: &Path, bad: impl Into<Value>) -> Self {
        Self::make(ErrorType::Duplicate, path, Some(bad.into()), "")
    }
    pub fn not_found(path: &Path, bad: impl Into<Value>) -> Self {
        Self::make(ErrorType::NotFound, path, Some(bad.into()), "")
    }
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Self::make(ErrorType::Forbidden, path, None, detail)
    }
    /// `supported` is sorted before it is printed.
    pub fn not_supported(path: &Path, bad: impl Into<Value>, supported: &[&str]) -> Self {
        let mut sorted = supported.to_vec();
        sorted.sort_unstable();
        Self::not_supported_in_order(path, bad, &sorted)
    }
    /// `supported` is printed as it stands.
    pub fn not_supported_in_order(path: &Path, bad: impl Into<Value>, supported: &[&str]) -> Self {
        let names: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let detail =
            if names.is_empty() { String::new() } else { format!("supported values: {}", names.join(", ")) };
        Self::make(ErrorType::NotSupported, path, Some(bad.into()), detail)
    }
    /// As [`Error::not_supported`], for lists that are not printed in alphabetical order.
    pub fn not_listed(path: &Path, bad: impl Into<Value>, supported: &[&str]) -> Self {
        let names: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let detail = format!("supported values: {}", names.join(", "));
        Self::make(ErrorType::NotSupported, path, Some(bad.into()), detail)
    }
    pub fn too_long(path: &Path, max: usize) -> Self {
        Self::make(ErrorType::TooLong, path, None, format!("may not be more than {max} bytes"))
    }
    pub fn too_many(path: &Path, actual: usize, max: usize) -> Self {
        let items = if max == 1 { "item" } else { "items" };
        Self::make(ErrorType::TooMany, path, Some(actual.into()), format!("must have at most {max} {items}"))
    }
    pub fn internal(path: &Path, detail: impl Into<String>) -> Self {
        Self::make(ErrorType::Internal, path, None, detail)
    }

    /// The text without the field, as `causes[].message` carries it.
    pub fn body(&self) -> String {
        let mut out = self.kind.words().to_owned();
        if let Some(text) = self.printed.clone().or_else(|| self.bad_value.as_ref().map(printed)) {
            out.push_str(": ");
            out.push_str(&text);
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }
}

/// Values are printed as upstream prints them: quoted strings, bare numbers and booleans, JSON else.
fn printed(v: &Value) -> String {
    match v {
        Value::String(s) => quoted(s),
        other => other.to_string(),
    }
}

/// A string as Go quotes it.
pub fn quoted(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                out.push_str(&format!("\\u{:04x}", c as u32))
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_match_what_clients_parse() {
        let p = Path::new("spec").child("containers").index(0).child("name");
        assert_eq!(Error::required(&p, "").to_string(), "spec.containers[0].name: Required value");
        assert_eq!(
            Error::invalid(&p, "A", "must be lower case").to_string(),
            "spec.containers[0].name: Invalid value: \"A\": must be lower case"
        );
        assert_eq!(
            Error::not_supported(&p, "x", &["b", "a"]).body(),
            "Unsupported value: \"x\": supported values: \"a\", \"b\""
        );
    }
}

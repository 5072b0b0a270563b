//! Validation of values against a schema, with upstream's texts.

use super::{EMBEDDED, INT_OR_STRING, LIST_KEYS, LIST_TYPE, flag, format, property};
use api::field::{Error, ErrorList, Path};
use api::{Map, Value};
use regex::Regex;
use std::collections::HashMap;

/// The compiled patterns of a schema, by their text.
#[derive(Default)]
pub struct Patterns(HashMap<String, Option<Regex>>);

impl Patterns {
    /// Compiles every pattern that stands in a schema.
    pub fn of(schema: &Value) -> Patterns {
        let mut out = Patterns::default();
        out.collect(schema);
        out
    }

    fn collect(&mut self, v: &Value) {
        match v {
            Value::Object(map) => {
                if let Some(Value::String(text)) = map.get("pattern") {
                    self.0.entry(text.clone()).or_insert_with(|| Regex::new(text).ok());
                }
                map.values().for_each(|v| self.collect(v));
            }
            Value::Array(items) => items.iter().for_each(|v| self.collect(v)),
            _ => {}
        }
    }

    /// A pattern that cannot be compiled matches nothing.
    fn matches(&self, pattern: &str, text: &str) -> bool {
        self.0.get(pattern).and_then(Option::as_ref).is_some_and(|r| r.is_match(text))
    }
}

/// What is wrong with an object; what has not changed may stay as wrong as it was.
pub fn validate(object: &Value, old: Option<&Value>, schema: &Value, patterns: &Patterns) -> ErrorList {
    let mut check = Check { patterns, errors: Vec::new() };
    check.value(object, old, schema, &Path::default(), true);
    check.errors
}

/// What is wrong with a part of an object by the schema of that part.
pub fn part(value: &Value, schema: &Value, patterns: &Patterns) -> ErrorList {
    let mut check = Check { patterns, errors: Vec::new() };
    check.value(value, None, schema, &Path::default(), flag(schema, EMBEDDED));
    check.errors
}

struct Check<'a> {
    patterns: &'a Patterns,
    errors: ErrorList,
}

/// The path as the texts of errors begin with it.
fn name(path: &Path) -> &str {
    path.as_str()
}

fn type_of(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() && n.as_f64().is_none_or(|f| f.fract() != 0.0) => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_of_type(schema: &Value, v: &Value) -> bool {
    let found = type_of(v);
    if found == "null" {
        return flag(schema, "nullable") || schema.get("type").is_none();
    }
    if flag(schema, INT_OR_STRING) {
        return matches!(found, "integer" | "string");
    }
    match schema.get("type").and_then(Value::as_str).unwrap_or_default() {
        "" => true,
        "number" => matches!(found, "integer" | "number"),
        wanted => wanted == found,
    }
}

impl Check<'_> {
    fn value(&mut self, v: &Value, old: Option<&Value>, schema: &Value, path: &Path, root: bool) {
        if old == Some(v) {
            return;
        }
        if !is_of_type(schema, v) {
            return self.wrong_type(v, schema, path);
        }
        self.logic(v, schema, path, root);
        if let Some(Value::Array(allowed)) = schema.get("enum")
            && !allowed.contains(v)
        {
            self.not_allowed(v, allowed, path);
        }
        match v {
            Value::String(text) => self.text(text, schema, path),
            Value::Number(n) => self.number(n.as_f64().unwrap_or_default(), v, schema, path),
            Value::Array(items) => self.list(items, old.and_then(Value::as_array), schema, path),
            Value::Object(map) => self.object(map, old.and_then(Value::as_object), schema, path, root),
            _ => {}
        }
    }

    fn wrong_type(&mut self, v: &Value, schema: &Value, path: &Path) {
        let found = type_of(v);
        let wanted = schema.get("type").and_then(Value::as_str).unwrap_or("integer,string");
        let text = format!("{} in body must be of type {wanted}: {found:?}", name(path));
        self.errors.push(Error::type_invalid(path, found, text));
        if let (Value::Number(_), "integer") = (v, wanted) {
            // Numbers are checked against what the type can hold, too, wherever that stands.
            let text = format!("Checked value must be of type integer (default format) in {}", name(path));
            self.errors.push(Error::invalid(&Path::new(""), "", text));
        }
    }

    fn not_allowed(&mut self, v: &Value, allowed: &[Value], path: &Path) {
        let texts: Vec<String> =
            allowed.iter().map(|a| a.as_str().map_or_else(|| a.to_string(), str::to_owned)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        self.errors.push(Error::not_supported(path, v.clone(), &texts));
    }

    fn text(&mut self, text: &str, schema: &Value, path: &Path) {
        let length = text.chars().count() as u64;
        if let Some(most) = schema.get("maxLength").and_then(Value::as_u64).filter(|m| length > *m) {
            self.errors.push(Error::too_long(path, usize::try_from(most).unwrap_or(usize::MAX)));
        }
        if let Some(least) = schema.get("minLength").and_then(Value::as_u64).filter(|m| length < *m) {
            self.invalid(path, text, format!("should be at least {least} chars long"));
        }
        if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
            && !self.patterns.matches(pattern, text)
        {
            self.invalid(path, text, format!("should match '{pattern}'"));
        }
        if let Some(of) = schema.get("format").and_then(Value::as_str)
            && format::has(of, text) == Some(false)
        {
            let text_of = format!("{} in body must be of type {of}: {text:?}", name(path));
            self.errors.push(Error::type_invalid(path, text, text_of));
        }
    }

    fn invalid(&mut self, path: &Path, bad: impl Into<Value>, what: String) {
        self.errors.push(Error::invalid(path, bad, format!("{} in body {what}", name(path))));
    }

    fn number(&mut self, n: f64, v: &Value, schema: &Value, path: &Path) {
        let limit = |key: &str| schema.get(key).filter(|l| l.is_number());
        let as_f64 = |l: &Value| l.as_f64().unwrap_or_default();
        if let Some(most) = limit("maximum") {
            let strict = flag(schema, "exclusiveMaximum");
            if n > as_f64(most) || (strict && n >= as_f64(most)) {
                let words = if strict { "less than" } else { "less than or equal to" };
                self.invalid(path, v.clone(), format!("should be {words} {most}"));
            }
        }
        if let Some(least) = limit("minimum") {
            let strict = flag(schema, "exclusiveMinimum");
            if n < as_f64(least) || (strict && n <= as_f64(least)) {
                let words = if strict { "greater than" } else { "greater than or equal to" };
                self.invalid(path, v.clone(), format!("should be {words} {least}"));
            }
        }
        if let Some(of) = limit("multipleOf") {
            let times = n / as_f64(of);
            if (times - times.round()).abs() > 1e-9 {
                self.invalid(path, v.clone(), format!("should be a multiple of {of}"));
            }
        }
    }

    fn list(&mut self, items: &[Value], old: Option<&Vec<Value>>, schema: &Value, path: &Path) {
        if let Some(most) = schema.get("maxItems").and_then(Value::as_u64).filter(|m| items.len() as u64 > *m)
        {
            self.errors.push(Error::too_many(path, items.len(), usize::try_from(most).unwrap_or(usize::MAX)));
        }
        if let Some(least) =
            schema.get("minItems").and_then(Value::as_u64).filter(|m| (items.len() as u64) < *m)
        {
            self.invalid(path, items.len(), format!("should have at least {least} items"));
        }
        self.unique(items, schema, path);
        if let Some(of) = schema.get("items") {
            let keys = schema.get(LIST_KEYS).and_then(Value::as_array);
            for (i, item) in items.iter().enumerate() {
                let same = |o: &&Value| {
                    keys.is_some_and(|keys| {
                        keys.iter().filter_map(Value::as_str).all(|k| o.get(k) == item.get(k))
                    })
                };
                let before = old.and_then(|o| o.iter().find(same));
                self.value(item, before, of, &path.index(i), false);
            }
        }
    }

    /// Sets and keyed lists have no element twice.
    fn unique(&mut self, items: &[Value], schema: &Value, path: &Path) {
        let key_of: Box<dyn Fn(&Value) -> Value> = match schema.get(LIST_TYPE).and_then(Value::as_str) {
            Some("set") => Box::new(Value::clone),
            Some("map") => {
                let keys = schema.get(LIST_KEYS).and_then(Value::as_array).cloned().unwrap_or_default();
                let names: Vec<String> = keys.iter().filter_map(|k| k.as_str().map(str::to_owned)).collect();
                Box::new(move |item| {
                    names
                        .iter()
                        .filter_map(|n| Some((n.clone(), item.get(n)?.clone())))
                        .collect::<Map<_, _>>()
                        .into()
                })
            }
            _ => return,
        };
        let mut seen: Vec<Value> = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            let key = key_of(item);
            if seen.contains(&key) {
                self.errors.push(Error::duplicate(&path.index(i), key));
            } else {
                seen.push(key);
            }
        }
    }

    fn object(
        &mut self,
        map: &Map<String, Value>,
        old: Option<&Map<String, Value>>,
        schema: &Value,
        path: &Path,
        root: bool,
    ) {
        let own = |key: &str| root && matches!(key, "apiVersion" | "kind" | "metadata");
        for key in
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
        {
            if !map.contains_key(key) {
                self.errors.push(Error::required(&path.child(key), ""));
            }
        }
        let count = map.len();
        if let Some(most) = schema.get("maxProperties").and_then(Value::as_u64).filter(|m| count as u64 > *m)
        {
            self.errors.push(Error::too_many(path, count, usize::try_from(most).unwrap_or(usize::MAX)));
        }
        if let Some(least) =
            schema.get("minProperties").and_then(Value::as_u64).filter(|m| (count as u64) < *m)
        {
            self.invalid(path, count, format!("should have at least {least} properties"));
        }
        if flag(schema, EMBEDDED) {
            self.embedded(map, path);
        }
        for (key, v) in map.iter().filter(|(k, _)| !own(k)) {
            if let Some(of) = property(schema, key) {
                self.value(v, old.and_then(|o| o.get(key)), of, &path.child(key), false);
            }
        }
    }

    /// An object within an object is whole: it says what it is.
    fn embedded(&mut self, map: &Map<String, Value>, path: &Path) {
        for key in ["apiVersion", "kind"] {
            if map.get(key).and_then(Value::as_str).is_none_or(str::is_empty) {
                self.errors.push(Error::required(&path.child(key), "must not be empty"));
            }
        }
    }

    /// What is wrong with a value by another schema.
    fn against(&self, v: &Value, schema: &Value, path: &Path, root: bool) -> ErrorList {
        let mut other = Check { patterns: self.patterns, errors: Vec::new() };
        other.value(v, None, schema, path, root);
        other.errors
    }

    fn logic(&mut self, v: &Value, schema: &Value, path: &Path, root: bool) {
        let schemas = |key: &str| schema.get(key).and_then(Value::as_array).filter(|a| !a.is_empty());
        let mut failed = Vec::new();
        for of in schemas("allOf").into_iter().flatten() {
            failed.extend(self.against(v, of, path, root));
        }
        if let Some(any) = schemas("anyOf")
            && !flag(schema, INT_OR_STRING)
        {
            let tried: Vec<ErrorList> = any.iter().map(|of| self.against(v, of, path, root)).collect();
            if !tried.iter().any(Vec::is_empty) {
                let text = format!("{:?} must validate at least one schema (anyOf)", name(path));
                failed.push(Error::invalid(&Path::default(), "", text));
                failed.extend(tried.into_iter().min_by_key(Vec::len).unwrap_or_default());
            }
        }
        if let Some(one) = schemas("oneOf") {
            let tried: Vec<ErrorList> = one.iter().map(|of| self.against(v, of, path, root)).collect();
            let valid = tried.iter().filter(|e| e.is_empty()).count();
            if valid != 1 {
                let found = match valid {
                    0 => "Found none valid".to_owned(),
                    n => format!("Found {n} valid alternatives"),
                };
                let text = format!("{:?} must validate one and only one schema (oneOf). {found}", name(path));
                failed.push(Error::invalid(&Path::default(), "", text));
                if valid == 0 {
                    failed.extend(tried.into_iter().min_by_key(Vec::len).unwrap_or_default());
                }
            }
        }
        if let Some(not) = schema.get("not")
            && self.against(v, not, path, root).is_empty()
        {
            let text = format!("{:?} must not validate the schema (not)", name(path));
            failed.push(Error::invalid(&Path::default(), "", text));
        }
        self.errors.extend(failed);
    }
}

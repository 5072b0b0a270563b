//! Label and field selectors of a request, made into what the cache filters by.

use crate::served::Served;
use api::Value;
use api::selectors::{FieldSelector, Labels, Selector};
use api::status::{Result, Status};
use std::sync::Arc;
use storage::{Attributes, IndexHint, Predicate};

/// The filter, and the index that narrows the search before it.
#[derive(Default)]
pub struct Compiled {
    pub predicate: Option<Arc<Predicate>>,
    pub index: Option<IndexHint>,
    /// What can only be told once an object has been converted.
    pub after: Option<After>,
}

/// Fields of a version that another server converts to: what is stored may not have them.
pub struct After(FieldSelector);

impl After {
    /// Whether an object of the request's version is selected.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.terms.iter().all(|t| (text_at(object, &t.field) == t.value) == t.equal)
    }
}

fn text_at(object: &Value, field: &str) -> String {
    match object.pointer(&format!("/{}", field.replace('.', "/"))) {
        Some(Value::String(s)) => s.clone(),
        Some(v @ (Value::Number(_) | Value::Bool(_))) => v.to_string(),
        _ => String::new(),
    }
}

struct Of<'a>(&'a Attributes);

impl Labels for Of<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        self.0.label(key)
    }
}

/// Fields that the cache keeps an index of, where a resource has them.
pub const INDEXED: [&str; 1] = ["spec.nodeName"];

/// Reads both selectors; what the resource cannot be selected by is a 400.
pub fn compile(served: &Served, labels: &str, fields: &str) -> Result<Compiled> {
    if labels.is_empty() && fields.is_empty() {
        return Ok(Compiled::default());
    }
    let bad = |e: String| Status::bad_request(e);
    let labels = Selector::parse(labels).map_err(bad)?;
    let fields = FieldSelector::parse(fields).map_err(bad)?.resolve(&served.row).map_err(bad)?;
    let index = INDEXED.iter().find_map(|field| {
        let value = fields.exact(field).filter(|v| !v.is_empty())?;
        Some(IndexHint { field: (*field).to_owned(), value: value.to_owned() })
    });
    let after = served.convert.is_some() && fields.terms.iter().any(|t| !t.field.starts_with("metadata."));
    let (fields, after) =
        if after { (FieldSelector::default(), Some(After(fields))) } else { (fields, None) };
    let id = format!("{labels};{fields:?}");
    let predicate = Predicate::new(id, move |object| {
        let a = &object.attributes;
        labels.matches(&Of(a)) && fields.matches(|f| Some(a.field(f)))
    });
    Ok(Compiled { predicate: Some(predicate), index, after })
}

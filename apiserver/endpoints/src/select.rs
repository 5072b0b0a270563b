//! Label and field selectors of a request, made into what the cache filters by.

use crate::served::Served;
use api::selectors::{FieldSelector, Labels, Selector};
use api::status::{Result, Status};
use std::sync::Arc;
use storage::{Attributes, IndexHint, Predicate};

/// The filter, and the index that narrows the search before it.
#[derive(Default)]
pub struct Compiled {
    pub predicate: Option<Arc<Predicate>>,
    pub index: Option<IndexHint>,
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
    let labels = Selector::parse(labels).map_err(|e| {
        Status::bad_request(format!("unable to parse requirement: {e}").replace(
            "unable to parse requirement: unable to parse requirement",
            "unable to parse requirement",
        ))
    })?;
    let fields = FieldSelector::parse(fields).map_err(bad)?.resolve(&served.row).map_err(bad)?;
    let index = INDEXED.iter().find_map(|field| {
        let value = fields.exact(field).filter(|v| !v.is_empty())?;
        Some(IndexHint { field: (*field).to_owned(), value: value.to_owned() })
    });
    let id = format!("{labels};{fields}");
    let predicate = Predicate::new(id, move |object| {
        let a = &object.attributes;
        labels.matches(&Of(a)) && fields.matches(|f| Some(a.field(f)))
    });
    Ok(Compiled { predicate: Some(predicate), index })
}

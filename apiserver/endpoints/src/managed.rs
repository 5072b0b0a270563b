//! Who owns which field: bookkeeping of `metadata.managedFields` on every write, in the request's version.

use crate::served::Served;
use crate::write::now;
use api::status::Result;
use api::{GroupVersionKind, Value};
use merge::managed::{self, Versions};
use merge::reset::Filter;
use merge::{Manager, Type};

/// The writer of a request.
pub struct Write<'a> {
    pub manager: &'a str,
    pub subresource: &'a str,
}

/// The versions that a resource is known in, for entries that were made at another one.
struct Known<'a>(&'a Served);

impl Versions for Known<'_> {
    fn convert(&self, object: &Value, api_version: &str) -> Option<Value> {
        let from = kind_at(self.0, object["apiVersion"].as_str()?);
        let to = kind_at(self.0, api_version);
        self.0.converted(object.clone(), &from, &to).ok()
    }

    fn typing(&self, api_version: &str) -> Option<Type<'_>> {
        if self.0.message.is_none() {
            return Some(Type::Custom(self.0.room.schema()));
        }
        let gvk = kind_at(self.0, api_version);
        if gvk == self.0.gvk {
            self.0.message.map(Type::of)
        } else {
            api::schema::for_kind(&gvk).map(Type::of)
        }
    }
}

fn kind_at(served: &Served, api_version: &str) -> GroupVersionKind {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    GroupVersionKind::new(group, version, &served.gvk.kind)
}

fn filter(served: &Served, subresource: &str) -> Filter {
    if served.message.is_some() {
        Filter::builtin(served.group(), &served.resource, subresource, served.has_status)
    } else {
        Filter::custom(subresource, served.has_status)
    }
}

/// When a write was made; what is owned through a Scale carries no time.
fn time(own: &Write<'_>) -> String {
    if own.subresource == "scale" { String::new() } else { now() }
}

/// Records the change from `old` (none: a create) to `new`, both of the version that is served.
pub fn record(served: &Served, old: Option<&Value>, new: &mut Value, own: &Write<'_>) {
    let manager = Manager::update(own.manager, &served.api_version, own.subresource);
    managed::update(&Known(served), old, new, &manager, &filter(served, own.subresource), &time(own));
}

/// As [`record`], for objects of the storage version.
pub fn on_update(served: &Served, new: Value, old: &Value, own: &Write<'_>) -> Result<Value> {
    let here = served.from_stored(old.clone())?;
    let mut new = served.from_stored(new)?;
    record(served, Some(&here), &mut new, own);
    served.to_stored(new)
}

/// Server-side apply: the merge of what is stored (in the version that is served) and what is applied.
pub fn apply(
    served: &Served,
    live: Option<&Value>,
    applied: &Value,
    own: &Write<'_>,
    force: bool,
) -> Result<Value> {
    let manager = Manager::apply(own.manager, &served.api_version, own.subresource);
    let filter = filter(served, own.subresource);
    merge::apply::apply(&Known(served), &served.gvk, live, applied, &manager, force, &filter, &time(own))
}

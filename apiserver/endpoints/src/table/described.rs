//! What the columns of Tables mean, in the words of the types' own documentation where a column is one of their fields.

use crate::served::Served;
use api::resources::Column;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

const META: &str = "k8s.io.apimachinery.pkg.apis.meta.v1.ObjectMeta";

type Texts = HashMap<(&'static str, String), Arc<str>>;

/// Texts by message and column; the documentation is only unpacked for columns that are asked for the first time.
static KNOWN: LazyLock<Mutex<Texts>> = LazyLock::new(Mutex::default);

/// The description of a column.
pub fn column(served: &Served, c: &Column) -> Arc<str> {
    let Some(message) = served.message else { return own(&c.name).into() };
    if let Some(text) = KNOWN.lock().get(&(message.name, c.name.clone())) {
        return text.clone();
    }
    let columns: Vec<&str> =
        served.columns.iter().map(|c| c.name.as_str()).chain([c.name.as_str()]).collect();
    let places: Vec<_> = columns.iter().map(|column| places(message.name, column)).collect();
    let mut texts = openapi::field_texts(&places);
    let mut known = KNOWN.lock();
    for (column, text) in columns.iter().zip(&mut texts) {
        let text: Arc<str> = text.take().unwrap_or_else(|| own(column)).into();
        known.insert((message.name, (*column).to_owned()), text);
    }
    known.get(&(message.name, c.name.clone())).cloned().unwrap_or_else(|| own(&c.name).into())
}

/// The fields that a column may show, the likeliest first.
fn places(message: &str, column: &str) -> Vec<(String, String)> {
    let of = |message: &str, field: &str| (message.to_owned(), field.to_owned());
    match column {
        "Name" => vec![of(META, "name")],
        "Age" | "Created At" => vec![of(META, "creationTimestamp")],
        _ => {
            let field = camel(column);
            ["", "Spec", "Status"].iter().map(|part| of(&format!("{message}{part}"), &field)).collect()
        }
    }
}

/// `Reclaim Policy` and `ReclaimPolicy` as a field is written.
fn camel(column: &str) -> String {
    let mut words = column.split([' ', '-']);
    let first = words.next().unwrap_or_default();
    let mut out = match first.chars().all(|c| c.is_ascii_uppercase()) {
        true => first.to_ascii_lowercase(),
        false => {
            let mut chars = first.chars();
            chars.next().map(|c| c.to_ascii_lowercase()).into_iter().chain(chars).collect()
        }
    };
    out.extend(words.flat_map(str::chars));
    out
}

fn own(column: &str) -> String {
    format!("The object's {}.", column.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_fields() {
        for (column, field) in [
            ("Data", "data"),
            ("Reclaim Policy", "reclaimPolicy"),
            ("AllowVolumeExpansion", "allowVolumeExpansion"),
            ("IP", "ip"),
        ] {
            assert_eq!(camel(column), field);
        }
        let texts = openapi::field_texts(&[
            places("k8s.io.api.core.v1.ConfigMap", "Name"),
            places("k8s.io.api.core.v1.ConfigMap", "Data"),
            places("k8s.io.api.storage.v1.CSIDriver", "AttachRequired"),
            places("k8s.io.api.core.v1.Pod", "Restarts"),
        ]);
        let starts = |i: usize, with: &str| texts[i].as_deref().is_some_and(|t: &str| t.starts_with(with));
        assert!(starts(0, "Name must be unique") && starts(1, "Data contains"), "{texts:?}");
        assert!(starts(2, "attachRequired indicates") && texts[3].is_none(), "{texts:?}");
    }
}

//! What selectors can see of a stored object: its labels and the fields that the resource table names.

use api::resources::Resource;
use api::schema::Message;
use std::collections::BTreeSet;
use std::sync::Arc;
use storage::Attributes;

type AttributesFn = Arc<dyn Fn(&str, &[u8]) -> Attributes + Send + Sync>;

/// Reads attributes out of stored bytes without decoding them.
pub fn builtin(message: &'static Message, rows: &[&Resource]) -> AttributesFn {
    let mut fields = BTreeSet::new();
    for row in rows {
        for label in row.selectable_fields.iter().filter(|f| !row.fields_without_value.contains(f)) {
            fields.insert(row.selectable_field(label).unwrap_or(label).to_owned());
        }
    }
    let fields: Vec<String> = fields.into_iter().filter(|f| !f.starts_with("metadata.")).collect();
    Arc::new(move |key, bytes| read(message, &fields, key, bytes).unwrap_or_default())
}

fn read(message: &'static Message, fields: &[String], key: &str, bytes: &[u8]) -> Option<Attributes> {
    let bytes = bytes::Bytes::copy_from_slice(bytes);
    let raw = endpoints::envelope::message(&bytes)?;
    let meta = api::protobuf::peek::meta(&raw).ok()?;
    let mut found: Vec<(&str, String)> = Vec::with_capacity(fields.len() + 2);
    found.push(("metadata.name", key.rsplit('/').next().unwrap_or_default().to_owned()));
    found.push(("metadata.namespace", meta.namespace.to_owned()));
    for field in fields {
        if let Some(text) = field_text(message, &raw, field) {
            found.push((field.as_str(), text));
        }
    }
    let wire = endpoints::envelope::Spliced::lengths(&raw).unwrap_or_default();
    Some(Attributes::new(meta.labels.iter().copied(), found).with_wire(wire))
}

fn field_text(message: &'static Message, raw: &[u8], field: &str) -> Option<String> {
    let at = |path: &str| api::protobuf::peek::field_text(message, raw, path).ok().flatten();
    match field {
        // An event's source is who reported it, in either generation of the API.
        "source" => at("source.component").filter(|s| !s.is_empty()).or_else(|| at("reportingComponent")),
        "status.successful" => at("status.succeeded"),
        _ => at(field),
    }
}

//! Server-side Tables: what `kubectl get` prints.

mod described;

use crate::body::Body;
use crate::call::Call;
use crate::envelope::ListMeta;
use crate::list::{meta_json, partial_of};
use crate::negotiate::{Accepted, Media};
use crate::respond;
use crate::served::{Served, encode_json};
use api::field::{Error, Path};
use api::resources::Column;
use api::status::{Result, Status};
use api::{Value, json};
use bytes::Bytes;
use http::Response;
use std::sync::Arc;
use storage::Object;

/// How much of each object a row carries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    pub fn of(call: &Call) -> Result<Self> {
        match call.query.get("includeObject").unwrap_or_default() {
            "" | "Metadata" => Ok(Include::Metadata),
            "None" => Ok(Include::None),
            "Object" => Ok(Include::Object),
            other => {
                let why = "must be 'Metadata', 'Object', 'None', or empty";
                let error = Error::invalid(&Path::new("includeObject"), other, why);
                Err(Status::bad_request(format!("Unable to convert to Table as requested: {error}")))
            }
        }
    }
}

/// The columns of a resource, or the two that every object has.
fn columns(served: &Served) -> String {
    let default = [
        Column { name: "Name".into(), r#type: "string".into(), format: "name".into(), priority: 0 },
        Column { name: "Created At".into(), r#type: "date".into(), format: String::new(), priority: 0 },
    ];
    let columns = if served.columns.is_empty() { &default[..] } else { &served.columns[..] };
    let all: Vec<String> = columns.iter().map(|c| column(served, c)).collect();
    format!("[{}]", all.join(","))
}

fn column(served: &Served, c: &Column) -> String {
    format!(
        "{{\"name\":{},\"type\":{},\"format\":{},\"description\":{},\"priority\":{}}}",
        json!(c.name),
        json!(c.r#type),
        json!(c.format),
        json!(described::column(served, c)),
        c.priority
    )
}

/// The cells of an object of this version.
fn cells(served: &Served, value: &Value) -> Value {
    let cells = (!served.columns.is_empty()).then(|| served.room.row(value)).flatten();
    cells.map(Value::from).unwrap_or_else(|| {
        let meta = &value["metadata"];
        let mut row = vec![meta["name"].clone(), meta["creationTimestamp"].clone()];
        row.extend((2..served.columns.len()).map(|_| Value::Null));
        row.into()
    })
}

fn row(served: &Served, value: &Value, include: Include, version: &str) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"{\"cells\":");
    serde_json::to_writer(&mut out, &cells(served, value)).map_err(Status::internal)?;
    if let Some(conditions) = served.room.row_conditions(value) {
        out.extend_from_slice(b",\"conditions\":");
        serde_json::to_writer(&mut out, &conditions).map_err(Status::internal)?;
    }
    let object = match include {
        Include::None => None,
        Include::Metadata => {
            let gvk = api::GroupVersionKind::new("meta.k8s.io", version, "PartialObjectMetadata");
            let message = api::schema::message("k8s.io.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata");
            Some(encode_json(message, &gvk, &partial_of(value, version))?)
        }
        Include::Object => Some(encode_json(served.message, &served.gvk, value)?),
    };
    match object {
        Some(json) => {
            out.extend_from_slice(b",\"object\":");
            out.extend_from_slice(json.strip_suffix(b"\n").unwrap_or(&json));
        }
        None => out.extend_from_slice(b",\"object\":null"),
    }
    out.push(b'}');
    Ok(out)
}

fn head(version: &str, meta: &str, columns: &str) -> String {
    format!(
        "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/{version}\",\"metadata\":{meta},\"columnDefinitions\":{columns},\"rows\":["
    )
}

/// A list as a Table.
pub fn list(
    call: &Call,
    served: &Arc<Served>,
    items: &[Arc<Object>],
    meta: &ListMeta,
    accepted: Accepted,
) -> Result<Response<Body>> {
    let include = Include::of(call)?;
    let head = head(accepted.version, &meta_json(meta), &columns(served));
    let (rows, items) = (served.clone(), items.to_vec());
    let mut first = true;
    let pieces = items.into_iter().filter_map(move |object| {
        let made = rows.value_here(&object).and_then(|v| row(&rows, &v, include, accepted.version));
        let mut bytes = made
            .inspect_err(|e| tracing::error!(key = %object.key, error = %e, "an object cannot be read and is missing from a table"))
            .ok()?;
        if !std::mem::take(&mut first) {
            bytes.insert(0, b',');
        }
        Some(Bytes::from(bytes))
    });
    let all =
        std::iter::once(Bytes::from(head)).chain(pieces).chain(std::iter::once(Bytes::from_static(b"]}\n")));
    respond::pieces(call, accepted, all, false)
}

/// A short list of what is in no storage, as a Table.
pub fn values(
    call: &Call,
    served: &Arc<Served>,
    items: &[Value],
    accepted: Accepted,
) -> Result<Response<Body>> {
    let include = Include::of(call)?;
    let mut text = head(accepted.version, "{}", &columns(served)).into_bytes();
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            text.push(b',');
        }
        text.extend(row(served, item, include, accepted.version)?);
    }
    text.extend_from_slice(b"]}\n");
    respond::pieces(call, accepted, std::iter::once(Bytes::from(text)), true)
}

/// One object as a Table of one row; `columns` only where the client does not have them yet.
pub fn document(
    served: &Served,
    value: &Value,
    include: Include,
    version: &str,
    with_columns: bool,
) -> Result<Vec<u8>> {
    let rv = value["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let meta = if rv.is_empty() { "{}".to_owned() } else { format!("{{\"resourceVersion\":\"{rv}\"}}") };
    let columns = if with_columns { columns(served) } else { "null".to_owned() };
    let mut out = head(version, &meta, &columns).into_bytes();
    out.extend(row(served, value, include, version)?);
    out.extend_from_slice(b"]}\n");
    Ok(out)
}

/// A bookmark of a Table watch: no rows, only the version.
pub fn bookmark(version: &str, meta: &Value) -> Vec<u8> {
    format!(
        "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/{version}\",\"metadata\":{{\"resourceVersion\":{}}},\"columnDefinitions\":null,\"rows\":[]}}\n",
        meta["resourceVersion"]
    )
    .into_bytes()
}

/// GET of one object as a Table.
pub fn one(
    call: &Call,
    served: &Arc<Served>,
    code: u16,
    value: &Value,
    accepted: Accepted,
) -> Result<Response<Body>> {
    let text = document(served, value, Include::of(call)?, accepted.version, true)?;
    if matches!(accepted.media, Media::Yaml | Media::Cbor) {
        let v: Value = serde_json::from_slice(&text).map_err(Status::internal)?;
        return respond::value(call, code, &v, accepted);
    }
    Ok(respond::json(call, code, text.into(), accepted.pretty))
}

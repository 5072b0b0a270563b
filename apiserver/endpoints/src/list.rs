//! LIST: which objects at which revision, and how they are written.
//!
//! Items are streamed from the bytes that the cache holds; a list costs the server one vector of pointers.

use crate::body::Body;
use crate::call::Call;
use crate::envelope::{self, Item, ListMeta, Spliced};
use crate::negotiate::{Accepted, Media, Offers, Shape};
use crate::query::ListOptions;
use crate::respond;
use crate::served::Served;
use api::field::{Error, Path};
use api::status::{Result, Status};
use api::{Value, json};
use bytes::Bytes;
use http::Response;
use std::sync::Arc;
use storage::{List, Object, ReadVersion};

/// Answers a LIST.
pub async fn list(call: &Call, served: &Arc<Served>) -> Result<Response<Body>> {
    let accepted = call.accepted(Offers::ALL)?;
    let options = ListOptions::from_query(&call.query)?;
    validate(&options)?;
    let found = select(call, served, &options).await?;
    render(call, served, found, accepted)
}

/// Finds what the options ask for in the namespace of the request.
pub async fn select(call: &Call, served: &Arc<Served>, options: &ListOptions) -> Result<List> {
    let stored = served.stored()?;
    let selector = crate::select::compile(served, &options.label_selector, &options.field_selector)?;
    let (version, limit) = version_and_limit(options)?;
    let asked = storage::ListOptions {
        version,
        limit,
        continue_token: Some(options.continue_token.clone()).filter(|c| !c.is_empty()),
        predicate: selector.predicate,
        index: selector.index,
    };
    let range = served.range(&call.info.namespace)?;
    let mut found = stored.resource.list(&range, asked).await.map_err(|e| expired_continue(e, served))?;
    if let Some(after) = selector.after {
        let mut kept = Vec::new();
        for object in std::mem::take(&mut found.items) {
            if after.matches(&served.value_here(&object)?) {
                kept.push(object);
            }
        }
        found.items = kept;
    }
    Ok(found)
}

/// An expired `continue` comes with a token that goes on with an inconsistent list.
fn expired_continue(e: storage::Error, served: &Served) -> Status {
    let next = match &e {
        storage::Error::Expired { next: Some(next), .. } => Some(next.clone()),
        _ => None,
    };
    let mut status = crate::errors::storage(e, served.group(), &served.resource, "");
    status.continue_token = next.unwrap_or_default();
    status
}

/// The table of `resourceVersion`, `resourceVersionMatch`, `limit` and `continue`.
fn version_and_limit(o: &ListOptions) -> Result<(ReadVersion, usize)> {
    let limit = usize::try_from(o.limit).unwrap_or(0);
    if !o.continue_token.is_empty() {
        if !o.resource_version.is_empty() && o.resource_version != "0" {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        return Ok((ReadVersion::Consistent, limit));
    }
    let revision = parse_version(&o.resource_version)
        .map_err(|e| Status::bad_request(format!("invalid resource version: {}", e.message)))?;
    Ok(match (revision, o.resource_version_match.as_str()) {
        (None, _) => (ReadVersion::Consistent, limit),
        // Whatever is in memory is one page.
        (Some(0), _) => (ReadVersion::Any, 0),
        (Some(n), "Exact") => (ReadVersion::Exact(n), limit),
        (Some(n), "") if limit > 0 => (ReadVersion::Exact(n), limit),
        (Some(n), _) => (ReadVersion::NotOlderThan(n), limit),
    })
}

/// A resource version from a client: opaque to it, a number to us.
pub fn parse_version(text: &str) -> Result<Option<i64>> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse::<i64>().ok().filter(|n| *n >= 0).map(Some).ok_or_else(|| {
        let why = crate::query::no_number("ParseUint", text);
        let error = Error::invalid(&Path::new("resourceVersion"), text, why);
        // Clients of a get or watch know it like this; a list makes a bad request of it.
        Status::new(500, "", error.to_string())
    })
}

/// Combinations that mean nothing are refused.
pub fn validate(o: &ListOptions) -> Result<()> {
    let errors = if o.watch { validate_watch(o) } else { validate_list(o) };
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "ListOptions", "", &errors)) }
}

fn validate_list(o: &ListOptions) -> Vec<Error> {
    let mut errors = Vec::new();
    let path = Path::new("resourceVersionMatch");
    let mut forbidden = |on: bool, text: &str| errors.extend(on.then(|| Error::forbidden(&path, text)));
    let rvm = o.resource_version_match.as_str();
    if !rvm.is_empty() {
        let none = o.resource_version.is_empty();
        forbidden(none, "resourceVersionMatch is forbidden unless resourceVersion is provided");
        let paging = !o.continue_token.is_empty();
        forbidden(paging, "resourceVersionMatch is forbidden when continue is provided");
        if !matches!(rvm, "Exact" | "NotOlderThan") {
            errors.push(Error::not_supported_in_order(&path, rvm, &["Exact", "NotOlderThan", ""]));
        }
        let any = rvm == "Exact" && o.resource_version == "0";
        errors.extend(any.then(|| {
            Error::forbidden(&path, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"")
        }));
    }
    if o.send_initial_events.is_some() {
        let path = Path::new("sendInitialEvents");
        errors.push(Error::forbidden(&path, "sendInitialEvents is forbidden for list"));
    }
    errors
}

fn validate_watch(o: &ListOptions) -> Vec<Error> {
    let mut errors = Vec::new();
    let path = Path::new("resourceVersionMatch");
    let (rvm, initial) = (o.resource_version_match.as_str(), o.send_initial_events.is_some());
    let other = rvm != "NotOlderThan";
    if initial && other {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.push(Error::forbidden(&path, why));
    }
    if rvm.is_empty() {
        return errors;
    }
    if !initial {
        let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
        errors.push(Error::forbidden(&path, why));
    }
    if other {
        errors.push(Error::not_supported(&path, rvm, &["NotOlderThan"]));
    }
    if !o.continue_token.is_empty() {
        errors.push(Error::forbidden(&path, "resourceVersionMatch is forbidden when continue is provided"));
    }
    errors
}

/// Namespace and name, from the key: nothing has to be decoded for that.
pub fn names_of<'a>(served: &Served, key: &'a str) -> (&'a str, &'a str) {
    let (rest, name) = key.rsplit_once('/').unwrap_or(("", key));
    if served.namespaced { (rest.rsplit('/').next().unwrap_or_default(), name) } else { ("", name) }
}

fn meta(found: &List) -> ListMeta {
    ListMeta {
        resource_version: found.revision.to_string(),
        continue_token: found.next.clone().unwrap_or_default(),
        remaining: found.remaining.filter(|_| found.next.is_some()),
    }
}

/// `ListMeta` as JSON, in upstream's field order.
pub fn meta_json(m: &ListMeta) -> String {
    let mut out = format!("{{\"resourceVersion\":\"{}\"", m.resource_version);
    if !m.continue_token.is_empty() {
        out.push_str(&format!(",\"continue\":{}", Value::from(m.continue_token.as_str())));
    }
    if let Some(n) = m.remaining {
        out.push_str(&format!(",\"remainingItemCount\":{n}"));
    }
    out.push('}');
    out
}

/// Writes a list in the form that was negotiated.
pub fn render(call: &Call, served: &Arc<Served>, found: List, accepted: Accepted) -> Result<Response<Body>> {
    let meta = meta(&found);
    match (accepted.shape, accepted.media) {
        (Shape::Table, _) => crate::table::list(call, served, &found.items, &meta, accepted),
        (Shape::Partial, _) => Err(respond::wrong_shape(served, "PartialObjectMetadata", "a list", "List")),
        (Shape::PartialList, _) => partial(call, served, &found.items, &meta, accepted),
        (Shape::Object, Media::Protobuf) => protobuf(call, served, &found.items, &meta),
        (Shape::Object, _) => json_list(call, served, found.items, &meta, accepted),
    }
}

fn json_list(
    call: &Call,
    served: &Arc<Served>,
    items: Vec<Arc<Object>>,
    meta: &ListMeta,
    accepted: Accepted,
) -> Result<Response<Body>> {
    let head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
        served.list_kind,
        served.api_version,
        meta_json(meta)
    );
    // A small list is one write; a large one is made while it is being sent, so nothing may fail any more.
    let small = items.len() <= 200;
    let rows = served.clone();
    let mut first = true;
    let pieces = items.into_iter().flat_map(move |object| {
        let json = if small { rows.json(&object) } else { rows.json_transient(&object) };
        let piece = json.map(|j| strip(&rows, j)).unwrap_or_else(|e| {
            tracing::error!(key = %object.key, error = %e, "an object cannot be read and is missing from a list");
            [Bytes::new(), Bytes::new()]
        });
        let comma = if piece[1].is_empty() || std::mem::take(&mut first) { "" } else { "," };
        [Bytes::from_static(comma.as_bytes()), piece[0].clone(), piece[1].clone()].into_iter()
    });
    let all = std::iter::once(Bytes::from(head))
        .chain(pieces.filter(|p| !p.is_empty()))
        .chain(std::iter::once(Bytes::from_static(b"]}\n")));
    respond::pieces(call, accepted, all, small)
}

/// Items of built-in lists do not repeat kind and version; the final newline goes too.
fn strip(served: &Served, json: Bytes) -> [Bytes; 2] {
    let end = if json.ends_with(b"\n") { json.len() - 1 } else { json.len() };
    if served.message.is_some() && json.starts_with(&served.json_prefix) {
        return [Bytes::from_static(b"{"), json.slice(served.json_prefix.len()..end)];
    }
    [Bytes::new(), json.slice(..end)]
}

fn protobuf(
    call: &Call,
    served: &Arc<Served>,
    items: &[Arc<Object>],
    meta: &ListMeta,
) -> Result<Response<Body>> {
    let same = served.is_stored_version();
    let mut all = Vec::with_capacity(items.len());
    for object in items {
        let wire = object.attributes.wire().filter(|_| same);
        all.push(match wire {
            Some(wire) => Item::Stored(object.clone(), Spliced::len_at(wire, object.revision)),
            None => {
                let whole = served.protobuf(object)?;
                Item::Whole(envelope::message(&whole).unwrap_or_default())
            }
        });
    }
    let pieces = envelope::list(&served.api_version, &served.list_kind, meta, all);
    Ok(respond::raw_pieces(call, crate::negotiate::PROTOBUF, pieces))
}

/// `PartialObjectMetadataList`.
fn partial(
    call: &Call,
    served: &Arc<Served>,
    items: &[Arc<Object>],
    meta: &ListMeta,
    accepted: Accepted,
) -> Result<Response<Body>> {
    let mut all = Vec::with_capacity(items.len());
    for object in items {
        let value = served.value(object)?;
        all.push(partial_of(&value, accepted.version));
    }
    if accepted.media == Media::Json {
        return partial_json(call, &all, meta, accepted);
    }
    let mut list_meta = json!({"resourceVersion": meta.resource_version});
    if !meta.continue_token.is_empty() {
        list_meta["continue"] = meta.continue_token.as_str().into();
    }
    if let Some(n) = meta.remaining {
        list_meta["remainingItemCount"] = n.into();
    }
    let list = json!({
        "kind": "PartialObjectMetadataList",
        "apiVersion": format!("meta.k8s.io/{}", accepted.version),
        "metadata": list_meta,
        "items": all,
    });
    respond::value(call, 200, &list, Accepted { shape: Shape::Object, ..accepted })
}

/// Items of this list say what they are, each.
fn partial_json(call: &Call, items: &[Value], meta: &ListMeta, accepted: Accepted) -> Result<Response<Body>> {
    let gvk = api::GroupVersionKind::new("meta.k8s.io", accepted.version, "PartialObjectMetadata");
    let message = api::schema::message("k8s.io.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata");
    let mut text = format!(
        "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"meta.k8s.io/{}\",\"metadata\":{},\"items\":[",
        accepted.version,
        meta_json(meta)
    )
    .into_bytes();
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            text.push(b',');
        }
        let one = crate::served::encode_json(message, &gvk, item)?;
        text.extend_from_slice(one.strip_suffix(b"\n").unwrap_or(&one));
    }
    text.extend_from_slice(b"]}\n");
    Ok(respond::json(call, 200, text.into(), accepted.pretty))
}

/// The `PartialObjectMetadata` of an object.
pub fn partial_of(value: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": value["metadata"],
    })
}

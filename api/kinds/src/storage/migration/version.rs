//! What API servers say of the versions that they store, and whether they agree.

use crate::value::Get;
use crate::{Context, checks, names};
use api::Value;
use api::field::{Error, ErrorList, Path};

/// The spec is empty; only the status can be wrong, and an update of the spec does not look at it.
pub fn validate(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if old.is_some() && cx.subresource != "status" {
        return;
    }
    let (status, at) = (new.at("status"), Path::new("status"));
    let servers = status.list("storageVersions");
    for (i, s) in servers.iter().enumerate() {
        let (at, id) = (at.child("storageVersions").index(i), s.text("apiServerID"));
        if servers[..i].iter().any(|o| o.text("apiServerID") == id) {
            e.push(Error::duplicate(&at.child("apiServerID"), id));
        }
        server(s, &at, e);
    }
    common(status, servers, &at.child("commonEncodingVersion"), e);
    conditions(status.list("conditions"), &at, e);
}

fn server(s: &Value, at: &Path, e: &mut ErrorList) {
    let id = s.text("apiServerID");
    checks::texts(id, names::dns_subdomain(id), &at.child("apiServerID"), e);
    let version = |text: &str, at: &Path, e: &mut ErrorList| {
        let wrong = api_version(text);
        if !wrong.is_empty() {
            e.push(Error::invalid(at, text, wrong.join(",")));
        }
    };
    let encoding = s.text("encodingVersion");
    version(encoding, &at.child("encodingVersion"), e);
    let decodable: Vec<&str> = s.texts("decodableVersions").collect();
    let at_decodable = at.child("decodableVersions");
    for (i, text) in decodable.iter().enumerate() {
        version(text, &at_decodable.index(i), e);
    }
    if !decodable.contains(&encoding) {
        let text = format!("decodableVersions must include encodingVersion {encoding}");
        e.push(Error::invalid(&at_decodable, s.at("decodableVersions").clone(), text));
    }
    for (i, text) in s.texts("servedVersions").enumerate() {
        let at = at.child("servedVersions").index(i);
        version(text, &at, e);
        if !decodable.contains(&text) {
            let known = decodable.join(" ");
            let why = format!(
                "individual served version : {text} must be included in decodableVersions : [{known}]"
            );
            e.push(Error::invalid(&at, text, why));
        }
    }
}

fn common(status: &Value, servers: &[Value], at: &Path, e: &mut ErrorList) {
    let mut encodings = servers.iter().map(|s| s.text("encodingVersion"));
    let actual = encodings.next().filter(|first| encodings.all(|other| other == *first));
    match (actual, status.opt_text("commonEncodingVersion")) {
        (None, Some(said)) => e.push(Error::invalid(at, said, "should be nil if servers do not agree on the same encoding version, or if there is no server reporting the supported versions yet")),
        (Some(actual), None) => {
            e.push(Error::invalid(at, Value::Null, format!("the common encoding version is {actual}")));
        }
        (Some(actual), Some(said)) if actual != said => {
            e.push(Error::invalid(at, said, format!("the actual common encoding version is {actual}")));
        }
        _ => {}
    }
}

fn conditions(list: &[Value], at: &Path, e: &mut ErrorList) {
    for (i, c) in list.iter().enumerate() {
        let at = at.index(i);
        if let Some(j) = list[..i].iter().rposition(|o| o.text("type") == c.text("type")) {
            let text = format!("the type of the condition is not unique, it also appears in conditions[{j}]");
            e.push(Error::invalid(&at.child("type"), c.text("type"), text));
        }
        for field in ["type", "status"] {
            checks::qualified(c.text(field), &at.child(field), e);
        }
        for field in ["reason", "message"] {
            checks::required(c, field, &at, e);
        }
    }
}

/// What is wrong with an API version such as `apps/v1`.
fn api_version(text: &str) -> Vec<String> {
    const EMPTY: &str = "must be non-empty";
    let parts: Vec<&str> = text.split('/').collect();
    let (group, version) = match parts.as_slice() {
        [version] => (None, *version),
        [group, version] => (Some(*group), *version),
        _ => {
            let what = "an apiVersion is a DNS-1035 label, which must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
            let text = names::regex_error(what, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]);
            return vec![format!(
                "{text} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyVersion')"
            )];
        }
    };
    let mut out = Vec::new();
    let mut part = |name: &str, text: &str, wrong: Vec<String>| {
        let wrong = if text.is_empty() { vec![EMPTY.to_owned()] } else { wrong };
        out.extend(wrong.into_iter().map(|w| format!("{name} part: {w}")));
    };
    if let Some(group) = group {
        part("group", group, names::dns_subdomain(group));
    }
    part("version", version, names::dns1035_label(version));
    out
}

//! `/statusz` and `/flagz`: what a process is and how it was started, as text for people and as
//! `config.k8s.io` objects for programs.

use std::sync::LazyLock;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::health::plain;
use crate::{Flags, version};

static STARTED: LazyLock<jiff::Timestamp> = LazyLock::new(jiff::Timestamp::now);

const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.";

/// How a client wants a page.
#[derive(Debug, PartialEq)]
enum Form {
    Text,
    /// JSON of this version.
    Object(&'static str),
    Neither,
}

/// `/statusz` of the component of that name; `paths` is what it lists.
pub fn statusz_routes(name: &'static str, paths: &[&str]) -> Router {
    LazyLock::force(&STARTED);
    let paths: Vec<String> = paths.iter().map(|p| (*p).to_owned()).collect();
    Router::new().route("/statusz", get(move |h: HeaderMap| std::future::ready(statusz(&h, name, &paths))))
}

/// `/flagz` of the component of that name.
pub fn flagz_routes(name: &'static str, flags: &Flags) -> Router {
    let flags = flags.clone();
    Router::new().route("/flagz", get(move |h: HeaderMap| std::future::ready(flagz(&h, name, &flags))))
}

fn statusz(headers: &HeaderMap, name: &str, paths: &[String]) -> Response {
    let started = *STARTED;
    let up = jiff::Timestamp::now().as_second() - started.as_second();
    let binary = version::GIT_VERSION.trim_start_matches('v');
    answer(
        headers,
        "Statusz",
        name,
        || {
            let day = started.strftime("%a %b %e %H:%M:%S UTC %Y");
            format!(
                "\nStarted:  {day}\nUp:  {} hr {:02} min {:02} sec\nGo version:  \nBinary version:  {binary}\n\
             Emulation version:  {}.{}\nPaths:  {}\n",
                up / 3600,
                up / 60 % 60,
                up % 60,
                version::MAJOR,
                version::MINOR,
                paths.join(" "),
            )
        },
        || {
            let start = jiff::Timestamp::from_second(started.as_second()).unwrap_or(started);
            json!({"startTime": start, "uptimeSeconds": up, "goVersion": "", "binaryVersion": binary,
            "emulationVersion": format!("{}.{}", version::MAJOR, version::MINOR), "paths": paths})
        },
    )
}

fn flagz(headers: &HeaderMap, name: &str, flags: &Flags) -> Response {
    let lines = || flags.all().iter().map(|(n, v)| format!("{n}={v}\n")).collect::<String>();
    answer(headers, "Flagz", name, || format!("\n{}", lines()), || json!({"flags": flags.all()}))
}

fn answer(
    headers: &HeaderMap,
    kind: &str,
    name: &str,
    text: impl FnOnce() -> String,
    object: impl FnOnce() -> Value,
) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|a| a.to_str().ok()).unwrap_or_default();
    match form(accept, kind) {
        Form::Text => {
            plain(StatusCode::OK, format!("\n{name} {}\n{WARNING}\n{}", kind.to_lowercase(), text()))
        }
        Form::Object(version) => {
            let mut body = object();
            body["kind"] = kind.into();
            body["apiVersion"] = format!("config.k8s.io/{version}").into();
            body["metadata"] = json!({"name": name});
            let mut response = axum::Json(body).into_response();
            if version == "v1alpha1" {
                let text = format!(
                    "299 - \"This version of the {} endpoint is deprecated. Please use a newer version.\"",
                    kind.to_lowercase()
                );
                if let Ok(value) = HeaderValue::from_str(&text) {
                    response.headers_mut().insert(header::WARNING, value);
                }
            }
            response
        }
        Form::Neither => {
            let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "only the following media types are accepted: application/json, application/yaml, text/plain",
                "reason": "NotAcceptable", "code": 406});
            (StatusCode::NOT_ACCEPTABLE, axum::Json(body)).into_response()
        }
    }
}

/// The first form of an `Accept` header that we have.
fn form(accept: &str, kind: &str) -> Form {
    if accept.trim().is_empty() {
        return Form::Text;
    }
    for wanted in accept.split(',') {
        let mut parts = wanted.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let parameters: Vec<&str> = parts.collect();
        let has = |p: &str| parameters.contains(&p);
        match media {
            "text/plain" | "*/*" | "text/*" => return Form::Text,
            "application/json" if has("g=config.k8s.io") && has(&format!("as={kind}")) => {
                for version in ["v1beta1", "v1alpha1"] {
                    if has(&format!("v={version}")) {
                        return Form::Object(version);
                    }
                }
            }
            _ => {}
        }
    }
    Form::Neither
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for (accept, want) in [
            ("", Form::Text),
            ("*/*", Form::Text),
            ("application/json;v=v1beta1;g=config.k8s.io;as=Statusz", Form::Object("v1beta1")),
            (
                "application/json; as=Statusz; v=v1alpha1; g=config.k8s.io, text/plain",
                Form::Object("v1alpha1"),
            ),
            ("application/json", Form::Neither),
            ("application/json;v=v1beta1;g=config.k8s.io;as=Flagz", Form::Neither),
        ] {
            assert_eq!(form(accept, "Statusz"), want, "{accept}");
        }
    }
}

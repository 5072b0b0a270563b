//! Whether an aggregated server can be asked: the condition `Available` of its APIService.

use crate::client::Question;
use crate::resolve;
use crate::service::Service;
use api::registry::Reader;
use api::{Value, json};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::time::Duration;

/// How many questions are asked at a time; one good answer is enough.
const ATTEMPTS: usize = 5;
const LIMIT: Duration = Duration::from_secs(5);

/// A condition without its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub available: bool,
    pub reason: &'static str,
    pub message: String,
}

fn no(reason: &'static str, message: String) -> Verdict {
    Verdict { available: false, reason, message }
}

/// Of APIServices that this server answers for itself.
pub fn local() -> Verdict {
    Verdict { available: true, reason: "Local", message: "Local APIServices are always available".into() }
}

/// What can be seen without asking anybody; `None` if nothing speaks against the server.
pub fn obstacle(reader: &dyn Reader, service: &Service) -> Option<Verdict> {
    let place = &service.place;
    let (name, namespace) = (&place.name, &place.namespace);
    let Some(object) = reader.get(("", "services"), namespace, name) else {
        return Some(no("ServiceNotFound", format!("service/{name} in {namespace:?} is not present")));
    };
    if object["spec"]["type"].as_str().unwrap_or("ClusterIP") != "ClusterIP" {
        return None;
    }
    let Some(port) = resolve::port(&object, place.port) else {
        let text = format!("service/{name} in {namespace:?} is not listening on port {}", place.port);
        return Some(no("ServicePortError", text));
    };
    let port = resolve::text(&port["name"]);
    let slices = resolve::slices(reader, place);
    if slices.is_empty() {
        let text = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return Some(no("EndpointsNotFound", text));
    }
    let serves = |s: &Value| {
        let list = |key: &str| s[key].as_array().cloned().unwrap_or_default();
        list("endpoints").iter().any(|e| e["conditions"]["ready"] != false)
            && list("ports").iter().any(|p| p["name"].as_str() == Some(port) && p["port"].is_u64())
    };
    (!slices.iter().any(|s| serves(s))).then(|| {
        let text = format!(
            "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port:?}"
        );
        no("MissingEndpoints", text)
    })
}

/// What the verdict depends on, so that a change of it is noticed.
pub fn basis(reader: &dyn Reader, service: &Service) -> Vec<String> {
    let place = &service.place;
    let version = |v: &Value| format!("{}/{}", v["metadata"]["uid"], v["metadata"]["resourceVersion"]);
    let object = reader.get(("", "services"), &place.namespace, &place.name);
    let mut out: Vec<String> = object.iter().map(|o| version(o)).collect();
    out.extend(resolve::slices(reader, place).iter().map(|s| version(s)));
    out
}

/// Looks, and then asks.
pub async fn check(reader: &dyn Reader, service: &Service, routing: bool) -> Verdict {
    if let Some(verdict) = obstacle(reader, service) {
        return verdict;
    }
    let attempts: FuturesUnordered<_> = (0..ATTEMPTS).map(|_| once(reader, service, routing)).collect();
    let mut attempts = std::pin::pin!(attempts);
    let mut last = String::new();
    while let Some(answer) = attempts.next().await {
        match answer {
            Ok(()) => {
                let message = "all checks passed".to_owned();
                return Verdict { available: true, reason: "Passed", message };
            }
            Err(why) => last = why,
        }
    }
    no("FailedDiscoveryCheck", last)
}

async fn once(reader: &dyn Reader, service: &Service, routing: bool) -> Result<(), String> {
    let path = service.path();
    let url = || {
        let host = resolve::address(reader, &service.place, routing).unwrap_or_default();
        format!("https://{host}{path}")
    };
    let failed = |why: &str| format!("failing or missing response from {}: {why}", url());
    let client = service.client.as_ref().as_ref().map_err(|e| failed(e))?;
    let question = Question {
        reader,
        place: &service.place,
        routing,
        path: &path,
        accept: "*/*",
        group: "system:masters",
        limit: LIMIT,
    };
    let said = client.ask(&question).await.map_err(|e| failed(&e))?;
    match said.status {
        200..300 => Ok(()),
        code => Err(failed(&format!("bad status from {}: {code}", url()))),
    }
}

/// The object's status with the verdict in it; `None` if it says that already.
pub fn told(object: &Value, verdict: &Verdict, now: &str) -> Option<Value> {
    let status = if verdict.available { "True" } else { "False" };
    let mut conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let mut new = json!({
        "type": "Available", "status": status, "lastTransitionTime": now,
        "reason": verdict.reason, "message": verdict.message,
    });
    match conditions.iter_mut().find(|c| c["type"] == "Available") {
        Some(old) => {
            if old["status"] == status {
                new["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            if *old == new {
                return None;
            }
            *old = new;
        }
        None => conditions.push(new),
    }
    let mut out = object.clone();
    out["status"]["conditions"] = conditions.into();
    Some(out)
}

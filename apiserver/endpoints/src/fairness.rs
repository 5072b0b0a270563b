//! Priority and fairness: requests in its words, the seats that they take, and what is told of it.

use crate::body::Body;
use crate::call::Call;
use crate::respond;
use crate::server::long_running;
use api::status::Result;
use fairness::level::Width;
use fairness::{Digest, Place, Refusal, Ticket, dump};
use http::{HeaderMap, HeaderValue, Response};

const DEBUG: &str = "/debug/api_priority_and_fairness/";

fn digest(call: &Call) -> Digest<'_> {
    let info = &call.info;
    Digest {
        user: &call.user.name,
        groups: &call.user.groups,
        verb: info.verb,
        is_resource: info.is_resource,
        path: &info.path,
        group: &info.group,
        version: &info.version,
        resource: &info.resource,
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: &info.name,
    }
}

/// Where the request belongs; tunnels belong nowhere.
pub fn place(call: &Call) -> Option<Place> {
    if long_running(&call.info) && call.info.verb != "watch" {
        return None;
    }
    call.server.fairness.as_ref()?.classify(&digest(call))
}

/// Waits for seats. A watch keeps them until it has begun.
pub async fn seat(call: &Call, place: &Place) -> Result<Option<Ticket>, Refusal> {
    let Some(fairness) = &call.server.fairness else { return Ok(None) };
    let width = match call.info.verb {
        "list" => fairness.width_of_list(place, objects(call)),
        _ => Width::ONE,
    };
    fairness.admit(place, &digest(call), width).await.map(Some)
}

/// How many objects a list has to look at, at most.
fn objects(call: &Call) -> usize {
    if !call.info.name.is_empty() {
        return 1;
    }
    let row = crate::routes::row(call);
    let stored = row.as_ref().and_then(|r| r.stored.as_ref()).map_or(0, |s| s.resource.len());
    match call.query.get("limit").and_then(|l| l.parse().ok()).filter(|l| *l > 0) {
        Some(limit) => stored.min(limit),
        None => stored,
    }
}

/// Tells the client which schema and level its request belonged to.
pub fn tell(place: &Place, headers: &mut HeaderMap) {
    for (name, uid) in [
        ("x-kubernetes-pf-flowschema-uid", place.schema.uid.clone()),
        ("x-kubernetes-pf-prioritylevel-uid", place.level_uid()),
    ] {
        if let Ok(uid) = HeaderValue::from_str(&uid) {
            headers.insert(name, uid);
        }
    }
}

/// What operators see.
pub fn serve(call: &Call) -> Option<Result<Response<Body>>> {
    let what = call.info.path.strip_prefix(DEBUG)?;
    let fairness = call.server.fairness.as_ref()?;
    let text = match what {
        "dump_priority_levels" => dump::levels(fairness),
        "dump_queues" => dump::queues(fairness),
        "dump_requests" => {
            let details = call.query.get("includeRequestDetails").is_some_and(|v| !v.is_empty());
            dump::requests(fairness, details)
        }
        _ => return None,
    };
    Some(Ok(respond::text(200, text)))
}

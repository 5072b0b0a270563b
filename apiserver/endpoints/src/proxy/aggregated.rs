//! Requests for parts of the API that another server answers for (APIService): passed on as they are, in the name of
//! the user, over a connection that the front proxy's certificate proves.

use super::target::{Address, Backend, Secure};
use super::{HOP, ask_upgrade, join, may_pass, request, wants_upgrade};
use crate::body::Body;
use crate::call::Call;
use crate::respond;
use aggregator::client::{Out, for_user};
use aggregator::resolve;
use aggregator::service::Service;
use api::status::{Result, Status};
use http::{HeaderValue, Request, Response, StatusCode, header};

/// How aggregated servers are reached.
#[derive(Clone, Copy, Debug, Default)]
pub struct Aggregated {
    /// `--enable-aggregator-routing`.
    pub routing: bool,
    /// `--aggregator-reject-forwarding-redirect`.
    pub reject_redirects: bool,
}

/// Answers with what the other server says.
pub async fn aggregated(call: &Call, service: &Service) -> Result<Response<Body>> {
    let unavailable = || Ok(respond::text(503, "service unavailable\n"));
    if !service.available {
        return unavailable();
    }
    let client = match service.client.as_ref() {
        Ok(client) => client,
        Err(why) => return Ok(respond::text(500, format!("{why}\n"))),
    };
    let how = call.server.special.aggregated;
    let authority = match resolve::address(&*call.server.registry, &service.place, how.routing) {
        Ok(authority) => authority,
        Err(error) => {
            tracing::error!(name = service.name, error, "error resolving the service of an APIService");
            return unavailable();
        }
    };
    if wants_upgrade(&call.headers) && may_pass(&call.headers) {
        let Some(connection) = call.take_upgrade() else {
            return Err(Status::bad_request("Upgrade request required"));
        };
        let mut request = passed_on(call, &authority, None)?;
        ask_upgrade(call, request.headers_mut());
        return match client.send(request, true).await {
            Ok(response) => join(call, connection, response),
            Err(why) => Ok(unreachable(&why)),
        };
    }
    let request = passed_on(call, &authority, call.take_body())?;
    let response = match client.send(request, false).await {
        Ok(response) => response,
        Err(why) => return Ok(unreachable(&why)),
    };
    if how.reject_redirects
        && response.status().is_redirection()
        && response.headers().contains_key(header::LOCATION)
    {
        let text = "the backend attempted to redirect this request, which is not permitted";
        return Ok(respond::text(StatusCode::BAD_GATEWAY.as_u16(), text));
    }
    let (mut parts, body) = response.into_parts();
    HOP.iter().for_each(|h| drop(parts.headers.remove(h)));
    parts.version = http::Version::default();
    Ok(Response::from_parts(parts, Body::foreign(body)))
}

fn unreachable(why: &str) -> Response<Body> {
    respond::text(503, format!("error trying to reach service: {why}\n"))
}

/// The same request, to another server and for the user who was found out here.
fn passed_on(call: &Call, authority: &str, body: Option<hyper::body::Incoming>) -> Result<Request<Out>> {
    let path = call.uri.path_and_query().map_or("/", |p| p.as_str());
    let backend = Backend {
        address: Address::Name(String::new(), 0),
        authority: authority.to_owned(),
        path: format!("https://{authority}{path}"),
        secure: Secure::No,
    };
    let mut out = request(call, call.method.clone(), &backend, &call.headers, body)?;
    let headers = out.headers_mut();
    // The connection sets its own.
    headers.remove(header::HOST);
    let user = &call.user;
    let uid = if call.server.settings.gates.enabled("RemoteRequestHeaderUID") { &*user.uid } else { "" };
    for_user(headers, &user.name, uid, &user.groups, &user.extra);
    if let Ok(id) = HeaderValue::from_str(&call.audit_id) {
        headers.insert("audit-id", id);
    }
    let host = call.headers.get(header::HOST).cloned();
    let forwarded = [
        ("x-forwarded-uri", HeaderValue::from_str(path).ok()),
        ("x-forwarded-host", host),
        ("x-forwarded-proto", Some(HeaderValue::from_static("https"))),
    ];
    for (name, value) in forwarded {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    Ok(out)
}

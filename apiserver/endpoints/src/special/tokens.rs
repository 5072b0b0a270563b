//! `serviceaccounts/token`: the TokenRequest API.

use crate::body::Body;
use crate::call::Call;
use crate::negotiate::Offers;
use crate::served::Served;
use crate::{admit, respond, verbs};
use api::status::{Result, Status};
use http::Response;
use std::sync::Arc;

/// Answers a POST of a TokenRequest.
pub async fn create(call: &Call, served: &Arc<Served>) -> Result<Response<Body>> {
    let accepted = call.accepted(Offers::PLAIN)?;
    let issuer =
        call.server.special.issuer.as_ref().filter(|i| i.can_sign()).ok_or_else(Status::no_such_path)?;
    let (value, options) = super::body_of(call, served, "token").await?;
    let registry = &*call.server.registry;
    // Admission decides on what the client asked for, not on the audiences that an empty list stands for.
    let asked = value["spec"]["audiences"].clone();
    let mut request =
        auth::service_account::prepare(issuer, registry, &call.info.namespace, &call.info.name, value)
            .await?;
    let mut t = verbs::target(call, served, "CreateOptions");
    t.dry_run = options.dry_run;
    let review = t.review("CREATE");
    let defaulted = std::mem::replace(&mut request["spec"]["audiences"], asked.clone());
    admit::mutate(&review, &mut request, None).await?;
    if request["spec"]["audiences"] == asked {
        request["spec"]["audiences"] = defaulted;
    }
    admit::validate(&review, &request, None).await?;
    let reply = issuer.complete(registry, request).await?;
    reply.warnings.into_iter().for_each(|w| call.warn(w));
    respond::value(call, 201, &reply.object, accepted)
}

//! Requests for the status of a pool of devices.

use crate::Context;
use crate::checks;
use crate::metadata::IMMUTABLE;
use crate::value::Get;
use api::Value;
use api::field::{Error, ErrorList, Path};

pub fn request(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if cx.subresource == "status" {
        return;
    }
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    if let Some(old) = old {
        if !crate::semantic::equal(
            "k8s.io.api.resource.v1alpha3.ResourcePoolStatusRequestSpec",
            spec,
            old.at("spec"),
        ) {
            // Upstream's declared rule shows no value.
            e.push(Error::invalid_printed(&at, "null", IMMUTABLE));
        }
        return;
    }
    if checks::required(spec, "driver", &at, e) {
        checks::texts(
            spec.text("driver"),
            api::names::dns_subdomain(&spec.text("driver").to_ascii_lowercase()),
            &at.child("driver"),
            e,
        );
    }
    if let Some(pool) = spec.opt_text("poolName") {
        super::pool_name(pool, &at.child("poolName"), e);
    }
    let (limit, at) = (spec.int("limit"), at.child("limit"));
    if limit > 1000 {
        e.push(Error::invalid(&at, limit, "must be less than or equal to 1000"));
    } else if limit < 1 {
        e.push(Error::invalid(&at, limit, "must be greater than or equal to 1"));
    }
}

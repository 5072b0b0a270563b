//! Service CIDRs and the addresses taken from them.

use crate::Context;
use crate::checks::{self, canonical_cidr, texts};
use crate::metadata::{Checks, Names};
use crate::metadata::{IMMUTABLE, immutable};
use crate::names;
use crate::prepare::{Plan, StatusMeta};
use crate::table::{NONE, age, name};
use crate::value::Get;
use crate::{Kind, PLAIN};
use api::Value;
use api::field::{Error, ErrorList, Path};

pub static SERVICE_CIDR: Kind = Kind {
    plan: Plan { status_meta: StatusMeta::Keep, ..Plan::STATUS },
    validate: validate_cidr,
    row: Some(|o| vec![name(o), o.at("spec").texts("cidrs").collect::<Vec<_>>().join(",").into(), age(o)]),
    ..PLAIN
};
pub static IP_ADDRESS: Kind = Kind {
    names: Names::IpAddress,
    validate: validate_address,
    row: Some(address_row),
    metadata_checks: Checks::BOTH,
    ..PLAIN
};

fn address_row(o: &Value) -> Vec<Value> {
    let parent = o.at("spec").at("parentRef");
    let shown = if parent.is_null() {
        NONE.to_owned()
    } else {
        let mut text = parent.text("resource").to_lowercase();
        for (separator, part) in
            [(".", parent.text("group")), ("/", parent.text("namespace")), ("/", parent.text("name"))]
        {
            if !part.is_empty() {
                text.push_str(separator);
                text.push_str(part);
            }
        }
        text
    };
    vec![name(o), shown.into(), age(o)]
}

fn validate_address(_: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let (parent, at) = (new.at("spec").at("parentRef"), Path::new("spec").child("parentRef"));
    if let Some(old) = old {
        immutable(parent, old.at("spec").at("parentRef"), &at, e);
    }
    if parent.is_null() {
        e.push(Error::required(&at, ""));
        return;
    }
    if !parent.text("group").is_empty() {
        checks::subdomain(parent.text("group"), &at.child("group"), e);
    }
    for field in ["resource", "name"] {
        checks::required(parent, field, &at, e);
    }
    for field in ["resource", "name", "namespace"] {
        let text = parent.text(field);
        texts(text, names::path_segment(text, false), &at.child(field), e);
    }
}

fn validate_cidr(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if cx.subresource == "status" {
        return;
    }
    let (spec, at) = (new.at("spec"), Path::new("spec").child("cidrs"));
    let cidrs: Vec<&str> = spec.texts("cidrs").collect();
    if let Some(old) = old {
        let was: Vec<&str> = old.at("spec").texts("cidrs").collect();
        if was.len() == cidrs.len() || (was.len() == 1 && cidrs.len() == 2) {
            for (i, (now, _)) in cidrs.iter().zip(&was).enumerate().filter(|(_, (n, w))| n != w) {
                e.push(Error::invalid(&at.index(i), *now, IMMUTABLE));
            }
        } else {
            return e.push(Error::invalid(&at, spec.at("cidrs").clone(), IMMUTABLE));
        }
        if was.len() == cidrs.len() {
            return;
        }
    }
    if cidrs.is_empty() {
        e.push(Error::required(&at, "at least one CIDR required"));
    }
    if cidrs.len() > 2 {
        let shown = crate::shown::internal("k8s.io.api.networking.v1.ServiceCIDRSpec", spec);
        return e.push(Error::invalid_printed(&at, shown, "may only hold up to 2 values"));
    }
    let nets: Vec<_> =
        cidrs.iter().enumerate().filter_map(|(i, c)| canonical_cidr(c, &at.index(i), e)).collect();
    if let [a, b] = nets.as_slice()
        && a.addr().is_ipv4() == b.addr().is_ipv4()
    {
        let text = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        e.push(Error::invalid(&at, spec.at("cidrs").clone(), text));
    }
}

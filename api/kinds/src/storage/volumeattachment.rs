//! Volume attachments.

use crate::Context;
use crate::checks;
use crate::corev1::pv::inline_volume;
use crate::metadata::{Checks, unchanged};
use crate::pod::validate::csi_driver_name;
use crate::prepare::{Plan, StatusMeta};
use crate::table::{age, name};
use crate::value::Get;
use crate::{Kind, PLAIN};
use api::Value;
use api::field::{Error, ErrorList, Path};

pub static ROOM: Kind = Kind {
    plan: Plan { status_meta: StatusMeta::Keep, ..Plan::STATUS },
    metadata_checks: Checks::OBJECT,
    validate,
    row: Some(row),
    unconditional_update: false,
    ..PLAIN
};

fn row(o: &Value) -> Vec<Value> {
    let spec = o.at("spec");
    vec![
        name(o),
        spec.text("attacher").into(),
        spec.at("source").text("persistentVolumeName").into(),
        spec.text("nodeName").into(),
        o.at("status").flag("attached").into(),
        age(o),
    ]
}

fn validate(_: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    csi_driver_name(spec.text("attacher"), &at.child("attacher"), e);
    let (source, at_source) = (spec.at("source"), at.child("source"));
    let text = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (source.has("inlineVolumeSpec"), source.opt_text("persistentVolumeName")) {
        (false, None) => e.push(Error::required(&at_source, text)),
        (true, Some(_)) => e.push(Error::forbidden(&at_source, text)),
        (false, Some("")) => {
            let text = "must specify non empty persistentVolumeName";
            e.push(Error::required(&at_source.child("persistentVolumeName"), text));
        }
        _ => {}
    }
    if let Some(name) = source.opt_text("persistentVolumeName") {
        checks::subdomain(name, &at_source.child("persistentVolumeName"), e);
    }
    if source.has("inlineVolumeSpec") && !source.has("persistentVolumeName") {
        inline_volume(source.at("inlineVolumeSpec"), &at_source.child("inlineVolumeSpec"), e);
    }
    checks::subdomain(spec.text("nodeName"), &at.child("nodeName"), e);
    let (status, at_status) = (new.at("status"), Path::new("status"));
    let size: usize =
        status.entries("attachmentMetadata").map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
    if size > 256 * 1024 {
        e.push(Error::too_long(&at_status.child("attachmentMetadata"), 256 * 1024));
    }
    for field in ["attachError", "detachError"] {
        if status.at(field).len("message") > 1024 {
            e.push(Error::too_long(&at_status.child(field).child("message"), 256 * 1024));
        }
        let at = at_status.child(field).child("errorCode");
        if let Some(n) = status.at(field).opt_int("errorCode").filter(|n| *n < 0) {
            e.push(Error::invalid(&at, n, "must be between 0 and 2147483647, inclusive"));
        }
    }
    if let Some(old) = old {
        unchanged(spec, old.at("spec"), &at, e);
    }
}

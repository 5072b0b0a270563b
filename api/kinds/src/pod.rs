//! Pods: defaults, what each subresource may write, validation and the row with its status words.

mod defaults;
mod prepare;
mod row;
pub mod validate;
pub mod warnings;

pub(crate) use defaults::{claim_spec, resource_list, template, volume_source};
pub(crate) use prepare::{pod as prepare, profile as apparmor_profile};

use crate::metadata::Checks;
use crate::prepare::Plan;
use crate::value::Get;
use crate::{Kind, PLAIN};
use api::Value;

pub static ROOM: Kind = Kind {
    defaults: defaults::pod,
    // What a write may change depends on the subresource, so `prepare` does all of it.
    plan: Plan::NONE,
    prepare,
    validate: validate::pod,
    warnings: |_, new, old| if old.is_none() { warnings::pod(new) } else { Vec::new() },
    row: Some(row::pod),
    row_conditions: row::conditions,
    grace_period,
    metadata_checks: Checks::BOTH,
    ..PLAIN
};

/// A pod that no node has, or that is finished, goes at once.
fn grace_period(pod: &Value, asked: Option<i64>) -> Option<i64> {
    let spec = pod.at("spec");
    if spec.text("nodeName").is_empty() || matches!(pod.at("status").text("phase"), "Failed" | "Succeeded") {
        return Some(0);
    }
    let period = asked.unwrap_or_else(|| spec.int("terminationGracePeriodSeconds"));
    Some(if period < 0 { 1 } else { period })
}

//! What fields are when nobody says: fixed defaults, and those that follow from other fields.

use std::collections::BTreeMap;

use anyhow::bail;
use component::gates::Gates;
use serde_json::{Map, Value, json};

use super::{is_zero, set, types};

/// The defaults of all fields that are not zero.
const DEFAULTS: &str = include_str!("defaults.json");

/// Thresholds of a node that says nothing of eviction.
const EVICTION: [(&str, &str); 5] = [
    ("memory.available", "100Mi"),
    ("nodefs.available", "10%"),
    ("nodefs.inodesFree", "5%"),
    ("imagefs.available", "15%"),
    ("imagefs.inodesFree", "5%"),
];

/// What was written, with the defaults below it.
pub fn fill(value: Map<String, Value>) -> anyhow::Result<Map<String, Value>> {
    let Ok(Value::Object(mut whole)) = serde_json::from_str(DEFAULTS) else { bail!("no defaults") };
    let given = |name: &str| value.get(name).filter(|v| !v.is_null());
    let often = given("nodeStatusUpdateFrequency").filter(|v| !is_zero(v)).cloned();
    // Who says how often the status is looked at means that it is reported as often.
    let report = often.filter(|_| given("nodeStatusReportFrequency").is_none_or(is_zero));
    let parallel = given("maxParallelImagePulls").and_then(Value::as_i64).is_some_and(|n| n >= 2);
    let parallel = parallel && given("serializeImagePulls").is_none();
    let gates: BTreeMap<String, bool> =
        given("featureGates").and_then(|g| serde_json::from_value(g.clone()).ok()).unwrap_or_default();
    let gates = Gates::default().with(&gates)?;
    if let Some(report) = report {
        whole.insert("nodeStatusReportFrequency".into(), report);
    }
    if parallel {
        whole.insert("serializeImagePulls".into(), json!(false));
    }
    if !gates.enabled("KubeletEnsureSecretPulledImages") {
        whole.remove("imagePullCredentialsVerificationPolicy");
    }
    if !gates.enabled("KubeletCrashLoopBackOffMax") {
        whole.remove("crashLoopBackOff");
    }
    overlay(&mut whole, value);
    if whole["podPidsLimit"].as_i64().is_some_and(|n| n < 0) {
        set(&mut whole, "podPidsLimit", json!(-1));
    }
    Ok(whole)
}

/// With the default thresholds of eviction, which only a file or its absence gets: drop-ins come on top of them.
pub fn with_eviction(mut value: Map<String, Value>) -> Map<String, Value> {
    let merge = value.get("mergeDefaultEvictionSettings") == Some(&Value::Bool(true));
    let hard = value.entry("evictionHard").or_insert(Value::Null);
    if hard.is_null() {
        *hard = json!({});
    } else if !merge {
        return value;
    }
    if let Value::Object(hard) = hard {
        for (signal, threshold) in EVICTION {
            hard.entry(signal).or_insert_with(|| threshold.into());
        }
    }
    value
}

/// Lays what was written over the defaults.
fn overlay(base: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(_), Value::Null) => {}
            (Some(Value::Object(below)), Value::Object(above)) => overlay(below, above),
            (Some(_), value) if is_zero(&value) && !types::ZERO_COUNTS.contains(&key.as_str()) => {}
            (_, Value::Null) => {}
            (_, value) => drop(base.insert(key, value)),
        }
    }
}

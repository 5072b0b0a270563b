//! What several steps need.

use anyhow::{Context, Result};
use e2e::command::Program;
use e2e::{Bed, eventually, wait::SOON, wait::when};
use serde_json::Value;

pub const NODE: &str = "control-plane-1";
pub const NAMESPACE: &str = "e2e";

/// kubectl in the namespace of these tests.
pub fn k(bed: &Bed, line: &str) -> Program {
    bed.kubectl(&format!("--namespace={NAMESPACE} {line}"))
}

pub fn json(bed: &Bed, line: &str) -> Result<Value> {
    let text = k(bed, &format!("{line} -o json")).text()?;
    serde_json::from_str(&text).with_context(|| format!("{line}: not JSON"))
}

/// One field of an object, as `kubectl get -o jsonpath` prints it.
pub fn field(bed: &Bed, object: &str, path: &str) -> Result<String> {
    k(bed, &format!("get {object}")).arg(&format!("-o=jsonpath={{{path}}}")).text()
}

/// Waits until a field has a value.
pub fn field_becomes(bed: &Bed, object: &str, path: &str, value: &str) -> Result<()> {
    let mut last = String::new();
    let found = eventually("", SOON, || {
        last = field(bed, object, path)?;
        when(last == value)
    });
    found.with_context(|| format!("{path} of {object} should become {value:?}, is {last:?}"))
}

/// Names of the ready pods of the web Deployment.
pub fn web_pods(bed: &Bed) -> Result<Vec<String>> {
    let pods = json(bed, "get pods -l app=web")?;
    let ready = |p: &&Value| p["metadata"]["deletionTimestamp"].is_null() && is_ready(p);
    let name = |p: &Value| p["metadata"]["name"].as_str().map(str::to_owned);
    Ok(items(&pods).iter().filter(ready).filter_map(name).collect())
}

pub fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map_or(&[], Vec::as_slice)
}

pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

/// Waits until exactly `count` web pods are there and ready.
pub fn web_has(bed: &Bed, count: usize) -> Result<()> {
    eventually(&format!("{count} ready web pods"), SOON, || {
        let all = json(bed, "get pods -l app=web")?;
        when(items(&all).len() == count && items(&all).iter().all(is_ready))
    })
}

/// Makes a pod from a sample and waits until it is ready.
pub fn pod_from_sample(bed: &Bed, name: &str) -> Result<()> {
    let file = bed.sample(&format!("{name}.yaml"));
    k(bed, &format!("apply -f {file}")).text()?;
    k(bed, &format!("wait --for=condition=Ready pod/{name} --timeout=60s")).text()?;
    Ok(())
}

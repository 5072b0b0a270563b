//! RuntimeClass: a pod takes over overhead and scheduling of the runtime class that it names.

use super::tolerations::merge;
use crate::attributes::{Attributes, Operation};
use crate::chain::{Deps, Plugin};
use crate::live::fetch;
use crate::objects::{at, items, object_at};
use crate::resources::amounts;
use api::Value;
use api::registry::Registry;
use api::status::Result;
use std::sync::Arc;

pub struct RuntimeClass {
    registry: Arc<dyn Registry>,
}

impl RuntimeClass {
    pub fn new(deps: &Deps) -> Self {
        RuntimeClass { registry: deps.registry.clone() }
    }

    async fn class_of(&self, a: &Attributes) -> Result<Option<Arc<Value>>> {
        let Some(pod) = &a.object else { return Ok(None) };
        let Some(class) = at(pod, &["spec", "runtimeClassName"]).as_str() else { return Ok(None) };
        match fetch(&*self.registry, ("node.k8s.io", "runtimeclasses"), "", class).await {
            Ok(found) => Ok(Some(found)),
            Err(e) if e.code == 404 => {
                Err(a.forbidden(format!("pod rejected: RuntimeClass {class:?} not found")))
            }
            Err(e) => Err(e),
        }
    }
}

fn same_overhead(a: &Value, b: &Value) -> bool {
    amounts(a) == amounts(b)
}

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

fn merge_selector(class: &Value, pod: &mut Value) -> std::result::Result<(), String> {
    let Some(wanted) = at(class, &["scheduling", "nodeSelector"]).as_object() else { return Ok(()) };
    let selector = object_at(&mut pod["spec"], "nodeSelector");
    for (key, value) in wanted {
        match selector.get(key) {
            Some(own) if own != value => {
                let plain = |v: &Value| v.as_str().unwrap_or_default().to_owned();
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    plain(value),
                    plain(own)
                ));
            }
            _ => drop(selector.insert(key.clone(), value.clone())),
        }
    }
    Ok(())
}

#[async_trait::async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }
    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }
    async fn admit(&self, a: &mut Attributes) -> Result<()> {
        if !a.is_main("", "pods") {
            return Ok(());
        }
        let Some(class) = self.class_of(a).await? else { return Ok(()) };
        let Some(mut pod) = a.object.take() else { return Ok(()) };
        let mut refusal = None;
        let overhead = at(&class, &["overhead"]);
        if overhead.is_object() {
            let fixed = at(overhead, &["podFixed"]);
            let own = at(&pod, &["spec", "overhead"]);
            if own.as_object().is_some_and(|o| !o.is_empty()) && !same_overhead(own, fixed) {
                refusal = Some(MISMATCH.to_owned());
            } else if fixed.is_object() {
                pod["spec"]["overhead"] = fixed.clone();
            }
        }
        if refusal.is_none() && at(&class, &["scheduling"]).is_object() {
            refusal = merge_selector(&class, &mut pod).err();
            let extra = items(&class, &["scheduling", "tolerations"]);
            let merged = merge(items(&pod, &["spec", "tolerations"]), extra);
            if !merged.is_empty() {
                pod["spec"]["tolerations"] = merged.into();
            }
        }
        a.object = Some(pod);
        refusal.map_or(Ok(()), |why| Err(a.forbidden(why)))
    }
    async fn validate(&self, a: &mut Attributes) -> Result<()> {
        if !a.is_main("", "pods") {
            return Ok(());
        }
        let class = self.class_of(a).await?;
        let Some(pod) = &a.object else { return Ok(()) };
        let own = at(pod, &["spec", "overhead"]);
        match class.as_deref().map(|c| at(c, &["overhead"])).filter(|o| o.is_object()) {
            Some(overhead) if !same_overhead(at(overhead, &["podFixed"]), own) => Err(a.forbidden(MISMATCH)),
            None if !own.is_null() => Err(a.forbidden(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            )),
            _ => Ok(()),
        }
    }
}

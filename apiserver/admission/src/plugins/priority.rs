//! Priority: turns a pod's priority class into a number, and keeps the global default unique.

use crate::attributes::{Attributes, Operation};
use crate::chain::{Deps, Plugin};
use crate::objects::{at, name, text};
use api::Value;
use api::registry::Registry;
use api::status::Result;
use std::sync::Arc;

const CLASSES: (&str, &str) = ("scheduling.k8s.io", "priorityclasses");

pub struct Priority {
    registry: Arc<dyn Registry>,
}

impl Priority {
    pub fn new(deps: &Deps) -> Self {
        Priority { registry: deps.registry.clone() }
    }

    /// Of several defaults (a race made them) the lowest counts.
    fn default_class(&self) -> Option<Arc<Value>> {
        let all = self.registry.list(CLASSES, None);
        all.into_iter()
            .filter(|c| at(c, &["globalDefault"]) == &Value::Bool(true))
            .min_by_key(|c| at(c, &["value"]).as_i64())
    }

    /// Class name, value and preemption policy for a pod.
    fn resolve(&self, a: &Attributes, pod: &Value) -> Result<(String, i64, Option<String>)> {
        let wanted = text(pod, &["spec", "priorityClassName"]);
        let class = if wanted.is_empty() {
            match self.default_class() {
                None => return Ok((String::new(), 0, Some("PreemptLowerPriority".into()))),
                Some(class) => class,
            }
        } else {
            self.registry
                .get(CLASSES, "", wanted)
                .ok_or_else(|| a.forbidden(format!("no PriorityClass with name {wanted} was found")))?
        };
        let policy = at(&class, &["preemptionPolicy"]).as_str().map(str::to_owned);
        Ok((name(&class).to_owned(), at(&class, &["value"]).as_i64().unwrap_or(0), policy))
    }

    fn set(&self, a: &Attributes, pod: &mut Value) -> Result<()> {
        let (class, value, policy) = self.resolve(a, pod)?;
        if let Some(given) = at(pod, &["spec", "priority"]).as_i64()
            && given != value
        {
            return Err(a.forbidden(format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
            )));
        }
        if !class.is_empty() {
            pod["spec"]["priorityClassName"] = class.into();
        }
        pod["spec"]["priority"] = value.into();
        let Some(policy) = policy else { return Ok(()) };
        let given = text(pod, &["spec", "preemptionPolicy"]);
        if !given.is_empty() && given != policy {
            return Err(a.forbidden(format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            )));
        }
        pod["spec"]["preemptionPolicy"] = policy.into();
        Ok(())
    }
}

/// An update that leaves out what was computed at creation keeps it.
fn carry_over(old: &Value, pod: &mut Value) {
    for field in ["priority", "preemptionPolicy"] {
        let before = at(old, &["spec", field]);
        if at(pod, &["spec", field]).is_null() && !before.is_null() {
            pod["spec"][field] = before.clone();
        }
    }
}

#[async_trait::async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }
    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }
    async fn admit(&self, a: &mut Attributes) -> Result<()> {
        if !a.is_main("", "pods") {
            return Ok(());
        }
        let Some(mut pod) = a.object.take() else { return Ok(()) };
        let outcome = match (a.operation, a.old_object.as_deref()) {
            (Operation::Update, Some(old)) => {
                carry_over(old, &mut pod);
                Ok(())
            }
            (Operation::Update, None) => Ok(()),
            _ => self.set(a, &mut pod),
        };
        a.object = Some(pod);
        outcome
    }
    async fn validate(&self, a: &mut Attributes) -> Result<()> {
        if !a.is_main(CLASSES.0, CLASSES.1) {
            return Ok(());
        }
        let Some(class) = &a.object else { return Ok(()) };
        if at(class, &["globalDefault"]) != &Value::Bool(true) {
            return Ok(());
        }
        match self.default_class() {
            Some(other) if a.operation == Operation::Create || name(&other) != name(class) => Err(a
                .forbidden(format!(
                    "PriorityClass {} is already marked as default. Only one default can exist",
                    name(&other)
                ))),
            _ => Ok(()),
        }
    }
}

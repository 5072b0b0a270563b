//! What the generic machinery asks of a kind, answered from its definition.

use crate::definition::Version;
use api::Value;
use api::field::{Error, ErrorList, Path};
use kinds::prepare::Plan;
use kinds::{Context, Operation, Room, metadata::Names};
use std::sync::Arc;
use structural::rules;

/// The room of a custom kind in one version.
pub struct Custom {
    version: Arc<Version>,
    plan: Plan,
}

impl Custom {
    pub fn new(version: &Arc<Version>) -> Custom {
        let plan = Plan { status: version.status, ..Plan::NONE };
        Custom { version: version.clone(), plan }
    }
}

/// Fields that are not part of what a user wants.
fn is_spec(key: &str, status: bool) -> bool {
    key != "metadata" && !(status && key == "status")
}

fn same_spec(new: &Value, old: &Value, status: bool) -> bool {
    let part = |v: &Value| -> Vec<(String, Value)> {
        let fields = v.as_object().into_iter().flatten();
        fields.filter(|(k, _)| is_spec(k, status)).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    part(new) == part(old)
}

impl Room for Custom {
    fn any_finalizer(&self) -> bool {
        true
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn defaults(&self, object: &mut Value) {
        if let Some(of) = &self.version.schema {
            structural::fill(object, of);
        }
    }

    fn prune(&self, object: &mut Value) -> Result<Vec<String>, String> {
        structural::prune(object, self.version.schema.as_ref())
    }

    fn schema(&self) -> Option<&Value> {
        self.version.schema.as_ref()
    }

    fn prepare(&self, op: Operation, cx: &Context<'_>, new: &mut Value, old: Option<&Value>) {
        match old {
            Some(old) if cx.subresource == "status" => {
                let (status, managed) = (new["status"].take(), new["metadata"]["managedFields"].take());
                let version = new["metadata"]["resourceVersion"].take();
                let api_version = new["apiVersion"].take();
                *new = old.clone();
                put(new, "status", status);
                put(&mut new["metadata"], "managedFields", managed);
                put(&mut new["metadata"], "resourceVersion", version);
                put(new, "apiVersion", api_version);
            }
            Some(old) => {
                self.plan.apply(op, cx, new, Some(old));
                let generation = old["metadata"]["generation"].as_i64().unwrap_or(1);
                let changed = !same_spec(new, old, self.version.status);
                new["metadata"]["generation"] = (generation + i64::from(changed)).into();
            }
            None => {
                self.plan.apply(op, cx, new, None);
                new["metadata"]["generation"] = 1.into();
            }
        }
    }

    fn validate(&self, _: &Context<'_>, new: &Value, old: Option<&Value>) -> ErrorList {
        let mut errors = match &self.version.schema {
            Some(of) => structural::validate(new, old, of, &self.version.patterns),
            None => ErrorList::new(),
        };
        if let Some(scale) = &self.version.scale {
            errors.extend(negative(new, &scale.spec_replicas));
            errors.extend(negative(new, &scale.status_replicas));
        }
        if let Some(rules) = &self.version.rules {
            match rules::blocked(&errors) {
                Some(why) => errors.push(why),
                None => errors.extend(rules.check(new, old).errors),
            }
        }
        errors
    }

    fn warnings(&self, _: &Context<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        let (Some(rules), Some(_)) = (&self.version.rules, old) else { return Vec::new() };
        rules.check(new, old).ratcheted.iter().map(ToString::to_string).collect()
    }

    fn name_errors(&self, _object: &Value, name: &str, prefix: bool) -> Vec<String> {
        Names::Subdomain.check(name, prefix)
    }

    fn row(&self, object: &Value) -> Option<Vec<Value>> {
        Some(self.version.columns.row(object))
    }
}

fn put(object: &mut Value, key: &str, value: Value) {
    match (value.is_null(), object.as_object_mut()) {
        (true, Some(map)) => {
            map.remove(key);
        }
        (false, Some(map)) => {
            map.insert(key.to_owned(), value);
        }
        (_, None) => {}
    }
}

/// Replicas are a number that is not negative.
fn negative(object: &Value, pointer: &str) -> Option<Error> {
    let n = object.pointer(pointer)?.as_i64()?;
    let path = pointer.trim_start_matches('/').replace('/', ".");
    (n < 0).then(|| Error::invalid(&Path::new(&path), n, "should be a non-negative integer"))
}

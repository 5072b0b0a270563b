//! The way to admission: what plugins and webhooks are asked about a write.

use crate::call::Call;
use crate::served::Served;
use admission::{Attributes, Operation};
use api::status::Result;
use api::{Value, json};
use std::sync::Arc;

/// One question to admission.
pub struct Review<'a> {
    pub call: &'a Call,
    pub served: &'a Arc<Served>,
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    pub operation: &'static str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub dry_run: bool,
    /// Kind of the options object.
    pub options: &'static str,
}

impl Review<'_> {
    /// The options object as plugins see it.
    pub fn options(&self) -> Value {
        let mut options = json!({"kind": self.options, "apiVersion": "meta.k8s.io/v1"});
        if self.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        options
    }
}

fn attributes(r: &Review<'_>, object: Option<Value>, old: Option<&Arc<Value>>) -> Attributes {
    let served = r.served;
    let kind = match served.subresource(r.subresource) {
        Some(s) if s.kind != served.gvk.kind => {
            api::GroupVersionKind::new(&s.kind_group, &s.kind_version, &s.kind)
        }
        _ => served.gvk.clone(),
    };
    Attributes {
        kind,
        resource: served.gvr(),
        subresource: r.subresource.to_owned(),
        namespace: r.namespace.to_owned(),
        name: r.name.to_owned(),
        operation: match r.operation {
            "CREATE" => Operation::Create,
            "UPDATE" => Operation::Update,
            "DELETE" => Operation::Delete,
            _ => Operation::Connect,
        },
        object,
        old_object: old.cloned(),
        // A connection's options are its object.
        options: (r.operation != "CONNECT").then(|| r.options()),
        dry_run: r.dry_run,
        user: r.call.user.clone(),
        warnings: Vec::new(),
        annotations: Vec::new(),
        reinvocation: Default::default(),
    }
}

fn keep_warnings(r: &Review<'_>, a: &mut Attributes) {
    a.warnings.drain(..).for_each(|w| r.call.warn(w));
    if let Some(record) = &r.call.record {
        a.annotations.iter().for_each(|(key, value)| record.annotate(key, value));
    }
}

/// Plugins that may change the object, in order.
pub async fn mutate(r: &Review<'_>, new: &mut Value, old: Option<&Arc<Value>>) -> Result<()> {
    let mut a = attributes(r, Some(std::mem::take(new)), old);
    let done = r.call.server.admission.admit(&mut a).await;
    keep_warnings(r, &mut a);
    *new = a.object.unwrap_or_default();
    done
}

/// Plugins that may refuse it.
pub async fn validate(r: &Review<'_>, new: &Value, old: Option<&Arc<Value>>) -> Result<()> {
    let mut a = attributes(r, Some(new.clone()), old);
    let done = r.call.server.admission.validate(&mut a).await;
    keep_warnings(r, &mut a);
    done
}

/// A deletion has no new object.
pub async fn delete(r: &Review<'_>, old: &Arc<Value>) -> Result<()> {
    let mut a = attributes(r, None, Some(old));
    let chain = &r.call.server.admission;
    let done = match chain.admit(&mut a).await {
        Ok(()) => chain.validate(&mut a).await,
        refused => refused,
    };
    keep_warnings(r, &mut a);
    done
}

//! The way to admission: what plugins and webhooks are asked about a write.

use crate::call::Call;
use crate::served::Served;
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

/// Plugins that may change the object, in order.
pub async fn mutate(_r: &Review<'_>, _new: &mut Value, _old: Option<&Arc<Value>>) -> Result<()> {
    Ok(())
}

/// Plugins that may refuse it.
pub async fn validate(_r: &Review<'_>, _new: &Value, _old: Option<&Arc<Value>>) -> Result<()> {
    Ok(())
}

/// A deletion has no new object.
pub async fn delete(_r: &Review<'_>, _old: &Arc<Value>) -> Result<()> {
    Ok(())
}

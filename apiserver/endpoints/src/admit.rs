//! The way to admission: what plugins and webhooks are asked about a write.

use crate::call::Call;
use crate::served::Served;
use api::Value;
use api::status::Result;
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

/// Plugins that may change the object, in order.
pub async fn mutate(_r: &Review<'_>, _new: &mut Value, _old: Option<&Value>) -> Result<()> {
    Ok(())
}

/// Plugins that may refuse it.
pub async fn validate(_r: &Review<'_>, _new: &Value, _old: Option<&Value>) -> Result<()> {
    Ok(())
}

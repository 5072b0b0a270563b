//! What a write takes from a shared pool: addresses and ports of Services.

use crate::server::Server;
use crate::write::Target;
use api::Value;
use api::status::Result;
use std::sync::Arc;

/// What was taken for a write that has not happened yet.
#[derive(Default)]
pub struct Reserved {}

impl Reserved {
    /// The write succeeded: what was taken is used.
    pub fn keep(self) {}
    /// The write succeeded: what it no longer uses is given back.
    pub async fn commit(self, _server: &Arc<Server>) {}
    /// The write failed: what was taken is given back.
    pub async fn release(self, _server: &Arc<Server>) {}
}

pub async fn on_create(_t: &Target<'_>, _new: &mut Value) -> Result<Reserved> {
    Ok(Reserved::default())
}

pub async fn on_update(_t: &Target<'_>, _new: &mut Value, _old: &Value) -> Result<Reserved> {
    Ok(Reserved::default())
}

pub async fn on_delete(_t: &Target<'_>, _old: &Value) {}

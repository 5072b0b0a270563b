//! Objects that could not be decrypted when they came, tried again when somebody asks for them: the
//! key management service may be back, or the configuration may name their key now.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::Object;

use super::Resource;

impl Resource {
    /// Tries again what could not be decrypted. Costs nothing where all could.
    pub(super) async fn mend(&self) {
        if !self.broken.swap(false, Ordering::AcqRel) {
            return;
        }
        let corrupt: Vec<Arc<Object>> =
            self.snapshot().iter().filter(|o| o.corrupt.is_some()).cloned().collect();
        for old in corrupt {
            let Some(stored) = old.corrupt.as_ref().map(|c| c.stored.clone()) else { continue };
            self.prepare_value(&stored).await;
            // Sets the mark again if it is still no use.
            let new = self.object(&old.key, stored, old.revision, old.create_revision, old.lease);
            if new.corrupt.is_none() {
                self.cache.write().mend(&old, new, &self.spec.indexed_fields);
            }
        }
    }
}

//! What every controller is built from: shared informers, a keyed work queue with workers, claiming of
//! dependents, pod helpers, hashing, and the comparisons that decide whether a status has to be written.
//!
//! A controller is a name, the informers it reads and an async `reconcile(key)`. It is level-triggered:
//! everything here is made so that a process may be killed between any two writes.

pub mod claim;
pub mod condition;
pub mod context;
pub mod discovery;
pub mod errors;
pub mod events;
pub mod expect;
pub mod hash;
pub mod informer;
pub mod meta;
pub mod node;
pub mod pod;
pub mod rank;
pub mod revision;
pub mod run;
pub mod semantic;
pub mod template;

pub use context::{Context, Settings};
pub use events::Events;
pub use informer::{Change, Shared};
pub use meta::Key;
pub use run::{Queue, Requeue, Workers};

/// The current time: the one place controllers read the wall clock from.
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// The current time as the API writes it, in whole seconds.
pub fn now_time() -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
    let now = now();
    k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
        jiff::Timestamp::from_second(now.as_second()).unwrap_or(now),
    )
}

/// Seconds from `then` until now; negative when `then` lies ahead.
pub fn seconds_since(then: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time) -> f64 {
    now().duration_since(then.0).as_secs_f64()
}

//! Patches and server-side apply, as pure functions over trees.
//!
//! [`patch`] holds JSON patch, JSON merge patch and strategic merge patch. [`managed`] keeps
//! `metadata.managedFields` up to date on every ordinary write, [`apply`] does server-side apply.
//! Both work on field sets ([`set`]) and on the answer to "what is this list or map": [`Type`],
//! which is read from the field table for built-in kinds and from a structural schema for custom ones.

pub mod apply;
pub mod managed;
mod overlay;
pub mod patch;
pub mod reset;
pub mod set;
mod typed;
mod typing;

pub use apply::{Conflict, Conflicts};
pub use managed::{Manager, Operation};
pub use overlay::overlay;
pub use set::Set;
pub use typed::{Diff, compare, field_set};
pub use typing::Type;

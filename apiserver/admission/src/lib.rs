//! Admission: what may be stored beyond what is valid. A chain of plugins, first those that change
//! the object, then those that only judge it, each in upstream's order.

pub mod attributes;
pub mod chain;
mod config;

mod live;
mod matching;
mod metrics;
mod objects;
mod plugins;
mod policy;
mod resources;
mod scene;
mod versions;
pub mod webhook;

pub use attributes::{Attributes, Operation};
pub use chain::{Chain, Deps, Options, Plugin};
pub use webhook::Reinvocation;

#[cfg(test)]
mod testing;

//! What every daemon does alike: flags, configuration files, feature gates, logging, metrics, health, secure serving,
//! delegated authentication, and an orderly start and end.
//!
//! A daemon's `main` is three steps: [`Command::parse`] its flags, load its configuration with [`config::load`], and hand
//! its work to [`main`], which ends when the work ends or a signal arrives.

pub mod config;
pub mod delegated;
pub mod duration;
mod flags;
pub mod gates;
pub mod health;
pub mod logging;
pub mod metrics;
mod run;
pub mod serve;
pub mod traces;
pub mod version;

pub use flags::{Command, FlagError, Flags};
pub use run::{main, runtime};

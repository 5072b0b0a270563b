//! The Container Runtime Interface, v1, over a unix socket.
//!
//! [`Runtime`] is a cheap-to-clone client with a deadline on every call and errors that say which call failed and
//! why. The connection is made lazily and again after the runtime restarted; a call in between fails with
//! [`Error::is_unavailable`]. [`events::Events`] tells when something in the runtime changed, for runtimes that can.

mod client;
mod error;
pub mod events;
pub mod health;

pub use client::{Runtime, observe};
pub use error::Error;

/// The messages of CRI v1, generated from `proto/cri.proto`.
#[allow(clippy::all, missing_docs)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// The event stream of containerd, generated from `proto/containerd-events.proto`.
#[allow(clippy::all, missing_docs)]
pub(crate) mod containerd {
    tonic::include_proto!("containerd.services.events.v1");
}

/// The result of a CRI call.
pub type Result<T> = std::result::Result<T, Error>;

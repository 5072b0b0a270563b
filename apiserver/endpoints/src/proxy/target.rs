//! Where a request is passed on to.

use std::net::SocketAddr;

/// A backend: the very address that was checked is the one that is dialled.
pub struct Backend {
    /// Resolved already when it is an address, else `host:port`.
    pub address: Address,
    /// `Host` header.
    pub authority: String,
    /// Path and query.
    pub path: String,
    pub secure: Secure,
}

pub enum Address {
    Socket(SocketAddr),
    Name(String, u16),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Secure {
    /// Plain HTTP.
    No,
    /// TLS without a verified name: pods and services have no certificates that we know of.
    Unverified,
    /// A kubelet: our certificate, its authority.
    Kubelet,
}

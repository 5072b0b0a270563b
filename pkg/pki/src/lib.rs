//! Keys and certificates of a cluster: certificate authorities, serving and client certificates, signing requests,
//! service-account key pairs, and kubeconfig files that carry them.
//!
//! Everything here is made in memory from ring's randomness; the `files` module is the only part that touches a disk,
//! and it writes secrets with mode 0600 and replaces them atomically.

mod ca;
mod csr;
mod der;
pub mod files;
mod keys;
mod kubeconfig;
pub mod trust;
mod x509;

pub use ca::{Ca, Cert, Request, self_signed};
pub use csr::{Csr, ExtendedName, KeyUsageName, SignOptions, Usage, create as create_csr};
pub use keys::{KeyPair, ServiceAccountKeys, service_account_keys, to_pkcs8};
pub use kubeconfig::{Kubeconfig, kubeconfig};

/// What can go wrong with keys, certificates and their files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key or certificate could not be made.
    #[error("{0}")]
    Generate(#[from] rcgen::Error),
    /// Input is not the PEM or DER it should be.
    #[error("{0}")]
    Parse(String),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file concerned.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests;

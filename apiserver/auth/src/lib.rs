//! Who is asking, and may they: authentication, authorization, impersonation, service account
//! tokens and the RBAC bootstrap policy of the apiserver. No HTTP server lives here; requests come
//! in as headers, a certificate chain and a path. Servers elsewhere that know users, permissions or keys are asked
//! by [`webhook`].

pub mod authn;
pub mod authz;
pub mod files;
pub mod impersonation;
pub mod keys;
pub mod service_account;
pub mod testing;
pub mod user;
pub mod values;
pub mod webhook;

pub use authz::{Attributes, Authorizer, Decision, Verdict};
pub use user::UserInfo;

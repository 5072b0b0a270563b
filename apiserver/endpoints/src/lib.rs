//! The generic REST machinery of the apiserver: from an HTTP request to storage and back.
//!
//! `serve → authenticate → audit → impersonate → fairness → authorize → route → endpoint → admission → room → storage`.
//! This crate names kinds only where the API itself has a path of its own for them ([`special`]); everything
//! else is read from the resource table and asked of the kind's room.

pub mod admit;
pub mod allocate;
pub mod audit;
pub mod body;
pub mod browsers;
pub mod call;
pub mod delete;
pub mod discovery;
pub mod envelope;
pub mod errors;
pub mod fairness;
pub mod health;
pub mod indent;
pub mod input;
pub mod list;
pub mod managed;
pub mod metrics;
pub mod negotiate;
pub mod openapi;
pub mod patch;
pub mod proxy;
pub mod query;
pub mod registry;
pub mod request;
pub mod respond;
pub mod routes;
pub mod select;
pub mod served;
pub mod server;
pub mod special;
pub mod table;
pub mod verbs;
pub mod watch;
pub mod websocket;
pub mod write;

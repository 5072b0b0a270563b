//! What the store promises, held against a real etcd.

mod common;
mod encryption;
mod failures;
mod lists;
mod rest;
mod watches;
mod writes;

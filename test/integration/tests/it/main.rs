//! kube-apiserver against a real etcd: each test has a pair of its own.

mod aggregation;
mod audit;
mod bad_input;
mod custom_resources;
mod encodings;
mod expressions;
mod fairness;
mod http;
mod identity;
mod idle;
mod monitoring;
mod objects;
mod stalls;
mod survival;
mod two_servers;
mod versions;

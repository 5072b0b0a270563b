//! The controllers that tell where a Service's pods are.

pub mod endpoints;
pub mod endpointslice;
pub mod mirroring;
pub mod service;
pub mod servicecidr;

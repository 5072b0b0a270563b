//! The controllers of storage: claims get volumes, volumes get attached, nothing in use is removed.

pub mod attach;
pub mod attributes_class;
pub mod binder;
pub mod ephemeral;
pub mod expand;
pub mod protection;

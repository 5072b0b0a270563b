//! Custom resources (CustomResourceDefinition): from a definition to rows of the resource table, rooms for its
//! objects and a place in storage; and what the definition's status says of it.
//!
//! Nothing here serves: the server swaps the table and the routes that [`Definition`]s give.

pub mod columns;
pub mod conversion;
pub mod definition;
pub mod room;
pub mod status;
pub mod stored;

pub use definition::{Definition, Version};

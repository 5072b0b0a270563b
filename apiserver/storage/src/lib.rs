//! The only way to etcd, and the watch cache in front of it.
//!
//! One [`Store`] stands for everything the apiserver keeps. It holds **one watch per etcd cluster**,
//! and that stream feeds the in-memory copy of every [`Resource`]. Promises:
//!
//! * **Consistent reads from memory.** A read with [`ReadVersion::Consistent`] asks etcd for its
//!   current revision (readers of the same instant share the question), waits until the stream has
//!   passed it, and answers from memory. The stream watches the whole key space rather than only
//!   our prefix: then every revision etcd can name also appears in the stream, in order, and no
//!   progress notification (which older etcd sends out of order) has to be believed.
//! * **Writes are one transaction** compared on the mod revision, acknowledged after etcd committed.
//! * **Watchers never miss, repeat or reorder an event.** Where that cannot be kept (history
//!   compacted away, watcher too slow, etcd restored from a backup) the watcher ends with
//!   [`Error::Expired`] and has to list again.
//! * **A slow watcher hurts itself only**: each has a bounded mailbox, overflow closes it.
//! * **etcd away**: what needs etcd fails with [`Error::Unavailable`] in bounded time, what does not
//!   is served; the store reconnects by itself and resumes where it stopped.
//!
//! # Use
//! ```no_run
//! # async fn f() -> Result<(), storage::Error> {
//! use std::sync::Arc;
//! use storage::{Attributes, Config, ListOptions, ReadVersion, Spec, Store};
//! let store = Store::open(Config::new(["http://127.0.0.1:2379"])).await?;
//! let pods = store.resource(
//!     Spec::new("/registry/pods/", Arc::new(|_key: &str, _bytes: &[u8]| Attributes::default()))
//!         .indexed("spec.nodeName"),
//! );
//! let created = pods.create("/registry/pods/default/web", "bytes".into(), None).await?;
//! let list = pods.list("/registry/pods/default/", ListOptions::default()).await?;
//! assert!(list.items.iter().any(|o| o.revision == created.revision));
//! # Ok(()) }
//! ```

mod attributes;
mod cluster;
mod compact;
mod config;
mod continue_token;
mod error;
mod etcd;
mod lease;
mod metrics;
mod object;
mod options;
mod pack;
mod progress;
mod resource;
mod sorted;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod transform;

pub use attributes::{Attributes, Wire};
pub use config::{Config, EncryptionFile, Override, Tls};
pub use continue_token::Continue;
pub use error::{Error, Result};
pub use object::Object;
pub use options::{
    Codec, Event, IndexHint, List, ListOptions, Predicate, ReadVersion, Spec, WatchOptions, WatchStart,
};
pub use resource::{Resource, Snapshot, Watcher};
pub use store::Store;
pub use transform::{Encryption, Identity, Transformed, Transformer};

//! What a write takes from a shared pool: the addresses and node ports of Services.
//!
//! Two servers allocate at once without a word between them: an address is taken by creating its IPAddress
//! object, a port by a compare-and-swap of the bitmap in etcd. What a failed write had taken is given back;
//! what a crash leaves behind is an entry without a Service, never two Services with one address.

mod addresses;
mod families;
mod ports;
mod repair;

use crate::server::Server;
use crate::write::Target;
use api::Value;
use api::field::{Error, Path};
use api::status::{Result, Status};
use ipnet::IpNet;
use std::sync::Arc;

pub use repair::Repair;

/// The pools that the flags describe.
pub struct Pools {
    /// The first one's family is the default.
    pub ranges: Vec<IpNet>,
    /// First node port and how many.
    pub node_ports: (u16, u16),
    /// The bitmap of node ports and what is beside it.
    pub bitmaps: Arc<storage::Resource>,
    /// Held by the one change of the bitmap that this server has under way.
    pub turn: tokio::sync::Mutex<()>,
}

impl Pools {
    fn families(&self) -> Vec<&'static str> {
        self.ranges.iter().map(|r| addresses::family(&r.addr())).collect()
    }
}

/// What was taken for a write that has not happened yet, and what the write will no longer use.
#[derive(Default)]
pub struct Reserved {
    server: Option<Arc<Server>>,
    addresses: Vec<String>,
    ports: Vec<u16>,
    old_addresses: Vec<String>,
    old_ports: Vec<u16>,
    /// `namespace/name` of the Service.
    owner: (String, String),
}

impl Reserved {
    /// The write succeeded: what it no longer uses is given back.
    pub async fn commit(self) {
        let Some(server) = self.server else { return };
        addresses::give_back(&server, &self.owner, &self.old_addresses).await;
        ports::give_back(&server, &self.old_ports).await;
    }

    /// The write failed: what was taken is given back.
    pub async fn release(self) {
        let Some(server) = self.server else { return };
        addresses::give_back(&server, &self.owner, &self.addresses).await;
        ports::give_back(&server, &self.ports).await;
    }
}

fn pools<'a>(t: &'a Target<'_>) -> Option<&'a Pools> {
    let service = t.served.gvk.group.is_empty() && t.served.resource == "services" && t.door.is_empty();
    t.call.server.special.pools.as_ref().filter(|_| service)
}

fn invalid(t: &Target<'_>, errors: Vec<Error>) -> Status {
    Status::invalid("", "Service", t.name, &errors)
}

/// Fills in what follows from the object itself and from what it was, before it is validated.
pub fn normalize(t: &Target<'_>, new: &mut Value, old: Option<&Value>) -> Result<()> {
    let Some(pools) = pools(t) else { return Ok(()) };
    families::normalize(new, old);
    if let Some(old) = old {
        families::carry_over(new, old);
    }
    families::drop_unused(new, old);
    families::choose(t, pools, new, old)
}

/// Takes what the object needs and does not have.
pub async fn take(t: &Target<'_>, new: &mut Value, old: Option<&Value>) -> Result<Reserved> {
    let Some(pools) = pools(t) else { return Ok(Reserved::default()) };
    let mut reserved = Reserved {
        server: Some(t.call.server.clone()),
        owner: (t.namespace.to_owned(), t.name.to_owned()),
        ..Default::default()
    };
    let taken = async {
        addresses::take(t, pools, new, old, &mut reserved).await?;
        ports::take(t, pools, new, old, &mut reserved).await
    };
    match taken.await {
        Ok(()) => Ok(reserved),
        Err(e) => {
            reserved.release().await;
            Err(e)
        }
    }
}

/// An object is gone: all that it had is free.
pub async fn on_delete(t: &Target<'_>, old: &Value) {
    if pools(t).is_none() {
        return;
    }
    let owner = (t.namespace.to_owned(), t.name.to_owned());
    addresses::give_back(&t.call.server, &owner, &addresses::of(old)).await;
    ports::give_back(&t.call.server, &ports::of(old)).await;
}

fn spec_path(field: &str) -> Path {
    Path::new("spec").child(field)
}

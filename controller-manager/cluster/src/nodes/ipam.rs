//! node-ipam-controller: gives each node a range of the cluster's pod addresses, one a family.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context as _;
use controller_kit::meta::MetaExt;
use controller_kit::{Context, Key, Queue, Requeue, Shared, errors};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;

use super::told_status;

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let settings = &ctx.settings.ipam;
    let pools = pools(settings)?;
    let queue = Queue::new();
    let nodes = ctx.informer::<Node>();
    nodes.synced().await;
    let pools = Arc::new(Mutex::new(pools));
    for node in nodes.list() {
        pools.lock().iter_mut().for_each(|pool| pool.occupy(&node));
    }
    let (q, release) = (queue.clone(), pools.clone());
    nodes.watch(move |change| {
        let node = change.object();
        if change.deleted() {
            release.lock().iter_mut().for_each(|pool| pool.release(node.name()));
        } else {
            q.add(node.key());
        }
    });
    let workers = ctx.workers("nodeipam", "nodeipam", 1);
    let events = ctx.events("cidrAllocator");
    let (ctx, nodes, pools, events) = (&ctx, &nodes, &pools, &events);
    workers.run(queue, |key| async move { reconcile(ctx, events, nodes, pools, &key).await }).await;
    Ok(())
}

fn pools(settings: &controller_kit::context::Ipam) -> anyhow::Result<Vec<Pool>> {
    anyhow::ensure!(!settings.cluster_cidrs.is_empty(), "--allocate-node-cidrs needs --cluster-cidr");
    let mut taken: Vec<IpNet> = Vec::new();
    for text in &settings.service_cidrs {
        taken.push(text.parse().with_context(|| format!("invalid service range {text:?}"))?);
    }
    let mut pools = Vec::new();
    for text in &settings.cluster_cidrs {
        let range: IpNet = text.parse().with_context(|| format!("invalid cluster range {text:?}"))?;
        let mask = if range.addr().is_ipv4() { settings.mask_v4 } else { settings.mask_v6 };
        pools.push(Pool::new(range, mask, &taken)?);
    }
    anyhow::ensure!(pools.len() <= 2, "at most one range a family may be given");
    Ok(pools)
}

async fn reconcile(
    ctx: &Context,
    events: &controller_kit::Events,
    nodes: &Arc<Shared<Node>>,
    pools: &Mutex<Vec<Pool>>,
    key: &Key,
) -> anyhow::Result<Requeue> {
    let Some(node) = nodes.get(key) else { return Ok(None) };
    if node.spec.as_ref().and_then(|s| s.pod_cidr.as_deref()).is_some_and(|c| !c.is_empty()) {
        pools.lock().iter_mut().for_each(|pool| pool.occupy(&node));
        return Ok(None);
    }
    let ranges: Option<Vec<String>> =
        pools.lock().iter_mut().map(|pool| pool.allocate(node.name())).collect();
    let Some(ranges) = ranges else {
        told_status(events, &node, "CIDRNotAvailable");
        anyhow::bail!("no pod address range is left for node {key}");
    };
    let api: Api<Node> = Api::all(ctx.client.clone());
    let patch = json!({"spec": {"podCIDR": ranges[0], "podCIDRs": ranges}});
    let written = api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    match errors::optional(written) {
        Ok(Some(_)) => Ok(None),
        Ok(None) => {
            pools.lock().iter_mut().for_each(|pool| pool.release(&key.name));
            Ok(None)
        }
        Err(error) => {
            told_status(events, &node, "CIDRAssignmentFailed");
            Err(error.into())
        }
    }
}

/// One family's range, cut into equal pieces.
#[derive(Debug)]
struct Pool {
    range: IpNet,
    mask: u8,
    count: u128,
    next: u128,
    used: HashSet<u128>,
    by_node: HashMap<String, u128>,
    taken: Vec<IpNet>,
}

impl Pool {
    fn new(range: IpNet, mask: u8, taken: &[IpNet]) -> anyhow::Result<Pool> {
        let range = range.trunc();
        anyhow::ensure!(
            mask >= range.prefix_len() && mask <= range.max_prefix_len(),
            "node prefix length {mask} does not fit into cluster range {range}"
        );
        anyhow::ensure!(
            mask - range.prefix_len() <= 16,
            "cluster range {range} is too large for node prefix length {mask}"
        );
        let taken = taken.iter().filter(|t| range.contains(*t) || t.contains(&range)).copied().collect();
        let count = 1u128 << (mask - range.prefix_len());
        Ok(Pool { range, mask, count, next: 0, used: HashSet::new(), by_node: HashMap::new(), taken })
    }

    fn bits(&self) -> u8 {
        self.range.max_prefix_len() - self.mask
    }

    fn piece(&self, index: u128) -> Option<IpNet> {
        let offset = index << self.bits();
        let address = match self.range.network() {
            IpAddr::V4(base) => {
                IpAddr::from((u32::from(base).checked_add(u32::try_from(offset).ok()?)?).to_be_bytes())
            }
            IpAddr::V6(base) => IpAddr::from(u128::from(base).checked_add(offset)?.to_be_bytes()),
        };
        IpNet::new(address, self.mask).ok()
    }

    fn index(&self, address: IpAddr) -> Option<u128> {
        if !self.range.contains(&address) {
            return None;
        }
        let offset = match (address, self.range.network()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(u32::from(a) - u32::from(b)),
            (IpAddr::V6(a), IpAddr::V6(b)) => u128::from(a) - u128::from(b),
            _ => return None,
        };
        Some(offset >> self.bits())
    }

    /// Marks what a node already has.
    fn occupy(&mut self, node: &Node) {
        let spec = node.spec.as_ref();
        let ranges = spec.into_iter().flat_map(|s| s.pod_cidrs.iter().flatten().chain(&s.pod_cidr));
        for range in ranges.filter_map(|text| text.parse::<IpNet>().ok()) {
            if let Some(index) = self.index(range.network()) {
                self.used.insert(index);
                self.by_node.insert(node.name().to_owned(), index);
            }
        }
    }

    fn release(&mut self, node: &str) {
        if let Some(index) = self.by_node.remove(node) {
            self.used.remove(&index);
        }
    }

    /// The node's piece: the one it has been promised, or the next free one.
    fn allocate(&mut self, node: &str) -> Option<String> {
        if let Some(index) = self.by_node.get(node) {
            return self.piece(*index).map(|p| p.to_string());
        }
        for step in 0..self.count {
            let index = (self.next + step) % self.count;
            if self.used.contains(&index) {
                continue;
            }
            let piece = self.piece(index)?;
            if self.taken.iter().any(|t| t.contains(&piece) || piece.contains(t)) {
                continue;
            }
            self.next = (index + 1) % self.count;
            self.used.insert(index);
            self.by_node.insert(node.to_owned(), index);
            return Some(piece.to_string());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_unique_and_come_back() {
        let net = |s: &str| s.parse::<IpNet>().unwrap();
        let mut pool = Pool::new(net("10.244.0.0/22"), 24, &[net("10.244.1.0/24")]).unwrap();
        let had: Node = serde_json::from_value(
            json!({"metadata": {"name": "old"}, "spec": {"podCIDR": "10.244.2.0/24"}}),
        )
        .unwrap();
        pool.occupy(&had);
        assert_eq!(pool.allocate("a").as_deref(), Some("10.244.0.0/24"));
        assert_eq!(pool.allocate("a").as_deref(), Some("10.244.0.0/24"));
        assert_eq!(pool.allocate("b").as_deref(), Some("10.244.3.0/24"));
        assert_eq!(pool.allocate("c"), None);
        pool.release("old");
        assert_eq!(pool.allocate("c").as_deref(), Some("10.244.2.0/24"));
        let mut v6 = Pool::new(net("fd00::/56"), 64, &[]).unwrap();
        v6.allocate("a");
        assert_eq!(v6.allocate("b").as_deref(), Some("fd00:0:0:1::/64"));
        assert!(Pool::new(net("10.0.0.0/24"), 16, &[]).is_err());
    }
}

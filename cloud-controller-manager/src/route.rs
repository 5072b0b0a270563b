//! The route controller: a route in the cloud to each node's pod CIDRs, and the node's `NetworkUnavailable` condition.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use client::{Event, Recorder, object_ref};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::sync::Notify;

use crate::manager::Context;
use crate::provider::{Route, Routes};

/// Pod addresses of the cluster: routes elsewhere are not ours.
pub type Cidr = (IpAddr, u8);

/// Reads `--cluster-cidr`.
pub fn parse_cidrs(text: &str) -> anyhow::Result<Vec<Cidr>> {
    let cidrs: Option<Vec<Cidr>> =
        text.split(',').filter(|c| !c.is_empty()).map(|c| parse_cidr(c.trim())).collect();
    match cidrs {
        Some(list) if !list.is_empty() => Ok(list),
        Some(_) => bail!("--cluster-cidr is required for routes"),
        None => bail!("failed to parse --cluster-cidr {text:?}"),
    }
}

fn parse_cidr(text: &str) -> Option<Cidr> {
    let (address, bits) = text.split_once('/')?;
    let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
    (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, bits))
}

fn contains((network, bits): &Cidr, address: IpAddr) -> bool {
    let prefix = |value: u128, width: u32| value >> (width - u32::from(*bits)).min(127);
    match (network, address) {
        (IpAddr::V4(n), IpAddr::V4(a)) => {
            *bits == 0 || prefix(u128::from(n.to_bits()), 32) == prefix(u128::from(a.to_bits()), 32)
        }
        (IpAddr::V6(n), IpAddr::V6(a)) => *bits == 0 || prefix(n.to_bits(), 128) == prefix(a.to_bits(), 128),
        _ => false,
    }
}

/// Runs the controller until shutdown: at each change of nodes' CIDRs, and each period.
pub async fn run(ctx: Context, cidrs: Vec<Cidr>, period: Duration) {
    let Some(routes) = ctx.provider.routes() else { return };
    let wake = Arc::new(Notify::new());
    let waker = wake.clone();
    ctx.nodes.on_event(move |event| match event {
        Event::Updated { old, new } if pod_cidrs(old) == pod_cidrs(new) => {}
        _ => waker.notify_one(),
    });
    let controller = Controller { recorder: ctx.recorder("route_controller"), ctx, routes, cidrs };
    controller.ctx.nodes.synced().await;
    loop {
        if let Err(error) = controller.reconcile().await {
            tracing::error!(error = format!("{error:#}"), "Couldn't reconcile node routes");
        }
        tokio::select! {
            () = controller.ctx.shutdown.cancelled() => return,
            () = tokio::time::sleep(period) => {}
            () = wake.notified() => {}
        }
    }
}

struct Controller {
    ctx: Context,
    routes: Arc<dyn Routes>,
    recorder: Recorder,
    cidrs: Vec<Cidr>,
}

fn pod_cidrs(node: &Node) -> Vec<String> {
    node.spec.as_ref().and_then(|s| s.pod_cidrs.clone()).unwrap_or_default()
}

fn name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

impl Controller {
    async fn reconcile(&self) -> anyhow::Result<()> {
        let existing = self.routes.list(&self.ctx.cluster).await.context("error listing routes")?;
        let nodes = self.ctx.nodes.store().list();
        let wanted: HashMap<(String, String), ()> = nodes
            .iter()
            .flat_map(|n| pod_cidrs(n).into_iter().map(|c| ((name(n).to_owned(), c), ())))
            .collect();
        for route in &existing {
            let key = (route.target_node.clone(), route.destination_cidr.clone());
            if self.ours(route) && (route.blackhole || !wanted.contains_key(&key)) {
                self.routes.delete(&self.ctx.cluster, route).await.context("could not delete route")?;
            }
        }
        for node in &nodes {
            self.ensure(node, &existing).await?;
        }
        Ok(())
    }

    async fn ensure(&self, node: &Node, existing: &[Route]) -> anyhow::Result<()> {
        let cidrs = pod_cidrs(node);
        if cidrs.is_empty() {
            return Ok(());
        }
        let mut created = true;
        for (i, cidr) in cidrs.iter().enumerate() {
            let there =
                |r: &Route| r.target_node == name(node) && r.destination_cidr == *cidr && !r.blackhole;
            if existing.iter().any(there) {
                continue;
            }
            let route = Route {
                name: String::new(),
                target_node: name(node).to_owned(),
                destination_cidr: cidr.clone(),
                blackhole: false,
            };
            let uid = node.metadata.uid.as_deref().unwrap_or_default();
            let hint = if i == 0 { uid.to_owned() } else { format!("{uid}-{i}") };
            if let Err(error) = self.routes.create(&self.ctx.cluster, &hint, &route).await {
                created = false;
                let message =
                    format!("Could not create route {hint} {cidr} for node {}: {error}", name(node));
                tracing::error!("{message}");
                self.recorder.event(&object_ref(node), "Warning", "FailedToCreateRoute", &message);
            }
        }
        self.set_condition(node, created).await
    }

    fn ours(&self, route: &Route) -> bool {
        let Some((address, _)) = parse_cidr(&route.destination_cidr) else { return false };
        self.cidrs.iter().any(|c| contains(c, address))
    }

    async fn set_condition(&self, node: &Node, created: bool) -> anyhow::Result<()> {
        let status = if created { "False" } else { "True" };
        let conditions = node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        if conditions.iter().any(|c| c.type_ == "NetworkUnavailable" && c.status == status) {
            return Ok(());
        }
        let (reason, message) = match created {
            true => ("RouteCreated", "RouteController created a route"),
            false => ("NoRouteCreated", "RouteController failed to create a route"),
        };
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
            jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap_or_default(),
        );
        let patch = json!({"status": {"conditions": [{
            "type": "NetworkUnavailable", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": now, "lastHeartbeatTime": now,
        }]}});
        let api: Api<Node> = Api::all(self.ctx.client.clone());
        // Strategic: conditions merge by type, the others stay.
        api.patch_status(name(node), &PatchParams::default(), &Patch::Strategic(patch)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidrs() {
        let list = parse_cidrs("10.244.0.0/16,fd00::/48").unwrap();
        for (address, inside) in
            [("10.244.3.0", true), ("10.245.0.0", false), ("fd00::1:2", true), ("fd01::", false)]
        {
            assert_eq!(list.iter().any(|c| contains(c, address.parse().unwrap())), inside, "{address}");
        }
        assert!(parse_cidrs("").is_err() && parse_cidrs("10.0.0.0/33").is_err());
        assert!(contains(&("0.0.0.0".parse().unwrap(), 0), "1.2.3.4".parse().unwrap()));
    }
}

//! All four controllers over a fake cloud and a small API server in memory.

mod cloud;
mod server;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::manager::{Context, selected};
use crate::{lifecycle, node, provider, route, service};
use cloud::Cloud;
use server::Server;

struct World {
    server: Server,
    cloud: Cloud,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl World {
    fn start() -> World {
        let (server, cloud, stop) = (Server::default(), Cloud::default(), CancellationToken::new());
        let ctx = Context::new(server.client(), cloud.provider(), "kubernetes", stop.clone());
        let mut tasks = JoinSet::new();
        let second = Duration::from_secs(1);
        tasks.spawn(ctx.nodes.clone().run(stop.clone()));
        tasks.spawn(ctx.services.clone().run(stop.clone()));
        tasks.spawn(node::run(ctx.clone(), 1, second));
        tasks.spawn(lifecycle::run(ctx.clone(), second));
        tasks.spawn(service::run(ctx.clone(), 1));
        tasks.spawn(route::run(ctx, route::parse_cidrs("10.244.0.0/16").unwrap(), second));
        World { server, cloud, stop, tasks }
    }

    /// Waits until the object at a path is as `good` wants it.
    async fn until(&self, path: &str, good: impl Fn(Option<&Value>) -> bool) {
        let wait = async {
            while !good(self.server.get(path).as_ref()) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(300), wait).await;
        assert!(waited.is_ok(), "{path} is {:#?}", self.server.get(path));
    }

    async fn end(mut self) {
        self.stop.cancel();
        while let Some(joined) = self.tasks.join_next().await {
            joined.unwrap();
        }
    }
}

const NODE: &str = "/api/v1/nodes/n1";
const SERVICE: &str = "/api/v1/namespaces/ns/services/web";

fn a_node() -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "uid": "u1"},
        "spec": {"podCIDRs": ["10.244.1.0/24"], "taints": [{"key": node::UNINITIALIZED, "value": "true", "effect": "NoSchedule"}]},
        "status": {"addresses": [{"type": "Hostname", "address": "n1"}], "conditions": [{"type": "Ready", "status": "True"}]}})
}

#[tokio::test(start_paused = true)]
async fn a_node_is_initialized_routed_and_follows_its_machine() {
    let world = World::start();
    world.cloud.add_machine("n1");
    world.server.put(NODE, a_node());
    world
        .until(NODE, |n| {
            n.is_some_and(|n| n["spec"]["providerID"] == "fake://n1" && n["spec"]["taints"] == json!([]))
        })
        .await;
    let node = world.server.get(NODE).unwrap();
    assert_eq!(node["metadata"]["labels"]["topology.kubernetes.io/zone"], "z1");
    assert_eq!(node["status"]["addresses"][0]["address"], "10.0.0.1");
    world
        .until(NODE, |n| n.is_some_and(|n| n["status"]["conditions"].to_string().contains("RouteCreated")))
        .await;
    assert_eq!(world.cloud.routes(), ["n1 10.244.1.0/24"]);

    world.server.edit(NODE, |n| n["status"]["conditions"] = json!([{"type": "Ready", "status": "Unknown"}]));
    world.cloud.shut_down("n1");
    world.until(NODE, |n| n.is_some_and(|n| n["spec"]["taints"].to_string().contains("/shutdown"))).await;
    world.cloud.remove_machine("n1");
    world.until(NODE, |n| n.is_none()).await;
    let routes_gone = async {
        while !world.cloud.routes().is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), routes_gone).await.expect("the route goes with the node");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_service_gets_a_load_balancer_and_leaves_none_behind() {
    let world = World::start();
    world.cloud.add_machine("n1");
    world.server.put(NODE, a_node());
    world.until(NODE, |n| n.is_some_and(|n| n["spec"]["providerID"] == "fake://n1")).await;
    world.server.put(
        SERVICE,
        json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "ns", "uid": "u2"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}),
    );
    world
        .until(SERVICE, |s| s.is_some_and(|s| s["status"]["loadBalancer"]["ingress"][0]["ip"] == "192.0.2.1"))
        .await;
    assert_eq!(world.server.get(SERVICE).unwrap()["metadata"]["finalizers"], json!([service::FINALIZER]));
    world.server.edit(SERVICE, |s| s["spec"]["type"] = "ClusterIP".into());
    world
        .until(SERVICE, |s| {
            s.is_some_and(|s| {
                s["metadata"]["finalizers"] == json!([]) && s["status"]["loadBalancer"]["ingress"].is_null()
            })
        })
        .await;
    assert_eq!(world.cloud.balancers(), 0);
    let reasons = world.server.event_reasons();
    for reason in [
        "Synced",
        "EnsuringLoadBalancer",
        "EnsuredLoadBalancer",
        "DeletingLoadBalancer",
        "DeletedLoadBalancer",
    ] {
        assert!(reasons.iter().any(|r| r == reason), "{reason} not in {reasons:?}");
    }
    world.end().await;
}

#[test]
fn controllers_by_name_and_alias() {
    let pick = |list: &[&str]| selected(&list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
    assert_eq!(pick(&["*"]).unwrap().len(), 4);
    assert_eq!(pick(&["*", "-service"]).unwrap().len(), 3);
    assert_eq!(pick(&["route"]).unwrap(), ["node-route-controller"]);
    assert!(pick(&["nope"]).is_err());
}

#[test]
fn unknown_providers_are_named() {
    let error = provider::open("aws", None).err().unwrap().to_string();
    assert!(error.contains("unknown cloud provider \"aws\""), "{error}");
    assert!(provider::open("", None).is_err());
}

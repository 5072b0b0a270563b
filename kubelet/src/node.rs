//! The Node object: registered at the start, kept true afterwards, and its Lease as a sign of life.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, GetParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::eviction::Pressure;
use crate::kubelet::Kubelet;
use crate::machine;

pub mod declared;
pub mod labels;
pub mod lease;
mod told;

use told::{Told, tell_of_conditions};

/// Labels that the kubelet keeps right on its node.
const OWN_LABELS: [&str; 5] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// What flags say of the node.
#[derive(Debug, Clone, Default)]
pub struct Registration {
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub external_cloud_provider: bool,
    /// The address that was asked for, which the cloud provider is told.
    pub node_ip: Option<String>,
    pub provider_id: String,
}

/// Registers the node and reports its status until the shutdown.
pub async fn run(kubelet: Arc<Kubelet>, registration: Registration, shutdown: CancellationToken) {
    let Some(client) = kubelet.heartbeats.clone() else { return };
    let api: Api<Node> = Api::all(client);
    let mut delay = Duration::from_millis(200);
    let mut reported: Option<(NodeStatus, Instant)> = None;
    let mut told = Told::default();
    let started = Instant::now();
    loop {
        let wait = match report(&kubelet, &api, &registration, &mut reported, &mut told).await {
            Ok(()) => {
                delay = Duration::from_millis(200);
                let usual = kubelet.config.node_status_update_frequency;
                if told.ready == Some(true) { usual } else { usual.min(until_ready(started.elapsed())) }
            }
            Err(error) => {
                tracing::warn!(%error, "Error updating node status, will retry");
                delay = (delay * 2).min(Duration::from_secs(7));
                delay
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            () = kubelet.node_changed.notified() => {}
        }
    }
}

/// A node that is not ready looks often at first, so that it is ready as soon as runtime and network are.
fn until_ready(since_start: Duration) -> Duration {
    if since_start < Duration::from_secs(120) { Duration::from_millis(100) } else { Duration::from_secs(2) }
}

async fn report(
    kubelet: &Arc<Kubelet>,
    api: &Api<Node>,
    registration: &Registration,
    reported: &mut Option<(NodeStatus, Instant)>,
    told: &mut Told,
) -> kube::Result<()> {
    crate::runtime_info::update(kubelet).await;
    let known = match kubelet.node.load_full() {
        Some(node) => node,
        None => Arc::new(register(kubelet, api, registration).await?),
    };
    if let Some((last, _)) = reported {
        notice_others(kubelet, api, last).await?;
    }
    let old =
        reported.as_ref().map(|(status, _)| status).or(known.status.as_ref()).cloned().unwrap_or_default();
    let status = status(kubelet, registration, &old, reported.is_none()).await;
    let now_ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    told.changes(kubelet, &old, &status);
    told.pod_cidr(kubelet).await;
    if told.ready != Some(now_ready) {
        if now_ready {
            crate::metrics::node::ready();
        }
        let reason = if now_ready { "NodeReady" } else { "NodeNotReady" };
        if told.ready.is_some() || now_ready {
            let message = format!("Node {} status is now: {reason}", kubelet.node_name);
            kubelet.events.node("Normal", reason, &message);
        }
        told.ready = Some(now_ready);
    }
    tell_of_conditions(kubelet, &old, &status);
    let fresh = reported.as_ref().is_some_and(|(last, at)| {
        at.elapsed() < kubelet.config.node_status_report_frequency && same(last, &status)
    });
    if fresh {
        return Ok(());
    }
    let body = patch(&old, &status, reported.is_none().then_some(&known).and_then(|n| n.status.as_ref()));
    match api.patch_status(&kubelet.node_name, &PatchParams::default(), &Patch::Strategic(body)).await {
        Ok(node) => {
            kubelet.node.store(Some(Arc::new(slim(node))));
            *reported = Some((status, Instant::now()));
            Ok(())
        }
        Err(kube::Error::Api(error)) if error.code == 404 => {
            // Somebody deleted the node: it is registered anew.
            kubelet.node.store(None);
            *reported = None;
            Err(kube::Error::Api(error))
        }
        Err(error) => Err(error),
    }
}

/// New pods wait so long for a look at the node.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// A node that was away comes back to find its conditions called unknown: what others made of them counts as
/// the last report, so that the next one differs from it.
async fn notice_others(kubelet: &Kubelet, api: &Api<Node>, last: &mut NodeStatus) -> kube::Result<()> {
    // Any state that the server has at hand will do.
    let seen = api.get_with(&kubelet.node_name, &GetParams::at("0")).await?;
    let now = seen.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    if overridden(now, last.conditions.as_deref().unwrap_or_default()) {
        last.conditions = Some(now.to_vec());
    }
    kubelet.node.store(Some(Arc::new(slim(seen))));
    Ok(())
}

/// Whether a condition that was reported now says something else.
fn overridden(now: &[NodeCondition], reported: &[NodeCondition]) -> bool {
    reported.iter().any(|r| now.iter().find(|n| n.type_ == r.type_).is_none_or(|n| n.status != r.status))
}

/// Reads the node as it is now, for those who cannot wait for the next report.
pub async fn look(kubelet: &Kubelet) {
    let Some(client) = kubelet.heartbeats.clone() else { return };
    let api: Api<Node> = Api::all(client);
    match tokio::time::timeout(LOOK_LIMIT, api.get(&kubelet.node_name)).await {
        Ok(Ok(node)) => kubelet.node.store(Some(Arc::new(slim(node)))),
        Ok(Err(error)) => tracing::warn!(err = %error, "Failed to fetch node info"),
        Err(_) => tracing::warn!("Failed to fetch node info in time"),
    }
}

fn slim(mut node: Node) -> Node {
    node.metadata.managed_fields = None;
    if let Some(status) = &mut node.status {
        status.images = None;
    }
    node
}

/// Creates the node, or brings labels and taints of an existing one up to date.
async fn register(
    kubelet: &Arc<Kubelet>,
    api: &Api<Node>,
    registration: &Registration,
) -> kube::Result<Node> {
    let node = initial(kubelet, registration).await;
    crate::metrics::node::registering();
    if kubelet.config.register_node {
        match api.create(&PostParams::default(), &node).await {
            Ok(created) => {
                crate::metrics::node::registered();
                tracing::info!(node = kubelet.node_name, "Successfully registered node");
                let status = created.status.clone().unwrap_or_default();
                tell_of_conditions(kubelet, &NodeStatus::default(), &status);
                kubelet.node.store(Some(Arc::new(slim(created.clone()))));
                return Ok(created);
            }
            Err(kube::Error::Api(error)) if error.code == 409 => {}
            Err(error) => return Err(error),
        }
    }
    let existing = api.get(&kubelet.node_name).await?;
    tracing::info!(node = kubelet.node_name, "Node was previously registered");
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let have = existing.metadata.labels.clone().unwrap_or_default();
    let own = labels
        .iter()
        .filter(|(key, _)| OWN_LABELS.contains(&key.as_str()) || registration.labels.contains_key(*key));
    let wrong: BTreeMap<_, _> = own.filter(|(key, value)| have.get(*key) != Some(value)).collect();
    let existing = if wrong.is_empty() {
        existing
    } else {
        let body = json!({"metadata": {"labels": wrong}});
        api.patch(&kubelet.node_name, &PatchParams::default(), &Patch::Merge(body)).await?
    };
    kubelet.node.store(Some(Arc::new(slim(existing.clone()))));
    Ok(existing)
}

async fn initial(kubelet: &Arc<Kubelet>, registration: &Registration) -> Node {
    let info = machine::system_info("", 0);
    let mut labels = registration.labels.clone();
    for key in OWN_LABELS {
        let value = match key.rsplit('/').next() {
            Some("os") => info.operating_system.clone(),
            Some("arch") => info.architecture.clone(),
            _ => kubelet.node_name.clone(),
        };
        labels.insert(key.into(), value);
    }
    let mut taints = registration.taints.clone();
    if registration.external_cloud_provider {
        taints.push(Taint {
            key: "node.cloudprovider.kubernetes.io/uninitialized".into(),
            value: Some("true".into()),
            effect: "NoSchedule".into(),
            time_added: None,
        });
    }
    let mut annotations = BTreeMap::new();
    if kubelet.config.enable_controller_attach_detach {
        let key = "volumes.kubernetes.io/controller-managed-attach-detach";
        annotations.insert(key.to_string(), "true".to_string());
    }
    if let Some(ip) = registration.node_ip.as_ref().filter(|_| registration.external_cloud_provider) {
        annotations.insert("alpha.kubernetes.io/provided-node-ip".to_string(), ip.clone());
    }
    Node {
        metadata: ObjectMeta {
            name: Some(kubelet.node_name.clone()),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            ..Default::default()
        },
        spec: Some(NodeSpec {
            taints: (!taints.is_empty()).then_some(taints),
            provider_id: Some(registration.provider_id.clone()).filter(|id| !id.is_empty()),
            ..Default::default()
        }),
        status: Some(status(kubelet, registration, &NodeStatus::default(), false).await),
    }
}

/// The status as it is now.
async fn status(
    kubelet: &Arc<Kubelet>,
    registration: &Registration,
    old: &NodeStatus,
    first: bool,
) -> NodeStatus {
    let info = kubelet.runtime_info.load_full();
    let pressure = crate::eviction::pressure(kubelet);
    let (capacity, allocatable) = resources(kubelet, old, first);
    let version = format!("{}://{}", info.name, info.version);
    let handlers = info.handlers.iter().map(|(name, rro, userns)| NodeRuntimeHandler {
        name: Some(name.clone()),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(*rro),
            user_namespaces: Some(*userns),
        }),
    });
    let handlers: Vec<NodeRuntimeHandler> = handlers.collect();
    NodeStatus {
        addresses: Some(addresses(kubelet, registration, old)),
        capacity: Some(capacity),
        allocatable: Some(allocatable),
        conditions: Some(conditions(kubelet, old, &pressure)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: kubelet.config.port }),
        }),
        node_info: Some(machine::system_info(&version, kubelet.machine.swap)),
        images: Some(images(kubelet).await),
        runtime_handlers: (!handlers.is_empty()).then_some(handlers),
        volumes_in_use: Some(kubelet.volumes.in_use(old.volumes_in_use.as_deref().unwrap_or_default())),
        features: info
            .supplemental_groups_policy
            .map(|policy| NodeFeatures { supplemental_groups_policy: Some(policy) }),
        declared_features: declared::features(&kubelet.config.feature_gates, &info),
        ..Default::default()
    }
}

fn addresses(kubelet: &Kubelet, registration: &Registration, old: &NodeStatus) -> Vec<NodeAddress> {
    if registration.external_cloud_provider {
        let given = old.addresses.clone().unwrap_or_default();
        // The provider knows best; before it has spoken only an address that was asked for is told.
        if !given.is_empty() || registration.node_ip.is_none() {
            return given;
        }
    }
    let address = |kind: &str, value: &str| NodeAddress { type_: kind.into(), address: value.into() };
    let ips = kubelet.host_ips.load();
    let mut list: Vec<NodeAddress> = ips.iter().map(|ip| address("InternalIP", ip)).collect();
    list.push(address("Hostname", &kubelet.node_name));
    list
}

type List = BTreeMap<String, Quantity>;

fn resources(kubelet: &Kubelet, old: &NodeStatus, first: bool) -> (List, List) {
    let machine = &kubelet.machine;
    let left = machine.allocatable(&kubelet.config);
    let quantity = |value: i64| Quantity(value.to_string());
    let kibi = |value: i64| Quantity(format!("{}Ki", value / 1024));
    let cpu = |milli: i64| {
        if milli % 1000 == 0 { Quantity((milli / 1000).to_string()) } else { Quantity(format!("{milli}m")) }
    };
    // What device plugins and others have added stays.
    let foreign = |list: &Option<List>| -> List {
        let known = ["cpu", "memory", "ephemeral-storage", "pods"];
        let list = list.clone().unwrap_or_default().into_iter();
        list.filter(|(key, _)| !known.contains(&key.as_str()) && !key.starts_with("hugepages-")).collect()
    };
    let mut capacity = foreign(&old.capacity);
    let mut allocatable = foreign(&old.allocatable);
    let (devices, gone) = kubelet.managers.devices.capacity();
    let lost = |name: &String| gone.contains(name) || (first && kubelet.managers.devices.is_fresh());
    for (name, value) in capacity.iter_mut().chain(allocatable.iter_mut()).filter(|(name, _)| lost(name)) {
        tracing::debug!(resource = name, "Devices are no more");
        *value = quantity(0);
    }
    let count = |n: usize| quantity(i64::try_from(n).unwrap_or(i64::MAX));
    for (name, (all, usable)) in devices {
        capacity.insert(name.clone(), count(all));
        allocatable.insert(name, count(usable));
    }
    capacity.extend([
        ("cpu".into(), quantity(machine.cpus)),
        ("memory".into(), kibi(machine.memory)),
        ("ephemeral-storage".into(), kibi(machine.storage)),
        ("pods".into(), quantity(left.pods)),
    ]);
    allocatable.extend([
        ("cpu".into(), cpu(left.milli_cpu)),
        ("memory".into(), kibi(left.memory)),
        ("ephemeral-storage".into(), quantity(left.storage)),
        ("pods".into(), quantity(left.pods)),
    ]);
    for (size, bytes) in &machine.hugepages {
        let value = if *bytes == 0 { quantity(0) } else { kibi(*bytes) };
        capacity.insert(format!("hugepages-{size}"), value.clone());
        allocatable.insert(format!("hugepages-{size}"), value);
    }
    (capacity, allocatable)
}

fn conditions(kubelet: &Kubelet, old: &NodeStatus, pressure: &Pressure) -> Vec<NodeCondition> {
    let now = now();
    let make = |kind: &str, status: bool, reason: &str, message: String| {
        let status = if status { "True" } else { "False" };
        let before = old.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == status);
        NodeCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or(Some(now.clone())),
        }
    };
    let pressed = |kind: &str, on: bool, stem: &str, yes: &str, no: &str| {
        let reason = if on { format!("KubeletHas{yes}") } else { format!("KubeletHas{no}") };
        let message = if on {
            format!("kubelet has {}", stem_words(yes, stem))
        } else {
            format!("kubelet has {}", stem_words(no, stem))
        };
        make(kind, on, &reason, message)
    };
    let mut not_ready = kubelet.runtime_info.load().not_ready.clone();
    not_ready.extend(kubelet.shutdown.is_under_way().then(|| "node is shutting down".to_string()));
    let ready = if not_ready.is_empty() {
        make("Ready", true, "KubeletReady", "kubelet is posting ready status".into())
    } else {
        let message = match not_ready.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        make("Ready", false, "KubeletNotReady", message)
    };
    vec![
        pressed(
            "MemoryPressure",
            pressure.memory,
            "memory available",
            "InsufficientMemory",
            "SufficientMemory",
        ),
        pressed("DiskPressure", pressure.disk, "disk", "DiskPressure", "NoDiskPressure"),
        pressed("PIDPressure", pressure.pid, "PID available", "InsufficientPID", "SufficientPID"),
        ready,
    ]
}

/// The words of a pressure condition's message.
fn stem_words(reason: &str, stem: &str) -> String {
    match reason {
        "NoDiskPressure" => "no disk pressure".into(),
        "DiskPressure" => "disk pressure".into(),
        r if r.starts_with("Insufficient") => format!("insufficient {stem}"),
        _ => format!("sufficient {stem}"),
    }
}

fn now() -> Time {
    crate::status::now()
}

async fn images(kubelet: &Kubelet) -> Vec<ContainerImage> {
    let mut list = kubelet.runtime.list_images(None).await.unwrap_or_default();
    list.sort_by(|a, b| b.size.cmp(&a.size).then(a.id.cmp(&b.id)));
    let most = usize::try_from(kubelet.config.node_status_max_images).unwrap_or(usize::MAX);
    list.into_iter()
        .take(most)
        .map(|image| ContainerImage {
            names: Some(image.repo_digests.into_iter().chain(image.repo_tags).take(5).collect()),
            size_bytes: i64::try_from(image.size).ok(),
        })
        .collect()
}

/// Whether two statuses say the same but for the time.
fn same(a: &NodeStatus, b: &NodeStatus) -> bool {
    let timeless = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    timeless(a) == timeless(b)
}

/// A strategic merge patch of the status. Addresses are replaced as a whole, since they may repeat their type.
fn patch(old: &NodeStatus, status: &NodeStatus, first: Option<&NodeStatus>) -> Value {
    let value = |s: &NodeStatus| serde_json::to_value(s).unwrap_or_default();
    let (before, mut after) = (value(first.unwrap_or(old)), value(status));
    if let Some(fields) = after.as_object_mut() {
        fields.retain(|key, v| key == "conditions" || before.get(key) != Some(v));
        if let Some(Value::Array(list)) = fields.get_mut("addresses") {
            list.insert(0, json!({"$patch": "replace"}));
        }
    }
    json!({"status": after})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(type_: &str, status: &str) -> NodeCondition {
        NodeCondition { type_: type_.into(), status: status.into(), ..Default::default() }
    }

    #[test]
    fn conditions_that_others_changed_are_noticed() {
        let reported = [condition("Ready", "True"), condition("DiskPressure", "False")];
        let with = |ready: &str| {
            [
                condition("NetworkUnavailable", "False"),
                condition("Ready", ready),
                condition("DiskPressure", "False"),
            ]
        };
        assert!(!overridden(&with("True"), &reported), "conditions of others do not matter");
        assert!(overridden(&with("Unknown"), &reported));
        assert!(overridden(&with("True")[..2], &reported), "one that is gone is reported again");
    }
}

//! What a cloud is to the controllers: machines, load balancers, routes. A provider is an implementation of these traits
//! and a row in [`REGISTRY`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{LoadBalancerStatus, Node, NodeAddress, Service};

/// What a cloud can answer instead of a result.
#[derive(Debug, thiserror::Error)]
#[allow(dead_code, reason = "some are answered by providers only, and none is compiled in yet")]
pub enum CloudError {
    /// Somebody else implements this for the object; nothing is to be done.
    #[error("implemented by alternate to cloud provider")]
    ImplementedElsewhere,
    /// Ask again after a while.
    #[error("{message}")]
    RetryAfter {
        /// Why.
        message: String,
        /// When.
        after: Duration,
    },
    /// Anything else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// A cloud's result.
pub type Result<T> = std::result::Result<T, CloudError>;

/// A cloud.
pub trait Provider: Send + Sync {
    /// Its name, as `--cloud-provider` takes it.
    fn name(&self) -> &str;
    /// Whether it knows which cluster's resources are which.
    fn has_cluster_id(&self) -> bool;
    /// Machines, if it has any.
    fn instances(&self) -> Option<Arc<dyn Instances>>;
    /// Load balancers, if it has any.
    fn load_balancers(&self) -> Option<Arc<dyn LoadBalancers>>;
    /// Routes, if it has any.
    fn routes(&self) -> Option<Arc<dyn Routes>>;
}

/// What a cloud knows of a node's machine.
#[derive(Clone, Debug, Default)]
pub struct InstanceMetadata {
    /// `<provider>://<id>`.
    pub provider_id: String,
    /// The machine's type.
    pub instance_type: String,
    /// Its addresses.
    pub addresses: Vec<NodeAddress>,
    /// The failure domain that it is in.
    pub zone: String,
    /// The region that it is in.
    pub region: String,
    /// Further labels for the node.
    pub additional_labels: BTreeMap<String, String>,
}

/// A cloud's machines.
#[async_trait]
pub trait Instances: Send + Sync {
    /// Whether the node's machine exists.
    async fn exists(&self, node: &Node) -> Result<bool>;
    /// Whether the node's machine is shut down.
    async fn is_shut_down(&self, node: &Node) -> Result<bool>;
    /// What the cloud knows of the node's machine.
    async fn metadata(&self, node: &Node) -> Result<InstanceMetadata>;
}

/// A cloud's load balancers.
#[async_trait]
pub trait LoadBalancers: Send + Sync {
    /// The service's load balancer, if there is one.
    async fn get(&self, cluster: &str, service: &Service) -> Result<Option<LoadBalancerStatus>>;
    /// Creates or updates the service's load balancer.
    async fn ensure(
        &self,
        cluster: &str,
        service: &Service,
        nodes: &[Arc<Node>],
    ) -> Result<LoadBalancerStatus>;
    /// Updates the nodes behind the service's load balancer.
    async fn update(&self, cluster: &str, service: &Service, nodes: &[Arc<Node>]) -> Result<()>;
    /// Deletes the service's load balancer; that there is none is no error.
    async fn ensure_deleted(&self, cluster: &str, service: &Service) -> Result<()>;
}

/// A route to a node's pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The cloud's name of it.
    pub name: String,
    /// The node it leads to.
    pub target_node: String,
    /// The pods' addresses.
    pub destination_cidr: String,
    /// Its machine is gone.
    pub blackhole: bool,
}

/// A cloud's routes.
#[async_trait]
pub trait Routes: Send + Sync {
    /// The cluster's routes.
    async fn list(&self, cluster: &str) -> Result<Vec<Route>>;
    /// Creates a route; `hint` may become part of its name.
    async fn create(&self, cluster: &str, hint: &str, route: &Route) -> Result<()>;
    /// Deletes a route.
    async fn delete(&self, cluster: &str, route: &Route) -> Result<()>;
}

/// Makes a provider of the text of `--cloud-config`.
pub type Factory = fn(config: Option<&str>) -> anyhow::Result<Arc<dyn Provider>>;

/// The providers that are compiled in.
pub const REGISTRY: &[(&str, Factory)] = &[];

/// The provider of a name.
pub fn open(name: &str, config_file: Option<&str>) -> anyhow::Result<Arc<dyn Provider>> {
    if name.is_empty() {
        bail!("--cloud-provider cannot be empty");
    }
    let Some((_, factory)) = REGISTRY.iter().find(|(n, _)| *n == name) else {
        let known: Vec<&str> = REGISTRY.iter().map(|(n, _)| *n).collect();
        bail!(
            "cloud provider could not be initialized: unknown cloud provider {name:?} (known: [{}])",
            known.join(", ")
        );
    };
    let config = match config_file {
        Some(path) => Some(component::config::read(path)?),
        None => None,
    };
    factory(config.as_deref())
}

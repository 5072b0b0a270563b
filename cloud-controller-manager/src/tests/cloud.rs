//! A cloud in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Node, NodeAddress, Service};
use parking_lot::Mutex;

use crate::provider::{InstanceMetadata, Instances, LoadBalancers, Provider, Result, Route, Routes};

#[derive(Default)]
struct State {
    /// Machine to whether it is shut down.
    machines: BTreeMap<String, bool>,
    balancers: BTreeMap<String, LoadBalancerStatus>,
    routes: Vec<Route>,
}

#[derive(Clone, Default)]
pub struct Cloud(Arc<Mutex<State>>);

impl Cloud {
    pub fn provider(&self) -> Arc<dyn Provider> {
        Arc::new(self.clone())
    }
    pub fn add_machine(&self, name: &str) {
        self.0.lock().machines.insert(name.into(), false);
    }
    pub fn shut_down(&self, name: &str) {
        self.0.lock().machines.insert(name.into(), true);
    }
    pub fn remove_machine(&self, name: &str) {
        self.0.lock().machines.remove(name);
    }
    pub fn balancers(&self) -> usize {
        self.0.lock().balancers.len()
    }
    pub fn routes(&self) -> Vec<String> {
        self.0.lock().routes.iter().map(|r| format!("{} {}", r.target_node, r.destination_cidr)).collect()
    }
}

impl Provider for Cloud {
    fn name(&self) -> &str {
        "fake"
    }
    fn has_cluster_id(&self) -> bool {
        true
    }
    fn instances(&self) -> Option<Arc<dyn Instances>> {
        Some(Arc::new(self.clone()))
    }
    fn load_balancers(&self) -> Option<Arc<dyn LoadBalancers>> {
        Some(Arc::new(self.clone()))
    }
    fn routes(&self) -> Option<Arc<dyn Routes>> {
        Some(Arc::new(self.clone()))
    }
}

fn machine(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap()
}

#[async_trait]
impl Instances for Cloud {
    async fn exists(&self, node: &Node) -> Result<bool> {
        Ok(self.0.lock().machines.contains_key(machine(node)))
    }
    async fn is_shut_down(&self, node: &Node) -> Result<bool> {
        Ok(self.0.lock().machines.get(machine(node)) == Some(&true))
    }
    async fn metadata(&self, node: &Node) -> Result<InstanceMetadata> {
        if !self.exists(node).await? {
            return Err(anyhow::anyhow!("instance not found").into());
        }
        Ok(InstanceMetadata {
            provider_id: format!("fake://{}", machine(node)),
            instance_type: "small".into(),
            addresses: vec![NodeAddress { type_: "InternalIP".into(), address: "10.0.0.1".into() }],
            zone: "z1".into(),
            region: "r1".into(),
            ..InstanceMetadata::default()
        })
    }
}

fn uid(service: &Service) -> String {
    service.metadata.uid.clone().unwrap()
}

#[async_trait]
impl LoadBalancers for Cloud {
    async fn get(&self, _: &str, service: &Service) -> Result<Option<LoadBalancerStatus>> {
        Ok(self.0.lock().balancers.get(&uid(service)).cloned())
    }
    async fn ensure(&self, _: &str, service: &Service, _: &[Arc<Node>]) -> Result<LoadBalancerStatus> {
        let ingress = LoadBalancerIngress { ip: Some("192.0.2.1".into()), ..LoadBalancerIngress::default() };
        let status = LoadBalancerStatus { ingress: Some(vec![ingress]) };
        self.0.lock().balancers.insert(uid(service), status.clone());
        Ok(status)
    }
    async fn update(&self, _: &str, _: &Service, _: &[Arc<Node>]) -> Result<()> {
        Ok(())
    }
    async fn ensure_deleted(&self, _: &str, service: &Service) -> Result<()> {
        self.0.lock().balancers.remove(&uid(service));
        Ok(())
    }
}

#[async_trait]
impl Routes for Cloud {
    async fn list(&self, _: &str) -> Result<Vec<Route>> {
        Ok(self.0.lock().routes.clone())
    }
    async fn create(&self, _: &str, _: &str, route: &Route) -> Result<()> {
        self.0.lock().routes.push(route.clone());
        Ok(())
    }
    async fn delete(&self, _: &str, route: &Route) -> Result<()> {
        self.0.lock().routes.retain(|r| r != route);
        Ok(())
    }
}

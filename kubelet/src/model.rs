//! What the runtime says of a pod: its sandboxes and containers, newest first.

use std::time::{Duration, SystemTime};

use cri::v1;
use volumes::field::Downward;

use crate::kubelet::Kubelet;
use crate::labels::{self, Marks};

/// The state of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Created,
    Running,
    Exited,
    Unknown,
}

impl State {
    fn from_cri(state: i32) -> Self {
        match v1::ContainerState::try_from(state) {
            Ok(v1::ContainerState::ContainerCreated) => Self::Created,
            Ok(v1::ContainerState::ContainerRunning) => Self::Running,
            Ok(v1::ContainerState::ContainerExited) => Self::Exited,
            _ => Self::Unknown,
        }
    }
}

/// A sandbox of a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    pub id: String,
    pub ready: bool,
    pub attempt: u32,
    pub created_at: i64,
    pub host_network: bool,
    pub ips: Vec<String>,
}

/// A container of a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub sandbox_id: String,
    pub state: State,
    pub created_at: i64,
    pub started_at: i64,
    pub finished_at: i64,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    pub image: String,
    pub image_ref: String,
    pub log_path: String,
    pub marks: Marks,
    pub resources: Option<v1::LinuxContainerResources>,
    pub user: Option<v1::LinuxContainerUser>,
    pub stop_signal: i32,
}

impl Container {
    /// When it ended.
    pub fn finished(&self) -> SystemTime {
        time(self.finished_at)
    }
}

/// A time of the runtime, in nanoseconds since the epoch.
pub fn time(nanos: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

/// A pod as the runtime sees it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodState {
    /// Newest first.
    pub sandboxes: Vec<Sandbox>,
    /// Newest first.
    pub containers: Vec<Container>,
}

impl PodState {
    /// The newest container of a name.
    pub fn find(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The addresses of the pod, from its newest sandbox.
    pub fn ips(&self) -> &[String] {
        self.sandboxes.first().map_or(&[], |s| &s.ips)
    }

    /// All containers that may be running.
    pub fn running(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|c| matches!(c.state, State::Running | State::Unknown))
    }

    /// Reads a sandbox that was just made.
    pub async fn add_sandbox(&mut self, runtime: &cri::Runtime, id: &str) -> cri::Result<()> {
        self.sandboxes.extend(runtime.pod_sandbox_status(id, false).await?.status.map(sandbox));
        self.sort();
        Ok(())
    }

    /// Reads a container that was just started.
    pub async fn add_container(
        &mut self,
        runtime: &cri::Runtime,
        id: &str,
        sandbox_id: &str,
    ) -> cri::Result<()> {
        self.containers.extend(container(runtime, id, sandbox_id).await?);
        self.sort();
        Ok(())
    }

    fn sort(&mut self) {
        self.sandboxes.sort_by_key(|s| std::cmp::Reverse(s.created_at));
        self.containers.sort_by_key(|c| std::cmp::Reverse(c.created_at));
    }

    /// Nothing of it runs any more.
    pub fn is_stopped(&self) -> bool {
        self.running().next().is_none() && !self.sandboxes.iter().any(|s| s.ready)
    }
}

/// Reads a pod from the runtime. What `before` knows of things that cannot have changed is not asked again.
pub async fn fetch(kubelet: &Kubelet, uid: &str, before: &PodState) -> cri::Result<PodState> {
    let runtime = &kubelet.runtime;
    let listing = kubelet.listing.fresh().await?;
    let mut state = PodState::default();
    for listed in listing.sandboxes_of(uid) {
        let ready = listed.state == v1::PodSandboxState::SandboxReady as i32;
        let known = before.sandboxes.iter().find(|s| s.id == listed.id && s.ready == ready);
        match known.filter(|s| !ready || s.host_network || !s.ips.is_empty()) {
            Some(known) => state.sandboxes.push(known.clone()),
            None => match runtime.pod_sandbox_status(&listed.id, false).await {
                Ok(reply) => state.sandboxes.extend(reply.status.map(sandbox)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            },
        }
    }
    for listed in listing.containers_of(uid) {
        let now = State::from_cri(listed.state);
        let known = before.containers.iter().find(|c| c.id == listed.id && c.state == now);
        match known.filter(|c| matches!(c.state, State::Running | State::Exited)) {
            Some(known) => state.containers.push(known.clone()),
            None => match container(runtime, &listed.id, &listed.pod_sandbox_id).await {
                Ok(status) => state.containers.extend(status),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            },
        }
    }
    state.sort();
    Ok(state)
}

fn sandbox(status: v1::PodSandboxStatus) -> Sandbox {
    let namespaces = status.linux.and_then(|l| l.namespaces).and_then(|n| n.options);
    let network = status.network.unwrap_or_default();
    let first = (!network.ip.is_empty()).then_some(network.ip);
    Sandbox {
        ready: status.state == v1::PodSandboxState::SandboxReady as i32,
        attempt: status.metadata.map_or(0, |m| m.attempt),
        created_at: status.created_at,
        host_network: namespaces.is_some_and(|n| n.network == v1::NamespaceMode::Node as i32),
        ips: first.into_iter().chain(network.additional_ips.into_iter().map(|ip| ip.ip)).collect(),
        id: status.id,
    }
}

async fn container(runtime: &cri::Runtime, id: &str, sandbox_id: &str) -> cri::Result<Option<Container>> {
    let Some(status) = runtime.container_status(id, false).await?.status else { return Ok(None) };
    let marks = labels::marks(&status.annotations);
    let state = State::from_cri(status.state);
    let mut message = status.message.clone();
    if state == State::Exited {
        let own = crate::termination::message(&status, &marks).await;
        // The program's last words come after what the runtime has to say.
        message =
            if message.is_empty() || own.is_empty() { message + &own } else { format!("{message}: {own}") };
    }
    let name = status.labels.get(labels::CONTAINER_NAME).cloned();
    Ok(Some(Container {
        name: name.unwrap_or_else(|| status.metadata.map(|m| m.name).unwrap_or_default()),
        sandbox_id: sandbox_id.into(),
        state,
        created_at: status.created_at,
        started_at: status.started_at,
        finished_at: status.finished_at,
        exit_code: status.exit_code,
        reason: status.reason,
        message,
        image: status
            .image
            .map(|i| if i.user_specified_image.is_empty() { i.image } else { i.user_specified_image })
            .unwrap_or_default(),
        image_ref: status.image_ref,
        log_path: status.log_path,
        marks,
        resources: status.resources.and_then(|r| r.linux),
        user: status.user.and_then(|u| u.linux),
        stop_signal: status.stop_signal,
        id: status.id,
    }))
}

/// The downward API's values of a running pod.
pub fn downward(node: &Downward, ips: &[String]) -> Downward {
    Downward { pod_ips: ips.to_vec(), ..node.clone() }
}

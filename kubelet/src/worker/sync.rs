//! One look at a pod, and what follows from it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};

use super::{Desired, Outcome, Worker};
use crate::actions::{self, Actions};
use crate::kill::{self, Order};
use crate::model::State;
use crate::pod::{self, Kind, PodExt};
use crate::status::restart;
use crate::{container, sandbox};

/// How long a resize that failed waits for its next try.
const RETRY_RESIZE: Duration = Duration::from_secs(5);

impl Worker {
    /// Looks at the pod and does what is to be done.
    pub(super) async fn sync(&mut self, desired: &Desired) -> Result<Outcome, String> {
        let kubelet = self.kubelet.clone();
        let pod = desired.pod.clone();
        self.refresh().await?;
        self.note_resize(&pod);
        let status = self.publish(desired, false, None);
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return Ok(Outcome::Over);
        }
        self.mirror(desired);
        let actions = self.plan(&pod, &status);
        let network = kubelet.runtime_info.load().network_down.clone();
        if let Some(reason) = network
            && actions.create_sandbox
            && !pod.host_network()
        {
            let message = format!("network is not ready: {reason}");
            kubelet.events.pod(&pod, "Warning", "NetworkNotReady", &message);
            return Ok(Outcome::Wait(Duration::from_secs(2)));
        }
        container::make_pod_dirs(&kubelet, &pod).map_err(|e| {
            let message = format!("error making pod data directories: {e}");
            kubelet.events.pod(&pod, "Warning", "Failed", &message);
            message
        })?;
        self.ensure_cgroup(&pod, &actions);
        let to_start = !(actions.main.is_empty() && actions.init.is_empty() && actions.ephemeral.is_empty());
        if let Some(wait) = self.set_up_volumes(desired, to_start || actions.create_sandbox).await
            && (to_start || actions.create_sandbox)
        {
            return Ok(Outcome::Wait(wait));
        }
        if self.is_interrupted() {
            return Ok(Outcome::Again);
        }
        if (to_start || actions.create_sandbox)
            && let Err(error) = crate::claims::prepare(&kubelet, &pod).await
        {
            let message = format!("Failed to prepare dynamic resources: {error}");
            kubelet.events.pod(&pod, "Warning", "FailedPrepareDynamicResources", &message);
            return Err(message);
        }
        self.perform(desired, actions).await
    }

    fn plan(&self, pod: &Pod, status: &PodStatus) -> Actions {
        let known = actions::Known {
            verdicts: &self.kubelet.prober,
            actuated: &self.kubelet.allocations.actuated(&self.uid),
            restart_all: restart::is_under_way(status),
        };
        actions::compute(pod, &self.state, &known)
    }

    /// Carries the actions out.
    async fn perform(&mut self, desired: &Desired, actions: Actions) -> Result<Outcome, String> {
        let kubelet = self.kubelet.clone();
        let pod = desired.pod.clone();
        let mut acted = false;
        if actions.kill_pod {
            if actions.create_sandbox && actions.sandbox_id.is_some() {
                let message = "Pod sandbox changed, it will be killed and re-created.";
                kubelet.events.pod(&pod, "Normal", "SandboxChanged", message);
            }
            if !self.state.is_stopped() {
                kill::pod(&kubelet, &pod, &self.state, None).await.map_err(|e| e.to_string())?;
                acted = true;
            }
            if actions.create_sandbox {
                self.purge_init_containers().await;
            } else {
                return Ok(if acted { Outcome::Again } else { Outcome::Wait(idle()) });
            }
        }
        if !actions.reset.is_empty() {
            return self.begin_anew(&pod, &actions).await;
        }
        for order in &actions.kill {
            if let Some(status) = self.state.containers.iter().find(|c| c.id == order.id) {
                let how = Order { message: order.message.clone(), cause: order.cause, grace: None };
                kill::container(&kubelet, &pod, status, &how).await.map_err(|e| e.to_string())?;
                acted = true;
            }
        }
        if acted {
            self.refresh().await?;
            self.note_resize(&pod);
            self.publish(desired, false, None);
        }
        let mut next = idle();
        if !actions.resize.is_empty() {
            match self.resize(&pod, &actions.resize).await {
                true => acted = true,
                false => next = RETRY_RESIZE,
            }
            self.refresh().await?;
            self.note_resize(&pod);
            self.publish(desired, false, None);
        }
        if !actions.kill.is_empty() || !actions.resize.is_empty() {
            kubelet.cgroups.ensure_pod(&pod, kubelet.config.pod_pids_limit);
        }
        let attempt = actions.attempt;
        let config = match sandbox::config(&kubelet, &pod, attempt) {
            Ok(config) => config,
            Err(error) => return Err(self.sandbox_failed(&pod, &error)),
        };
        let mut sandbox_id = actions.sandbox_id.clone().unwrap_or_default();
        if actions.create_sandbox {
            let handler = kubelet.pods.runtime_handler(&pod);
            let handler = handler.await.map_err(|error| self.sandbox_failed(&pod, &error))?;
            sandbox_id = match kubelet.runtime.run_pod_sandbox(config.clone(), &handler).await {
                Ok(id) => id,
                Err(error) => return Err(self.sandbox_failed(&pod, &error.to_string())),
            };
            self.refresh().await?;
            self.publish(desired, false, None);
            acted = true;
        }
        let starts = actions.ephemeral.iter().filter_map(|i| {
            let list = pod.spec().ephemeral_containers.as_ref()?;
            let spec = list.get(*i)?;
            Some((Kind::Ephemeral, pod::ephemeral(spec), spec.target_container_name.clone()))
        });
        let init = actions.init.iter().filter_map(|i| pod.init_containers().get(*i)).map(|c| {
            let kind = if pod::is_sidecar(c) { Kind::Sidecar } else { Kind::Init };
            (kind, c.clone(), None)
        });
        let main = actions
            .main
            .iter()
            .filter_map(|i| pod.spec().containers.get(*i))
            .map(|c| (Kind::Main, c.clone(), None));
        let plan: Vec<(Kind, Container, Option<String>)> = starts.chain(init).chain(main).collect();
        for (kind, spec, target) in plan {
            if self.is_interrupted() {
                return Ok(Outcome::Again);
            }
            if let Some(left) = self.back_off(&pod, kind, &spec) {
                next = next.min(left);
                self.publish(desired, false, None);
                continue;
            }
            match self.start(desired, kind, &spec, target.as_deref(), &sandbox_id, &config).await {
                Ok(()) => {
                    acted = true;
                    self.waiting.remove(&spec.name);
                    self.drop_older_runs(&spec.name).await;
                    self.refresh().await?;
                    self.publish(desired, false, None);
                }
                Err(waiting) => {
                    tracing::info!(
                        pod = pod.formatted(),
                        container = spec.name,
                        reason = waiting.reason,
                        message = waiting.message,
                        "Container start failed"
                    );
                    self.waiting.insert(spec.name.clone(), waiting);
                    self.refresh().await?;
                    self.publish(desired, false, None);
                    let retry = kubelet.images.retry_in(&pod, &spec).unwrap_or(Duration::from_secs(10));
                    next = next.min(retry.max(Duration::from_millis(500)));
                    if kind == Kind::Init {
                        break;
                    }
                }
            }
        }
        Ok(if acted && next == idle() { Outcome::Again } else { Outcome::Wait(next) })
    }

    /// Sees to the pod's cgroup. While containers are resized it must not be narrowed before them.
    fn ensure_cgroup(&self, pod: &Pod, actions: &Actions) {
        let kubelet = &self.kubelet;
        let resizing = !actions.resize.is_empty() || !actions.kill.is_empty();
        if !resizing || !kubelet.cgroups.has_pod(pod) {
            kubelet.cgroups.ensure_pod(pod, kubelet.config.pod_pids_limit);
            kubelet.allocations.set_pod_actuated(pod);
        }
    }

    /// Removes all containers at once, so that all begin anew.
    async fn begin_anew(&mut self, pod: &Pod, actions: &Actions) -> Result<Outcome, String> {
        for (id, kill) in &actions.reset {
            let status = self.state.containers.iter().find(|c| c.id == *id);
            if let Some(status) = status.filter(|_| *kill) {
                let how = Order { message: "killing".into(), cause: actions::Cause::Other, grace: Some(0) };
                kill::container(&self.kubelet, pod, status, &how).await.map_err(|e| e.to_string())?;
            }
            self.kubelet.runtime.remove_container(id).await.map_err(|e| e.to_string())?;
        }
        self.waiting.clear();
        Ok(Outcome::Again)
    }

    fn sandbox_failed(&self, pod: &Pod, error: &str) -> String {
        let message = format!("Failed to create pod sandbox: {error}");
        self.kubelet.events.pod(pod, "Warning", "FailedCreatePodSandBox", &message);
        message
    }

    /// Keeps the last run of a container for its log, and removes those before.
    async fn drop_older_runs(&self, name: &str) {
        let ended = self.state.containers.iter().filter(|c| c.name == name && c.state == State::Exited);
        for old in ended.skip(1) {
            crate::gc::remove(&self.kubelet, &old.id).await;
        }
    }

    /// Removes what is left of init containers of a sandbox that is replaced, so that they run again.
    async fn purge_init_containers(&mut self) {
        let desired = self.desired.borrow().pod.clone();
        let names: Vec<&str> = desired.init_containers().iter().map(|c| c.name.as_str()).collect();
        for container in self.state.containers.iter().filter(|c| names.contains(&c.name.as_str())) {
            let _ = self.kubelet.runtime.remove_container(&container.id).await;
        }
    }
}

/// How long a pod sleeps when nothing is expected to happen: spread, so that pods do not wake together.
fn idle() -> Duration {
    Duration::from_secs(90)
}

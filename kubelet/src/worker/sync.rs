//! One look at a pod, and what follows from it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};

use super::{Desired, Outcome, Worker};
use crate::actions::{self, Actions};
use crate::images::Waiting;
use crate::kill::{self, Order};
use crate::model::State;
use crate::pod::{self, Kind, PodExt};
use crate::status::restart;
use crate::{container, sandbox};

/// How long a resize that failed waits for its next try.
const RETRY_RESIZE: Duration = Duration::from_secs(5);
/// How long after a failed pull the pod says that it waits for the next.
const TELL_OF_WAITING: Duration = Duration::from_secs(3);

impl Worker {
    /// Looks at the pod and does what is to be done.
    pub(super) async fn sync(&mut self, desired: &Desired) -> Result<Outcome, String> {
        let kubelet = self.kubelet.clone();
        let pod = desired.pod.clone();
        self.refresh().await.inspect_err(|error| {
            kubelet.events.pod(&pod, "Warning", "FailedSync", error);
        })?;
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
        self.ensure_cgroup(&pod, &actions).map_err(|error| {
            let message = format!("unable to ensure pod container exists: {error}");
            kubelet.events.pod(&pod, "Warning", "FailedCreatePodContainer", &message);
            format!(
                "failed to ensure that the pod: {} cgroups exist and are correctly applied: {error}",
                pod.uid()
            )
        })?;
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
        if actions.kill_pod {
            let acted = self.kill_all(&pod, &actions).await?;
            if !actions.create_sandbox {
                return Ok(if acted { Outcome::Again } else { Outcome::Wait(idle()) });
            }
        }
        if !actions.reset.is_empty() {
            return self.begin_anew(&pod, &actions).await;
        }
        let (mut acted, mut next) = self.change_running(desired, &actions).await?;
        let plan = starts(&pod, &actions);
        if !actions.create_sandbox && plan.is_empty() {
            return Ok(if acted && next == idle() { Outcome::Again } else { Outcome::Wait(next) });
        }
        let config = sandbox::config(&kubelet, &pod, actions.attempt);
        let config = config.map_err(|error| self.sandbox_failed(&pod, &error))?;
        let mut sandbox_id = actions.sandbox_id.clone().unwrap_or_default();
        if actions.create_sandbox {
            let handler = kubelet.pods.runtime_handler(&pod).await;
            let handler = handler.map_err(|error| self.sandbox_failed(&pod, &error))?;
            let own_users = pod.spec().host_users == Some(false);
            if own_users {
                let able = kubelet.runtime_info.load().user_namespaces(&handler);
                able.map_err(|error| {
                    crate::metrics::pods::user_namespaced(false);
                    self.sandbox_failed(&pod, &error)
                })?;
            }
            let made = kubelet.runtime.run_pod_sandbox(config.clone(), &handler).await;
            if own_users {
                crate::metrics::pods::user_namespaced(made.is_ok());
            }
            sandbox_id = made.map_err(|error| self.sandbox_failed(&pod, &error.to_string()))?;
            let read = self.state.add_sandbox(&kubelet.runtime, &sandbox_id).await;
            read.map_err(|error| {
                let message = format!("Unable to get pod sandbox status: {error}");
                kubelet.events.pod(&pod, "Warning", "FailedPodSandBoxStatus", &message);
                message
            })?;
            self.name_runtime().await;
            self.publish(desired, false, None);
            acted = true;
        }
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
                Ok(id) => {
                    acted = true;
                    self.waiting.remove(&spec.name);
                    self.drop_older_runs(&spec.name).await;
                    self.look_at(&id, &sandbox_id).await?;
                    self.publish(desired, false, None);
                }
                Err(waiting) => {
                    crate::metrics::pods::failed(kind, waiting.reason);
                    let retry = self.start_failed(desired, &spec, waiting).await?;
                    next = next.min(retry);
                    if kind == Kind::Init {
                        break;
                    }
                }
            }
        }
        Ok(if acted && next == idle() { Outcome::Again } else { Outcome::Wait(next) })
    }

    /// Ends everything that runs, because the sandbox has to go. Returns whether anything did.
    async fn kill_all(&mut self, pod: &Pod, actions: &Actions) -> Result<bool, String> {
        if actions.create_sandbox && actions.sandbox_id.is_some() {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.kubelet.events.pod(pod, "Normal", "SandboxChanged", message);
        }
        let acted = !self.state.is_stopped();
        if acted || !self.state.sandboxes.is_empty() {
            kill::pod(&self.kubelet, pod, &self.state, None).await.map_err(|e| e.to_string())?;
        }
        if actions.create_sandbox {
            self.purge_init_containers().await;
        }
        Ok(acted)
    }

    /// Kills and resizes single containers. Returns whether anything was done, and when to look again.
    async fn change_running(
        &mut self,
        desired: &Desired,
        actions: &Actions,
    ) -> Result<(bool, Duration), String> {
        let pod = desired.pod.clone();
        let (mut acted, mut next) = (false, idle());
        for order in &actions.kill {
            if let Some(status) = self.state.containers.iter().find(|c| c.id == order.id) {
                let how = Order { message: order.message.clone(), cause: order.cause, grace: None };
                kill::container(&self.kubelet, &pod, status, &how).await.map_err(|e| e.to_string())?;
                acted = true;
            }
        }
        if !actions.resize.is_empty() {
            match self.resize(&pod, &actions.resize).await {
                true => acted = true,
                false => next = RETRY_RESIZE,
            }
        }
        if acted || !actions.resize.is_empty() {
            self.refresh().await?;
            self.note_resize(&pod);
            // One that was killed to be started again has not ended, whatever its exit code.
            if actions.kill.is_empty() {
                self.publish(desired, false, None);
            }
            self.kubelet.cgroups.ensure_pod(&pod, self.kubelet.config.pod_pids_limit)?;
        }
        Ok((acted, next))
    }

    /// Notes why a container could not be started. Returns when to try again.
    async fn start_failed(
        &mut self,
        desired: &Desired,
        spec: &Container,
        waiting: Waiting,
    ) -> Result<Duration, String> {
        let (reason, message) = (waiting.reason, &waiting.message);
        let pod = desired.pod.formatted();
        tracing::info!(pod, container = spec.name, reason, message, "Container start failed");
        self.waiting.insert(spec.name.clone(), waiting);
        self.refresh().await?;
        self.publish(desired, false, None);
        // A pull that failed is soon looked at again, to say that it is being waited for.
        if matches!(reason, "ErrImagePull" | "RegistryUnavailable" | "SignatureValidationFailed") {
            return Ok(TELL_OF_WAITING);
        }
        let retry = self.kubelet.images.retry_in(&desired.pod, spec).unwrap_or(Duration::from_secs(10));
        Ok(retry.max(Duration::from_millis(500)))
    }

    /// Sees to the pod's cgroup. While containers are resized it must not be narrowed before them.
    fn ensure_cgroup(&self, pod: &Pod, actions: &Actions) -> Result<(), String> {
        let kubelet = &self.kubelet;
        let resizing = !actions.resize.is_empty() || !actions.kill.is_empty();
        if !resizing || !kubelet.cgroups.has_pod(pod) {
            kubelet.cgroups.ensure_pod(pod, kubelet.config.pod_pids_limit)?;
            kubelet.allocations.set_pod_actuated(pod);
        }
        Ok(())
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
    async fn drop_older_runs(&mut self, name: &str) {
        let ended = self.state.containers.iter().filter(|c| c.name == name && c.state == State::Exited);
        let older: Vec<String> = ended.skip(1).map(|c| c.id.clone()).collect();
        for id in &older {
            crate::gc::remove(&self.kubelet, id).await;
        }
        self.state.containers.retain(|c| !older.contains(&c.id));
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

/// The containers to start, in their order: with their kind, and the container whose processes an ephemeral one sees.
fn starts(pod: &Pod, actions: &Actions) -> Vec<(Kind, Container, Option<String>)> {
    let ephemeral = actions.ephemeral.iter().filter_map(|i| {
        let spec = pod.spec().ephemeral_containers.as_ref()?.get(*i)?;
        Some((Kind::Ephemeral, pod::ephemeral(spec), spec.target_container_name.clone()))
    });
    let init = actions.init.iter().filter_map(|i| pod.init_containers().get(*i)).map(|c| {
        let kind = if pod::is_sidecar(c) { Kind::Sidecar } else { Kind::Init };
        (kind, c.clone(), None)
    });
    let main = actions.main.iter().filter_map(|i| pod.spec().containers.get(*i));
    ephemeral.chain(init).chain(main.map(|c| (Kind::Main, c.clone(), None))).collect()
}

//! The start of a container: image, back-off, creation, postStart hook.

use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{Desired, Worker};
use crate::actions;
use crate::backoff::go_duration;
use crate::container::{self, Make};
use crate::images::Waiting;
use crate::kill::{self, Order};
use crate::model::State;
use crate::pod::{Kind, PodExt};
use crate::{hooks, sandbox};

impl Worker {
    /// If the container ended too shortly ago: notes that it waits, and returns how long.
    pub(super) fn back_off(&mut self, pod: &Pod, kind: Kind, spec: &Container) -> Option<Duration> {
        let last = self.state.containers.iter().find(|c| c.name == spec.name && c.state == State::Exited)?;
        let key = format!("{}_{}_{:x}", pod.uid(), spec.name, crate::labels::hash(spec));
        let now = SystemTime::now();
        let backoff = &self.kubelet.crash_backoff;
        if let Some(left) = backoff.remaining(&key, last.finished(), now) {
            let message =
                format!("Back-off restarting failed container {} in pod {}", spec.name, pod.formatted());
            self.kubelet.events.container(pod, kind, &spec.name, "Warning", "BackOff", &message);
            let delay = go_duration(backoff.delay(&key));
            let text =
                format!("back-off {delay} restarting failed container={} pod={}", spec.name, pod.formatted());
            self.waiting.insert(spec.name.clone(), Waiting::new("CrashLoopBackOff", text));
            return Some(left + Duration::from_millis(20));
        }
        backoff.next(&key, last.finished(), now);
        None
    }

    /// Starts one container. Returns its id.
    pub(super) async fn start(
        &mut self,
        desired: &Desired,
        kind: Kind,
        spec: &Container,
        target: Option<&str>,
        sandbox_id: &str,
        sandbox_config: &cri::v1::PodSandboxConfig,
    ) -> Result<String, Waiting> {
        let kubelet = self.kubelet.clone();
        let pod = desired.pod.clone();
        let event = |what: &str, reason: &str, message: &str| {
            kubelet.events.container(&pod, kind, &spec.name, what, reason, message);
        };
        let handler = kubelet.pods.runtime_handler(&pod).await.unwrap_or_default();
        let mut interrupt = self.desired.clone();
        let began = std::time::Instant::now();
        crate::metrics::pods::starting(kind);
        let image = tokio::select! {
            image = kubelet.images.ensure(&pod, kind, spec, kubelet.objects(), sandbox_config, &handler) => image,
            _ = interrupt.wait_for(Desired::must_end) => Err(Waiting::new("ContainerCreating", "")),
        };
        self.on_images += began.elapsed();
        let image =
            image.inspect_err(|waiting| event("Warning", "Failed", &format!("Error: {}", waiting.reason)))?;
        let restart_count = match self.state.find(&spec.name) {
            Some(last) => last.marks.restart_count + 1,
            None => container::restart_count_from_logs(&sandbox::log_dir(&kubelet, &pod).join(&spec.name)),
        };
        let failed = |reason: &'static str, message: String| {
            event("Warning", "Failed", &format!("Error: {message}"));
            Waiting::new(reason, message)
        };
        let target_id = match target.filter(|t| !t.is_empty()) {
            None => None,
            Some(name) => match self.state.find(name) {
                Some(found) => Some(found.id.clone()),
                None => {
                    let message = format!("unable to find target container {name}");
                    return Err(failed("CreateContainerConfigError", message));
                }
            },
        };
        let make = Make {
            pod: &pod,
            container: spec,
            restart_count,
            image: &image,
            ips: &self.ips(&pod),
            volumes: &self.volumes,
            target_id: target_id.as_deref(),
        };
        let config = container::config(&kubelet, &make).await;
        let config = config.map_err(|message| failed("CreateContainerConfigError", message))?;
        let log = sandbox::log_dir(&kubelet, &pod).join(&config.log_path);
        // Noted first: a container of which nothing is noted would be taken for one that has what its spec says.
        let resources = spec.resources.clone().unwrap_or_default();
        kubelet.allocations.set_actuated(&self.uid, &spec.name, &resources);
        let created = kubelet.runtime.create_container(sandbox_id, config, sandbox_config.clone()).await;
        if !image.volumes.is_empty() {
            crate::metrics::pods::image_volumes(image.volumes.len(), created.is_ok());
        }
        let id = created.map_err(|error| {
            let mounts = !image.volumes.is_empty();
            let lacking = kubelet.runtime_info.load().lacks_image_volumes().filter(|_| mounts);
            let message = match lacking {
                Some(why) => format!("{} ({why})", error.message),
                None => error.message,
            };
            failed("CreateContainerError", message)
        })?;
        event("Normal", "Created", "Container created");
        let started = kubelet.runtime.start_container(&id).await;
        started.map_err(|error| failed("RunContainerError", error.message))?;
        event("Normal", "Started", "Container started");
        kubelet.relist.notify_one();
        let link = container::legacy_log_link(&pod, &spec.name, &id);
        if let Err(error) = std::os::unix::fs::symlink(&log, &link) {
            tracing::debug!(link = %link.display(), %error, "Failed to create legacy log link");
        }
        self.post_start(&pod, kind, spec, &id).await?;
        Ok(id)
    }

    /// Runs the postStart hook; a container whose hook fails is killed.
    async fn post_start(&mut self, pod: &Pod, kind: Kind, spec: &Container, id: &str) -> Result<(), Waiting> {
        let Some(hook) = spec.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return Ok(()) };
        let kubelet = self.kubelet.clone();
        let ips = self.ips(pod);
        let mut interrupt = self.desired.clone();
        let tell = |reason: &str, message: &str| kubelet.events.pod(pod, "Warning", reason, message);
        let ip = ips.first().map(String::as_str);
        let result = tokio::select! {
            result = hooks::run(&kubelet.runtime, pod, spec, id, ip, hook, &tell) => result,
            _ = interrupt.wait_for(Desired::must_end) => return Ok(()),
        };
        let Err(message) = result else { return Ok(()) };
        tracing::warn!(
            pod = pod.formatted(),
            container = spec.name,
            message,
            "Failed to execute PostStartHook"
        );
        kubelet.events.container(
            pod,
            kind,
            &spec.name,
            "Warning",
            "FailedPostStartHook",
            "PostStartHook failed",
        );
        if self.refresh().await.is_ok()
            && let Some(status) = self.state.containers.iter().find(|c| c.id == id)
        {
            let order =
                Order { message: "FailedPostStartHook".into(), cause: actions::Cause::Other, grace: None };
            let _ = kill::container(&kubelet, pod, status, &order).await;
        }
        Err(Waiting::new("PostStartHookError", message))
    }
}

//! Asks the runtime how it is and what it can.

use std::sync::Arc;

use crate::kubelet::{Kubelet, RuntimeInfo};
use crate::pod::PodExt;

/// Brings [`Kubelet::runtime_info`] up to date; tells the node's reporter of a change.
pub async fn update(kubelet: &Kubelet) {
    let old = kubelet.runtime_info.load_full();
    let new = read(&kubelet.runtime, &old).await;
    if *old != new {
        let was = old.not_ready.clone();
        kubelet.runtime_info.store(Arc::new(new.clone()));
        if was != new.not_ready {
            tracing::info!(problems = new.not_ready.join(", "), "Runtime state changed");
            kubelet.relist.notify_one();
            // Some may have waited for just that.
            for desired in kubelet.pods.all() {
                kubelet.pods.wake(desired.pod.uid());
            }
        }
    }
}

async fn read(runtime: &cri::Runtime, old: &RuntimeInfo) -> RuntimeInfo {
    let mut info = RuntimeInfo { not_ready: Vec::new(), network_down: None, ..old.clone() };
    if info.name.is_empty() {
        match runtime.version().await {
            Ok(version) => {
                info.name = version.runtime_name;
                info.version = version.runtime_version;
            }
            Err(error) => {
                info.not_ready.push(format!("[container runtime is down, {error}]"));
                return info;
            }
        }
    }
    match runtime.status(false).await {
        Err(error) => {
            // Another version may come back.
            info.name.clear();
            info.not_ready.push(format!("container runtime is down: {error}"));
        }
        Ok(reply) => {
            let handlers = reply.runtime_handlers.into_iter().map(|h| {
                let features = h.features.unwrap_or_default();
                (h.name, features.recursive_read_only_mounts, features.user_namespaces)
            });
            info.handlers = handlers.collect();
            info.supplemental_groups_policy = reply.features.is_some_and(|f| f.supplemental_groups_policy);
            for condition in reply.status.unwrap_or_default().conditions {
                if condition.status {
                    continue;
                }
                let said =
                    format!("{} reason:{} message:{}", condition.r#type, condition.reason, condition.message);
                if condition.r#type == "NetworkReady" {
                    let text = format!(
                        "container runtime network not ready: NetworkReady=false reason:{} message:{}",
                        condition.reason, condition.message
                    );
                    info.network_down = Some(text.clone());
                    info.not_ready.push(text);
                } else {
                    info.not_ready.push(format!("container runtime not ready: {said}"));
                }
            }
        }
    }
    info
}

//! Asks the runtime how it is and what it can.

use std::sync::Arc;

use cri::v1::RuntimeCondition;

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
            // Some runtimes list them in another order each time, which is no news.
            info.handlers.sort();
            info.supplemental_groups_policy = reply.features.map(|f| f.supplemental_groups_policy);
            info.user_namespaces_host_network =
                reply.features.is_some_and(|f| f.user_namespaces_host_network);
            judge(&reply.status.unwrap_or_default().conditions, &mut info);
        }
    }
    info
}

/// Takes over whether the runtime and its network are ready. What else a runtime tells is for people: containerd 2
/// has a condition of its own for deprecated settings, with which pods run well.
fn judge(conditions: &[RuntimeCondition], info: &mut RuntimeInfo) {
    let problem = |what: &str| match conditions.iter().find(|c| c.r#type == what) {
        None => Some(format!("{what} is not told")),
        Some(c) if c.status => None,
        Some(c) => Some(format!("{what}=false reason:{} message:{}", c.reason, c.message)),
    };
    if let Some(text) = problem("NetworkReady") {
        let text = format!("container runtime network not ready: {text}");
        info.network_down = Some(text.clone());
        info.not_ready.push(text);
    }
    if let Some(text) = problem("RuntimeReady") {
        info.not_ready.push(format!("container runtime not ready: {text}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_conditions_decide() {
        let condition = |(kind, status): (&str, bool)| RuntimeCondition {
            r#type: kind.into(),
            status,
            reason: "R".into(),
            message: "m".into(),
        };
        let deprecated = ("ContainerdHasNoDeprecationWarnings", false);
        let network = "container runtime network not ready: NetworkReady=false reason:R message:m";
        let runtime = "container runtime not ready: RuntimeReady=false reason:R message:m";
        let silent = "container runtime not ready: RuntimeReady is not told";
        for (told, expected) in [
            (vec![("RuntimeReady", true), ("NetworkReady", true)], vec![]),
            (vec![("RuntimeReady", true), ("NetworkReady", true), deprecated], vec![]),
            (vec![("RuntimeReady", true), ("NetworkReady", false)], vec![network]),
            (vec![("RuntimeReady", false), ("NetworkReady", true), deprecated], vec![runtime]),
            (vec![("NetworkReady", true)], vec![silent]),
        ] {
            let conditions: Vec<_> = told.iter().copied().map(condition).collect();
            let mut info = RuntimeInfo::default();
            judge(&conditions, &mut info);
            assert_eq!(info.not_ready, expected, "{told:?}");
            assert_eq!(info.network_down.is_some(), expected.contains(&network), "{told:?}");
        }
    }
}

//! What pods use, as the resource metrics API tells it, beside what they asked for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::quantity::Quantity;
use controller_kit::meta::MetaExt;
use controller_kit::{Key, errors, now, pod};
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;

use super::decide::Sample;
use super::{Controller, Subject};

impl Controller {
    /// A sample for each pod of the subject that counts.
    pub(super) async fn samples(
        &self,
        key: &Key,
        subject: &Subject,
        resource: &str,
        container: Option<&str>,
        needs_requests: bool,
    ) -> anyhow::Result<BTreeMap<String, Sample>> {
        let measured = self.measure(key, resource, container).await?;
        let matching = |p: &Arc<Pod>| subject.selector.matches(&p.metadata.labels);
        let mut samples = BTreeMap::new();
        for pod in self.pods.namespace(&key.namespace).into_iter().filter(matching) {
            if pod.deleting() || pod::phase(&pod) == "Failed" {
                continue;
            }
            let used = measured.get(pod.name()).copied();
            let request = request(&pod, resource, container);
            let request = if needs_requests {
                request.ok_or_else(|| anyhow::anyhow!("failed to get {resource} utilization: missing request for {resource} in container of Pod {}", pod.name()))?
            } else {
                request.unwrap_or(0)
            };
            let unready =
                pod::phase(&pod) == "Pending" || (resource == "cpu" && used.is_some() && self.starting(&pod));
            samples.insert(pod.name().to_owned(), Sample { used, request, unready });
        }
        anyhow::ensure!(
            !samples.is_empty(),
            "failed to get {resource} utilization: no pods returned by selector while calculating replica count"
        );
        Ok(samples)
    }

    /// A pod that has just started uses more than it will.
    fn starting(&self, pod: &Pod) -> bool {
        let settings = &self.ctx.settings.hpa;
        let start = pod.status.as_ref().and_then(|s| s.start_time.as_ref());
        let (Some(ready), Some(start)) = (pod::condition(pod, "Ready"), start) else { return true };
        let age = u64::try_from(now().duration_since(start.0).as_secs()).unwrap_or(0);
        if Duration::from_secs(age) < settings.cpu_initialization {
            return ready.status == "False";
        }
        let changed =
            ready.last_transition_time.as_ref().map_or(0, |t| t.0.duration_since(start.0).as_secs());
        ready.status == "False"
            && Duration::from_secs(u64::try_from(changed).unwrap_or(0)) < settings.initial_readiness
    }

    async fn measure(
        &self,
        key: &Key,
        resource: &str,
        container: Option<&str>,
    ) -> anyhow::Result<BTreeMap<String, i64>> {
        let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods", key.namespace);
        let request = http::Request::get(path).body(Vec::new())?;
        let list: PodMetricsList = self.ctx.client.request(request).await.map_err(|e| {
            anyhow::anyhow!("failed to get {resource} utilization: unable to get metrics for resource {resource}: unable to fetch metrics from resource metrics API: {}", errors::text(&e))
        })?;
        let mut measured = BTreeMap::new();
        for item in list.items {
            let parts = item.containers.iter().filter(|c| container.is_none_or(|name| c.name == name));
            let amounts: Option<Vec<i64>> = parts.map(|c| amount(c.usage.get(resource)?, resource)).collect();
            if let Some(amounts) = amounts.filter(|a| !a.is_empty()) {
                measured.insert(item.metadata.name, amounts.iter().sum());
            }
        }
        anyhow::ensure!(
            !measured.is_empty(),
            "failed to get {resource} utilization: unable to get metrics for resource {resource}: no metrics returned from resource metrics API"
        );
        Ok(measured)
    }
}

#[derive(Deserialize)]
struct PodMetricsList {
    #[serde(default)]
    items: Vec<PodMetrics>,
}
#[derive(Deserialize)]
struct PodMetrics {
    metadata: NameOnly,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}
#[derive(Deserialize)]
struct NameOnly {
    #[serde(default)]
    name: String,
}
#[derive(Deserialize)]
struct ContainerMetrics {
    #[serde(default)]
    name: String,
    #[serde(default)]
    usage: BTreeMap<String, String>,
}

/// CPU in thousandths, everything else in units.
pub(super) fn amount(text: &str, resource: &str) -> Option<i64> {
    let quantity = Quantity::parse(text).ok()?;
    Some(if resource == "cpu" { quantity.milli_value() } else { quantity.value() })
}

fn request(pod: &Pod, resource: &str, container: Option<&str>) -> Option<i64> {
    let spec = pod.spec.as_ref()?;
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let all = spec.containers.iter().chain(sidecars).filter(|c| container.is_none_or(|name| c.name == name));
    all.map(|c| amount(&c.resources.as_ref()?.requests.as_ref()?.get(resource)?.0, resource)).sum()
}

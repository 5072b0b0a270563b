//! horizontal-pod-autoscaler-controller: sizes workloads by the load that the resource metrics API reports.
//!
//! Metrics have no watch: each autoscaler is looked at every sync period, none when there is no autoscaler.

mod decide;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::quantity::{Format, Quantity};
use controller_kit::discovery;
use controller_kit::meta::MetaExt;
use controller_kit::{Context, Events, Key, Queue, Requeue, Shared, errors, now, now_time, pod, semantic};
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition,
    HorizontalPodAutoscalerSpec, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus,
    ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use kube::Api;
use kube::api::{DynamicObject, PostParams};
use kube::core::{Selector, SelectorExt};
use parking_lot::Mutex;
use serde::Deserialize;

use decide::{Bounds, History, Proposal, Sample, Target, Tolerance};

#[derive(Default)]
struct Memory {
    recommendations: Vec<(Instant, i32)>,
    added: Vec<(Instant, i32)>,
    removed: Vec<(Instant, i32)>,
}

impl Memory {
    fn history(&mut self) -> History {
        let hour = Duration::from_secs(3600);
        let ages = |list: &mut Vec<(Instant, i32)>| {
            list.retain(|(at, _)| at.elapsed() < hour);
            list.iter().map(|(at, n)| (at.elapsed(), *n)).collect()
        };
        History {
            recommendations: ages(&mut self.recommendations),
            added: ages(&mut self.added),
            removed: ages(&mut self.removed),
        }
    }
}

struct Controller {
    ctx: Context,
    events: Events,
    scalers: Arc<Shared<HorizontalPodAutoscaler>>,
    pods: Arc<Shared<Pod>>,
    memory: Mutex<HashMap<Key, Memory>>,
}

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let (scalers, pods) = (ctx.informer::<HorizontalPodAutoscaler>(), ctx.informer::<Pod>());
    scalers.synced().await;
    pods.synced().await;
    let q = queue.clone();
    scalers.watch(move |change| {
        let spec = |h: &HorizontalPodAutoscaler| h.spec.clone();
        if change.old().is_none_or(|old| spec(old) != spec(change.object())) {
            q.add(change.object().key());
        }
    });
    let workers = ctx.workers("horizontalpodautoscaling", "horizontal-pod-autoscaler", 5);
    let events = ctx.events("horizontal-pod-autoscaler");
    let controller = Controller { ctx, events, scalers, pods, memory: Mutex::default() };
    let c = &controller;
    workers.run(queue, |key| async move { c.reconcile(&key).await }).await;
    Ok(())
}

fn set(
    hpa: &mut HorizontalPodAutoscaler,
    kind: &str,
    status: &str,
    reason: &str,
    message: impl Into<String>,
) {
    let new = HorizontalPodAutoscalerCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: Some(now_time()),
    };
    let conditions = &mut hpa.status.get_or_insert_default().conditions;
    let list = conditions.get_or_insert_default();
    // Conditions keep their place.
    match list.iter_mut().find(|c| c.type_ == kind) {
        None => list.push(new),
        Some(old) => {
            let since = (old.status == new.status).then(|| old.last_transition_time.clone()).flatten();
            *old = HorizontalPodAutoscalerCondition {
                last_transition_time: since.or(new.last_transition_time),
                ..new
            };
        }
    }
}

/// The object that is scaled.
struct Subject {
    api: Api<DynamicObject>,
    scale: Scale,
    selector: Selector,
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> anyhow::Result<Requeue> {
        let Some(cached) = self.scalers.get(key) else {
            self.memory.lock().remove(key);
            return Ok(None);
        };
        let again = Some(self.ctx.settings.hpa.sync_period.max(Duration::from_secs(1)));
        let mut hpa = (*cached).clone();
        let spec = hpa.spec.clone();
        self.scale(key, &mut hpa, &spec).await;
        self.write(&cached, hpa).await?;
        Ok(again)
    }

    async fn write(
        &self,
        cached: &HorizontalPodAutoscaler,
        hpa: HorizontalPodAutoscaler,
    ) -> anyhow::Result<()> {
        if semantic::same(&cached.status, &hpa.status) {
            return Ok(());
        }
        let api: Api<HorizontalPodAutoscaler> = Api::namespaced(self.ctx.client.clone(), hpa.ns());
        match api.replace_status(hpa.name(), &PostParams::default(), &hpa).await {
            Err(error) if errors::conflict(&error) => Ok(()),
            other => {
                errors::optional(other)?;
                Ok(())
            }
        }
    }

    async fn scale(&self, key: &Key, hpa: &mut HorizontalPodAutoscaler, spec: &HorizontalPodAutoscalerSpec) {
        let subject = match self.subject(key, spec).await {
            Ok(subject) => subject,
            Err(error) => {
                let text = format!("{error:#}");
                self.events.warning(hpa, "FailedGetScale", &text);
                let text = format!("the HPA controller was unable to get the target's current scale: {text}");
                return set(hpa, "AbleToScale", "False", "FailedGetScale", text);
            }
        };
        set(
            hpa,
            "AbleToScale",
            "True",
            "SucceededGetScale",
            "the HPA controller was able to get the target's current scale",
        );
        let current = subject.scale.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        let min = spec.min_replicas.unwrap_or(1);
        hpa.status.get_or_insert_default().current_replicas = Some(current);
        let (wanted, reason) = if current == 0 && min != 0 {
            set(
                hpa,
                "ScalingActive",
                "False",
                "ScalingDisabled",
                "scaling is disabled since the replica count of the target is zero",
            );
            hpa.status.get_or_insert_default().desired_replicas = 0;
            return;
        } else if current > spec.max_replicas {
            (spec.max_replicas, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < min {
            (min, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            match self.by_metrics(key, hpa, spec, &subject, current, min).await {
                Some(decision) => decision,
                None => return,
            }
        };
        self.resize(key, hpa, subject, current, wanted, &reason).await;
    }

    async fn subject(&self, key: &Key, spec: &HorizontalPodAutoscalerSpec) -> anyhow::Result<Subject> {
        let target = &spec.scale_target_ref;
        let found = discovery::discover(&self.ctx.client).await?;
        let version = target.api_version.as_deref().unwrap_or("v1");
        let Some(resource) = found.by_kind(version, &target.kind) else {
            anyhow::bail!(
                "no matches for kind \"{}\" in group \"{}\"",
                target.kind,
                version.rsplit_once('/').map_or("", |(g, _)| g)
            );
        };
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.ctx.client.clone(), &key.namespace, &resource.dynamic());
        let scale: Scale =
            serde_json::from_value(serde_json::to_value(api.get_subresource("scale", &target.name).await?)?)?;
        let text = scale.status.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
        anyhow::ensure!(!text.is_empty(), "selector is required");
        let selector = parse_selector(&text)?;
        Ok(Subject { api, scale, selector })
    }

    /// The size that the metrics call for and why; `None` when nothing can be said or done.
    async fn by_metrics(
        &self,
        key: &Key,
        hpa: &mut HorizontalPodAutoscaler,
        spec: &HorizontalPodAutoscalerSpec,
        subject: &Subject,
        current: i32,
        min: i32,
    ) -> Option<(i32, String)> {
        let mut best: Option<(i32, String)> = None;
        let mut statuses = Vec::new();
        let mut failed = None;
        for metric in spec.metrics.iter().flatten() {
            match self.metric(key, spec, subject, metric, current).await {
                Ok((proposal, name, status)) => {
                    statuses.push(status);
                    if best.as_ref().is_none_or(|(n, _)| proposal.replicas > *n) {
                        best = Some((proposal.replicas, name));
                    }
                }
                Err(error) => failed = Some(error),
            }
        }
        hpa.status.get_or_insert_default().current_metrics = Some(statuses);
        if let Some(error) = &failed {
            let reason = "FailedGetResourceMetric";
            let text = format!("the HPA was unable to compute the replica count: {error:#}");
            self.events.warning(hpa, reason, format!("{error:#}"));
            // A metric that is missing never makes less of the others: it only forbids scaling down.
            if best.as_ref().is_none_or(|(n, _)| *n < current) {
                set(hpa, "ScalingActive", "False", reason, text);
                let text = format!(
                    "invalid metrics (1 invalid out of {}), first error is: {error:#}",
                    spec.metrics.iter().flatten().count()
                );
                self.events.warning(hpa, "FailedComputeMetricsReplicas", text);
                return None;
            }
        }
        let (proposed, metric) = best?;
        let text = format!("the HPA was able to successfully calculate a replica count from {metric}");
        set(hpa, "ScalingActive", "True", "ValidMetricFound", text);
        let reason = if proposed > current {
            format!("{metric} above target")
        } else {
            "All metrics below target".to_owned()
        };
        let mut all = self.memory.lock();
        let memory = all.entry(key.clone()).or_default();
        let history = memory.history();
        memory.recommendations.push((Instant::now(), proposed));
        drop(all);
        let behavior = spec.behavior.as_ref();
        let bounds = Bounds {
            current,
            min,
            max: spec.max_replicas,
            up: behavior.and_then(|b| b.scale_up.as_ref()),
            down: behavior.and_then(|b| b.scale_down.as_ref()),
            down_window: self.ctx.settings.hpa.downscale_stabilization,
        };
        let steady = decide::stabilize(proposed, &history, &bounds);
        if steady == proposed {
            set(hpa, "AbleToScale", "True", "ReadyForNewScale", "recommended size matches current size");
        } else if proposed < steady {
            set(
                hpa,
                "AbleToScale",
                "True",
                "ScaleDownStabilized",
                "recent recommendations were higher than current one, applying the highest recent recommendation",
            );
        } else {
            set(
                hpa,
                "AbleToScale",
                "True",
                "ScaleUpStabilized",
                "recent recommendations were lower than current one, applying the lowest recent recommendation",
            );
        }
        let (wanted, limited, why, text) = decide::normalize(steady, &history, &bounds);
        set(hpa, "ScalingLimited", if limited { "True" } else { "False" }, why, text);
        Some((wanted, reason))
    }

    async fn metric(
        &self,
        key: &Key,
        spec: &HorizontalPodAutoscalerSpec,
        subject: &Subject,
        metric: &MetricSpec,
        current: i32,
    ) -> anyhow::Result<(Proposal, String, MetricStatus)> {
        let (name, container, goal) = match (&metric.resource, &metric.container_resource) {
            (Some(r), _) => (r.name.clone(), None, &r.target),
            (_, Some(r)) => (r.name.clone(), Some(r.container.clone()), &r.target),
            _ => anyhow::bail!("metrics of type {} are not supported", metric.type_),
        };
        let target = target(goal, &name)?;
        let samples = self
            .samples(key, subject, &name, container.as_deref(), matches!(target, Target::Utilization(_)))
            .await?;
        let base = self.ctx.settings.hpa.tolerance;
        let own = |rules: Option<&k8s_openapi::api::autoscaling::v2::HPAScalingRules>| {
            let text = rules.and_then(|r| r.tolerance.as_ref());
            text.and_then(|q| Quantity::parse(&q.0).ok()).map_or(base, |q| q.as_f64())
        };
        let behavior = spec.behavior.as_ref();
        let tolerance = Tolerance(
            own(behavior.and_then(|b| b.scale_up.as_ref())),
            own(behavior.and_then(|b| b.scale_down.as_ref())),
        );
        let proposal = decide::propose(&samples, current, target, tolerance)
            .map_err(|e| anyhow::anyhow!("failed to get {name} utilization: {e}"))?;
        let average = if name == "cpu" {
            Quantity::from_milli(proposal.average, Format::DecimalSI)
        } else {
            Quantity::new(proposal.average, Format::BinarySI)
        };
        let value = MetricValueStatus {
            average_utilization: matches!(target, Target::Utilization(_)).then_some(proposal.utilization),
            average_value: Some(Text(average.to_string())),
            value: None,
        };
        let kind = if matches!(target, Target::Utilization(_)) {
            "resource utilization (percentage of request)"
        } else {
            "resource"
        };
        let label = match &container {
            None => format!("{name} {kind}"),
            Some(container) => format!("{name} container {kind} in {container}"),
        };
        let mut status = MetricStatus { type_: metric.type_.clone(), ..MetricStatus::default() };
        match container {
            None => status.resource = Some(ResourceMetricStatus { current: value, name }),
            Some(container) => {
                status.container_resource =
                    Some(ContainerResourceMetricStatus { container, current: value, name });
            }
        }
        Ok((proposal, label, status))
    }

    async fn samples(
        &self,
        key: &Key,
        subject: &Subject,
        resource: &str,
        container: Option<&str>,
        needs_requests: bool,
    ) -> anyhow::Result<BTreeMap<String, Sample>> {
        let measured = self.measure(key, resource, container).await?;
        let none = BTreeMap::new();
        let matching = |p: &Arc<Pod>| subject.selector.matches(p.metadata.labels.as_ref().unwrap_or(&none));
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

    async fn resize(
        &self,
        key: &Key,
        hpa: &mut HorizontalPodAutoscaler,
        subject: Subject,
        current: i32,
        wanted: i32,
        reason: &str,
    ) {
        hpa.status.get_or_insert_default().observed_generation = hpa.metadata.generation;
        hpa.status.get_or_insert_default().desired_replicas = wanted;
        if wanted == current {
            return;
        }
        let mut scale = subject.scale;
        scale.spec.get_or_insert_default().replicas = Some(wanted);
        let name = scale.name().to_owned();
        if let Err(error) = subject.api.replace_scale(&name, &PostParams::default(), &scale).await {
            let text = errors::text(&error);
            self.events.warning(
                hpa,
                "FailedRescale",
                format!("New size: {wanted}; reason: {reason}; error: {text}"),
            );
            let text = format!("the HPA controller was unable to update the target scale: {text}");
            return set(hpa, "AbleToScale", "False", "FailedUpdateScale", text);
        }
        let text = format!("the HPA controller was able to update the target scale to {wanted}");
        set(hpa, "AbleToScale", "True", "SucceededRescale", text);
        self.events.normal(hpa, "SuccessfulRescale", format!("New size: {wanted}; reason: {reason}"));
        hpa.status.get_or_insert_default().last_scale_time = Some(now_time());
        let mut all = self.memory.lock();
        let memory = all.entry(key.clone()).or_default();
        if wanted > current {
            memory.added.push((Instant::now(), wanted - current));
        } else {
            memory.removed.push((Instant::now(), current - wanted));
        }
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
fn amount(text: &str, resource: &str) -> Option<i64> {
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

fn target(goal: &MetricTarget, resource: &str) -> anyhow::Result<Target> {
    if let Some(percent) = goal.average_utilization {
        return Ok(Target::Utilization(percent));
    }
    let average = goal.average_value.as_ref().and_then(|q| amount(&q.0, resource));
    average.map(Target::Average).ok_or_else(|| anyhow::anyhow!("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set"))
}

/// Reads a selector in its text form, as a Scale has it.
fn parse_selector(text: &str) -> anyhow::Result<Selector> {
    use kube::core::Expression;
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    let list = |t: &str| {
        t.trim()
            .trim_start_matches('(')
            .trim_end_matches(')')
            .split(',')
            .map(|v| v.trim().to_owned())
            .collect()
    };
    let expression = |part: &str| -> Expression {
        let part = part.trim();
        if let Some((key, values)) = part.split_once(" notin ") {
            Expression::NotIn(key.trim().into(), list(values))
        } else if let Some((key, values)) = part.split_once(" in ") {
            Expression::In(key.trim().into(), list(values))
        } else if let Some((key, value)) = part.split_once("!=") {
            Expression::NotEqual(key.trim().into(), value.trim().into())
        } else if let Some((key, value)) = part.split_once('=') {
            Expression::Equal(key.trim().into(), value.trim_start_matches('=').trim().into())
        } else if let Some(key) = part.strip_prefix('!') {
            Expression::DoesNotExist(key.trim().into())
        } else {
            Expression::Exists(part.into())
        }
    };
    Ok(parts.into_iter().filter(|p| !p.trim().is_empty()).map(expression).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_read_back() {
        let selector = parse_selector("a=b,c in (d,e),!f,g!=h").unwrap();
        let labels = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>()
        };
        assert!(selector.matches(&labels(&[("a", "b"), ("c", "e")])));
        assert!(!selector.matches(&labels(&[("a", "b"), ("c", "x")])));
        assert!(!selector.matches(&labels(&[("a", "b"), ("c", "e"), ("f", "")])));
    }
}

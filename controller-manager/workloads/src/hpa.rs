//! horizontal-pod-autoscaler-controller: sizes workloads by the load that the resource metrics API reports.
//!
//! Metrics have no watch: each autoscaler is looked at every sync period, none when there is no autoscaler.

mod decide;
mod measure;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::quantity::{Format, Quantity};
use api::selectors::Selector;
use controller_kit::discovery;
use controller_kit::meta::MetaExt;
use controller_kit::{Context, Events, Key, Queue, Requeue, Shared, errors, now_time, semantic};
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
use parking_lot::Mutex;

use decide::{Bounds, History, Proposal, Target, Tolerance};
use measure::amount;

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
        let selector = Selector::parse(&text).map_err(anyhow::Error::msg)?;
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

fn target(goal: &MetricTarget, resource: &str) -> anyhow::Result<Target> {
    if let Some(percent) = goal.average_utilization {
        return Ok(Target::Utilization(percent));
    }
    let average = goal.average_value.as_ref().and_then(|q| amount(&q.0, resource));
    average.map(Target::Average).ok_or_else(|| anyhow::anyhow!("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set"))
}

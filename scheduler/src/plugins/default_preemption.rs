//! DefaultPreemption: makes room for a pod by deleting pods of lower priority, as few and as unimportant as can be.

use crate::framework::{Code, CycleState, Plugin, PostFilter, PostFilterCycle, Refusals, Status};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::profile::Profile;
use crate::queue::ClusterEvent;
use crate::views::Views;
use async_trait::async_trait;
use client::Recorder;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use scheduling::selector::Selector;
use serde::Deserialize;
use serde_json::json;
use std::cmp::Reverse;
use std::sync::Arc;

pub const NAME: &str = "DefaultPreemption";

/// `DefaultPreemptionArgs`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Args {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    pub min_candidate_nodes_percentage: usize,
    pub min_candidate_nodes_absolute: usize,
}

impl Default for Args {
    fn default() -> Self {
        Args {
            _api_version: String::new(),
            _kind: String::new(),
            min_candidate_nodes_percentage: 10,
            min_candidate_nodes_absolute: 100,
        }
    }
}

pub struct DefaultPreemption {
    args: Args,
    client: Client,
    views: Views,
    recorder: Recorder,
}

/// A node and the pods that would have to go.
struct Candidate {
    node: String,
    victims: Vec<Arc<PodInfo>>,
    budget_violations: usize,
}

impl DefaultPreemption {
    pub fn new(args: Args, client: Client, views: Views, recorder: Recorder) -> DefaultPreemption {
        DefaultPreemption { args, client, views, recorder }
    }

    fn candidates(&self, cycle: &PostFilterCycle<'_>, reasons: &mut Refusals) -> Vec<Candidate> {
        let may_help =
            |n: &&Arc<NodeInfo>| cycle.refusals.get(n.name()).is_some_and(|s| s.code == Code::Unschedulable);
        let nodes: Vec<&Arc<NodeInfo>> = cycle.snapshot.nodes.iter().filter(may_help).collect();
        let wanted = (nodes.len() * self.args.min_candidate_nodes_percentage / 100)
            .max(self.args.min_candidate_nodes_absolute);
        let budgets = Budgets::of(&self.views.budgets.list());
        let start = if nodes.is_empty() { 0 } else { rand::random_range(0..nodes.len()) };
        let mut found = Vec::new();
        for node in nodes[start..].iter().chain(&nodes[..start]) {
            match victims(cycle, node, &budgets) {
                Ok(candidate) => found.push(candidate),
                Err(status) => {
                    reasons.insert(node.name().to_owned(), status);
                }
            }
            if found.len() >= wanted {
                break;
            }
        }
        found
    }

    async fn evict(
        &self,
        pod: &PodInfo,
        victim: &PodInfo,
        node: &str,
        scheduler: &str,
    ) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), victim.namespace());
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
            "lastTransitionTime": k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        });
        let patch = Patch::Strategic(
            json!({"metadata": {"uid": victim.uid()}, "status": {"conditions": [condition]}}),
        );
        gone_is_fine(api.patch_status(victim.name(), &PatchParams::default(), &patch).await.map(drop))?;
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(victim.uid().to_owned()), resource_version: None }),
            ..Default::default()
        };
        gone_is_fine(api.delete(victim.name(), &params).await.map(drop))?;
        let message = format!("Preempted by pod {} on node {node}", pod.uid());
        let of = client::object_ref(victim.pod.as_ref());
        let by = client::object_ref(pod.pod.as_ref());
        self.recorder.event_with(&of, Some(&by), "Normal", "Preempted", "Preempting", &message);
        Ok(())
    }
}

/// A victim that has gone meanwhile has made its room.
fn gone_is_fine(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(e) if client::is_not_found(&e) => Ok(()),
        other => other,
    }
}

impl Plugin for DefaultPreemption {
    fn name(&self) -> &'static str {
        NAME
    }
    fn events(&self) -> Vec<ClusterEvent> {
        vec![ClusterEvent::AssignedPodRemoved]
    }
    fn as_post_filter(&self) -> Option<&dyn PostFilter> {
        Some(self)
    }
}

#[async_trait]
impl PostFilter for DefaultPreemption {
    async fn post_filter(&self, cycle: &PostFilterCycle<'_>) -> Result<String, Status> {
        if let Err(why) = eligible(cycle) {
            return Err(Status::unschedulable(format!("preemption: {why}")));
        }
        let mut reasons: Refusals = Refusals::new();
        for (node, _) in cycle.refusals.iter().filter(|(_, s)| s.code != Code::Unschedulable) {
            reasons.insert(node.clone(), Status::unresolvable("Preemption is not helpful for scheduling"));
        }
        let found = self.candidates(cycle, &mut reasons);
        let Some(best) = best(found) else {
            let text = Profile::refusal_message(cycle.snapshot.nodes.len(), None, &reasons, "");
            return Err(Status::unschedulable(format!("preemption: {text}")));
        };
        for victim in &best.victims {
            let evicted = self.evict(cycle.pod, victim, &best.node, &cycle.profile.scheduler_name).await;
            if let Err(e) = evicted {
                return Err(Status::error(format!("preempting {}: {e}", victim.key())));
            }
        }
        Ok(best.node)
    }
}

fn eligible(cycle: &PostFilterCycle<'_>) -> Result<(), &'static str> {
    let pod = cycle.pod;
    if pod.pod.spec.as_ref().and_then(|s| s.preemption_policy.as_deref()) == Some("Never") {
        return Err("not eligible due to preemptionPolicy=Never.");
    }
    let Some(node) = pod.nominated_node().and_then(|n| cycle.snapshot.get(n)) else { return Ok(()) };
    let hopeless = cycle.refusals.get(node.name()).is_some_and(|s| s.code == Code::Unresolvable);
    let leaving = |p: &Arc<PodInfo>| p.deleting() && p.priority() < pod.priority() && is_preempted(p);
    if !hopeless && node.pods.iter().any(leaving) {
        return Err("not eligible due to a terminating pod on the nominated node.");
    }
    Ok(())
}

fn is_preempted(pod: &PodInfo) -> bool {
    let conditions = pod.pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| {
        c.type_ == "DisruptionTarget"
            && c.status == "True"
            && c.reason.as_deref() == Some("PreemptionByScheduler")
    })
}

/// The fewest pods of the node whose going would let the pod in.
fn victims(
    cycle: &PostFilterCycle<'_>,
    node: &Arc<NodeInfo>,
    budgets: &Budgets,
) -> Result<Candidate, Status> {
    let (pod, profile) = (cycle.pod, cycle.profile);
    let mut state: CycleState = cycle.state.clone();
    let mut info = (**node).clone();
    let mut lower: Vec<Arc<PodInfo>> =
        node.pods.iter().filter(|p| p.priority() < pod.priority()).cloned().collect();
    for p in &lower {
        info.remove_pod(p.uid());
        profile.remove_pod(&mut state, pod, p, &info, cycle.snapshot);
    }
    if lower.is_empty() {
        return Err(Status::unresolvable("No preemption victims found for incoming pod"));
    }
    let status = profile.filter(&state, pod, &info);
    if !status.is_success() {
        return Err(status);
    }
    // The most important first: they get the first chance to stay.
    lower.sort_by_key(|p| (Reverse(p.priority()), start_time(p)));
    let (violating, others) = budgets.split(lower);
    let mut gone = Vec::new();
    let mut violations = 0;
    for (is_violating, p) in
        violating.into_iter().map(|p| (true, p)).chain(others.into_iter().map(|p| (false, p)))
    {
        info.add_pod(p.clone());
        profile.add_pod(&mut state, pod, &p, &info, cycle.snapshot);
        if !profile.filter(&state, pod, &info).is_success() {
            info.remove_pod(p.uid());
            profile.remove_pod(&mut state, pod, &p, &info, cycle.snapshot);
            violations += usize::from(is_violating);
            gone.push(p);
        }
    }
    Ok(Candidate { node: node.name().to_owned(), victims: gone, budget_violations: violations })
}

fn start_time(pod: &PodInfo) -> Option<k8s_openapi::jiff::Timestamp> {
    pod.pod.status.as_ref()?.start_time.as_ref().map(|t| t.0)
}

/// Fewest budget violations, then the least important highest victim, the smallest sum of priorities, the fewest
/// victims, the latest start of the most important ones.
fn best(candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.into_iter().min_by_key(|c| {
        let highest = c.victims.iter().map(|p| p.priority()).max().unwrap_or(i32::MIN);
        let sum: i64 = c.victims.iter().map(|p| i64::from(p.priority()) + i64::from(i32::MAX) + 1).sum();
        let earliest =
            c.victims.iter().filter(|p| p.priority() == highest).map(|p| start_time(p)).min().flatten();
        (c.budget_violations, highest, sum, c.victims.len(), Reverse(earliest))
    })
}

/// The disruption budgets, ready to be asked.
struct Budgets(Vec<(String, Selector, i32)>);

impl Budgets {
    fn of(list: &[Arc<PodDisruptionBudget>]) -> Budgets {
        let of = |b: &Arc<PodDisruptionBudget>| {
            let selector = Selector::of(b.spec.as_ref().and_then(|s| s.selector.as_ref()));
            let allowed = b.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or(0);
            (b.metadata.namespace.clone().unwrap_or_default(), selector, allowed)
        };
        Budgets(list.iter().map(of).collect())
    }

    /// Pods whose going would break a budget, and the others.
    fn split(&self, pods: Vec<Arc<PodInfo>>) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
        let mut allowed: Vec<i32> = self.0.iter().map(|(_, _, n)| *n).collect();
        pods.into_iter().partition(|p| {
            let mut violates = false;
            for (i, (namespace, selector, _)) in self.0.iter().enumerate() {
                if namespace == p.namespace() && !selector.is_empty() && selector.matches(p.labels()) {
                    allowed[i] -= 1;
                    violates |= allowed[i] < 0;
                }
            }
            violates
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Snapshot;
    use crate::plugins::node_resources_fit::{Args as FitArgs, NodeResourcesFit};
    use crate::pod_info::testing::{node, pod};

    fn sized(name: &str, priority: i32, cpu: &str) -> PodInfo {
        pod(
            name,
            json!({"priority": priority,
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}),
        )
    }

    fn who_goes(on_node: Vec<PodInfo>, incoming: PodInfo) -> Result<Vec<String>, Vec<String>> {
        let mut info = NodeInfo::default();
        info.set_node(node("n", json!({}), json!({}), json!({"cpu": "4", "pods": "10"})));
        on_node.into_iter().for_each(|p| info.add_pod(Arc::new(p)));
        let snapshot = Snapshot::of(vec![info]);
        let fit: Arc<dyn Plugin> = Arc::new(NodeResourcesFit::new(FitArgs::default()));
        let enabled = [("filter", vec![(fit.name().to_owned(), 0)])].into();
        let profile = Profile::new("s", None, &[(fit.name(), fit)].into(), &enabled);
        let refusals = [("n".to_owned(), Status::unschedulable("full"))].into();
        let incoming = Arc::new(incoming);
        let state = CycleState::default();
        let cycle = PostFilterCycle {
            profile: &profile,
            state: &state,
            pod: &incoming,
            snapshot: &snapshot,
            refusals: &refusals,
        };
        victims(&cycle, &snapshot.nodes[0], &Budgets(Vec::new()))
            .map(|c| c.victims.iter().map(|p| p.name().to_owned()).collect())
            .map_err(|s| s.reasons)
    }

    #[test]
    fn the_least_important_pods_go_and_only_as_many_as_needed() {
        let running = || vec![sized("low", 1, "2"), sized("mid", 5, "1"), sized("high", 10, "1")];
        assert_eq!(who_goes(running(), sized("new", 7, "2")), Ok(vec!["low".to_owned()]));
        assert_eq!(who_goes(running(), sized("new", 7, "3")), Ok(vec!["mid".to_owned(), "low".to_owned()]));
        assert_eq!(who_goes(running(), sized("new", 7, "4")), Err(vec!["Insufficient cpu".to_owned()]));
        let none = Err(vec!["No preemption victims found for incoming pod".to_owned()]);
        assert_eq!(who_goes(running(), sized("new", 0, "1")), none);
    }

    #[test]
    fn the_cheapest_node_is_chosen() {
        let candidate = |node: &str, priorities: &[i32], budget_violations| Candidate {
            node: node.into(),
            victims: priorities.iter().map(|p| Arc::new(sized("v", *p, "1"))).collect(),
            budget_violations,
        };
        let choose = |list| best(list).map(|c| c.node);
        assert_eq!(choose(vec![candidate("a", &[1], 1), candidate("b", &[9], 0)]), Some("b".into()));
        assert_eq!(choose(vec![candidate("a", &[5], 0), candidate("b", &[4, 4], 0)]), Some("b".into()));
        assert_eq!(choose(vec![candidate("a", &[4, 4], 0), candidate("b", &[4], 0)]), Some("b".into()));
    }
}

//! A job as its pods show it: what has ended, what still counts, whether it is over. Pure functions.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use controller_kit::meta::MetaExt;
use controller_kit::{condition, pod};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::indexes::Indexes;
use super::policy::{self, Meaning, only_replace_failed};

pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
pub(super) const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// What a pass over a job's pods found.
#[derive(Debug)]
pub(super) struct View {
    pub pods: Vec<Arc<Pod>>,
    pub active: Vec<Arc<Pod>>,
    pub terminating: i32,
    pub succeeded: i32,
    pub failed: i32,
    pub succeeded_indexes: Indexes,
    pub failed_indexes: Option<Indexes>,
    /// The last failed pod of an index, kept until its successor carries the failure count on.
    pub kept: BTreeMap<i32, Arc<Pod>>,
    pub newly_succeeded: Vec<Arc<Pod>>,
    pub newly_failed: Vec<Arc<Pod>>,
    /// The job is over, and why.
    pub verdict: Option<JobCondition>,
}

pub(super) fn spec(job: &Job) -> &JobSpec {
    static NONE: std::sync::OnceLock<JobSpec> = std::sync::OnceLock::new();
    job.spec.as_ref().unwrap_or_else(|| NONE.get_or_init(JobSpec::default))
}

pub(super) fn indexed(job: &Job) -> bool {
    spec(job).completion_mode.as_deref() == Some("Indexed")
}

pub(super) fn suspended(job: &Job) -> bool {
    spec(job).suspend == Some(true)
}

pub(super) fn per_index(job: &Job) -> bool {
    spec(job).backoff_limit_per_index.is_some()
}

pub(super) fn finished(job: &Job) -> bool {
    let all = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
    all.into_iter().any(|c| (c.type_ == "Complete" || c.type_ == "Failed") && c.status == "True")
}

pub(super) fn new_condition(kind: &str, reason: &str, message: &str, now: &Time) -> JobCondition {
    JobCondition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(now.clone()),
        last_transition_time: Some(now.clone()),
    }
}

/// The pod's completion index, if it is one of the job's.
pub(super) fn index(job: &Job, pod: &Pod) -> Option<i32> {
    let index = pod.annotation(INDEX)?.parse::<i32>().ok()?;
    (index >= 0 && index < spec(job).completions.unwrap_or(0)).then_some(index)
}

/// Whether a pod counts as failed. A pod on its way out does, unless only pods that have ended are replaced.
pub(super) fn failed(job: &Job, pod: &Pod) -> bool {
    match pod::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => pod.deleting() && !only_replace_failed(job),
    }
}

fn counts_as_failure(job: &Job, pod: &Pod) -> bool {
    policy::meaning(spec(job).pod_failure_policy.as_ref(), pod) != Meaning::Ignored
}

pub(super) fn failure_count(pod: &Pod, annotation: &str) -> i32 {
    pod.annotation(annotation).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn uids(list: Option<&Vec<String>>) -> HashSet<&str> {
    list.into_iter().flatten().map(String::as_str).collect()
}

/// Looks at a job. `released` are pods whose finalizer this process has already taken away.
pub(super) fn look(job: &Job, pods: Vec<Arc<Pod>>, released: &HashSet<String>, now: &Time) -> View {
    let status = job.status.clone().unwrap_or_default();
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let (in_succeeded, in_failed) = (uids(uncounted.succeeded.as_ref()), uids(uncounted.failed.as_ref()));
    let tracked = |p: &Pod| p.has_finalizer(FINALIZER) && !released.contains(p.uid());
    let valid = |p: &&Arc<Pod>| tracked(p) && (!indexed(job) || index(job, p).is_some());
    let newly_succeeded: Vec<_> = pods
        .iter()
        .filter(|p| valid(p) && pod::phase(p) == "Succeeded" && !in_succeeded.contains(p.uid()))
        .cloned()
        .collect();
    let newly_failed: Vec<_> =
        pods.iter().filter(|p| valid(p) && failed(job, p) && !in_failed.contains(p.uid())).cloned().collect();
    let completions = spec(job).completions.unwrap_or(0);
    let mut view = View {
        active: pods.iter().filter(|p| pod::active(p)).cloned().collect(),
        terminating: pods.iter().filter(|p| pod::terminating(p)).count() as i32,
        succeeded: status.succeeded.unwrap_or(0) + newly_succeeded.len() as i32 + in_succeeded.len() as i32,
        failed: status.failed.unwrap_or(0)
            + newly_failed.iter().filter(|p| counts_as_failure(job, p)).count() as i32
            + in_failed.len() as i32,
        succeeded_indexes: Indexes::parse(
            status.completed_indexes.as_deref().unwrap_or_default(),
            completions,
        ),
        failed_indexes: None,
        kept: BTreeMap::new(),
        newly_succeeded,
        newly_failed,
        verdict: None,
        pods,
    };
    if indexed(job) {
        let done = view.newly_succeeded.iter().filter_map(|p| index(job, p)).collect::<Vec<_>>();
        view.succeeded_indexes.0.extend(done);
    }
    if indexed(job) && per_index(job) {
        let old = Indexes::parse(status.failed_indexes.as_deref().unwrap_or_default(), completions);
        view.failed_indexes = Some(failed_indexes(job, &view, old, &tracked));
        view.kept = kept(job, &view, &tracked);
    }
    view.verdict = verdict(job, &view, now);
    if indexed(job) {
        view.succeeded = view.succeeded_indexes.len();
        view.verdict = view.verdict.take().or_else(|| index_verdict(job, &view, now));
    }
    view
}

fn failed_indexes(job: &Job, view: &View, mut set: Indexes, tracked: &impl Fn(&Pod) -> bool) -> Indexes {
    let limit = spec(job).backoff_limit_per_index.unwrap_or(i32::MAX);
    for pod in view.pods.iter().filter(|p| tracked(p) && failed(job, p)) {
        let Some(index) = index(job, pod) else { continue };
        let gone = match policy::meaning(spec(job).pod_failure_policy.as_ref(), pod) {
            Meaning::FailIndex => true,
            Meaning::Ignored => false,
            _ => failure_count(pod, FAILURES) >= limit,
        };
        if gone && !view.succeeded_indexes.has(index) {
            set.0.insert(index);
        }
    }
    set
}

fn kept(job: &Job, view: &View, tracked: &impl Fn(&Pod) -> bool) -> BTreeMap<i32, Arc<Pod>> {
    let active: HashSet<i32> = view.active.iter().filter_map(|p| index(job, p)).collect();
    let mut kept: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
    for pod in view.pods.iter().filter(|p| tracked(p) && failed(job, p)) {
        let Some(index) = index(job, pod) else { continue };
        let over = view.failed_indexes.as_ref().is_some_and(|f| f.has(index));
        if over || view.succeeded_indexes.has(index) || active.contains(&index) {
            continue;
        }
        let rank = |p: &Pod| (failure_count(p, FAILURES) + failure_count(p, IGNORED), finish_time(p));
        if kept.get(&index).is_none_or(|old| rank(old) <= rank(pod)) {
            kept.insert(index, pod.clone());
        }
    }
    kept
}

/// When a pod ended, as well as its status tells.
pub(super) fn finish_time(pod: &Pod) -> jiff::Timestamp {
    let status = pod.status.as_ref();
    let containers = status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let ends = containers.filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    let unready = pod::condition(pod, "Ready").filter(|c| c.status == "False");
    ends.max()
        .or(unready.and_then(|c| c.last_transition_time.as_ref()))
        .or(pod.metadata.deletion_timestamp.as_ref())
        .or(pod.metadata.creation_timestamp.as_ref())
        .map_or(jiff::Timestamp::UNIX_EPOCH, |t| t.0)
}

fn verdict(job: &Job, view: &View, now: &Time) -> Option<JobCondition> {
    let status = job.status.as_ref();
    let known = |kind: &str| {
        let found = condition::find(&status?.conditions, kind)?;
        (found.status == "True").then(|| found.clone())
    };
    if let Some(met) = known("SuccessCriteriaMet") {
        return Some(met);
    }
    if let Some(target) = known("FailureTarget") {
        return Some(target);
    }
    let policy = spec(job).pod_failure_policy.as_ref();
    let fatal = view.pods.iter().filter(|p| failed(job, p)).find_map(|p| match policy::meaning(policy, p) {
        Meaning::FailJob(text) => Some(text),
        _ => None,
    });
    if let Some(text) = fatal {
        return Some(new_condition("FailureTarget", "PodFailurePolicy", &text, now));
    }
    let limit = spec(job).backoff_limit.unwrap_or(6);
    if view.failed > limit || restarts_exceed(job, view, limit) {
        let text = "Job has reached the specified backoff limit";
        return Some(new_condition("FailureTarget", "BackoffLimitExceeded", text, now));
    }
    if deadline_left(job, now).is_some_and(|left| left <= 0) {
        let text = "Job was active longer than specified deadline";
        return Some(new_condition("FailureTarget", "DeadlineExceeded", text, now));
    }
    None
}

/// Seconds until the active deadline.
pub(super) fn deadline_left(job: &Job, now: &Time) -> Option<i64> {
    let deadline = spec(job).active_deadline_seconds?;
    let start = job.status.as_ref()?.start_time.as_ref()?;
    (!suspended(job)).then(|| deadline - now.0.duration_since(start.0).as_secs())
}

/// Containers that restart in place count against the limit too.
fn restarts_exceed(job: &Job, view: &View, limit: i32) -> bool {
    let policy = spec(job).template.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let running = view.pods.iter().filter(|p| matches!(pod::phase(p), "Running" | "Pending"));
    let statuses = running.filter_map(|p| p.status.as_ref()).flat_map(|s| {
        s.init_container_statuses.iter().flatten().chain(s.container_statuses.iter().flatten())
    });
    let restarts = statuses.map(|s| i64::from(s.restart_count)).sum::<i64>();
    if limit == 0 { restarts > 0 } else { restarts >= i64::from(limit) }
}

fn index_verdict(job: &Job, view: &View, now: &Time) -> Option<JobCondition> {
    let completions = spec(job).completions.unwrap_or(0);
    if let Some(failed) = &view.failed_indexes {
        if spec(job).max_failed_indexes.is_some_and(|most| failed.len() > most) {
            let text = "Job has exceeded the specified maximal number of failed indexes";
            return Some(new_condition("FailureTarget", "MaxFailedIndexesExceeded", text, now));
        }
        if failed.len() > 0 && failed.len() + view.succeeded_indexes.len() >= completions {
            return Some(new_condition("FailureTarget", "FailedIndexes", "Job has failed indexes", now));
        }
    }
    let text = policy::success(spec(job).success_policy.as_ref(), completions, &view.succeeded_indexes)?;
    Some(new_condition("SuccessCriteriaMet", "SuccessPolicy", &text, now))
}

/// Pods that have ended and whose end is not yet in the counts, as the status keeps them between its two writes.
pub(super) struct Tracked {
    pub uncounted: UncountedTerminatedPods,
    pub release: Vec<Arc<Pod>>,
    pub succeeded_indexes: Indexes,
}

/// At most so many ended pods are written down at once.
const BATCH: usize = 500;

/// Which pods to write down as ended, and which finalizers may then go.
pub(super) fn track(job: &Job, view: &View, released: &HashSet<String>) -> Tracked {
    let status = job.status.clone().unwrap_or_default();
    let mut uncounted = status.uncounted_terminated_pods.unwrap_or_default();
    let completions = spec(job).completions.unwrap_or(0);
    let mut done = Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), completions);
    let mut release = Vec::new();
    let lost = view.verdict.as_ref().is_some_and(|v| v.type_ != "SuccessCriteriaMet");
    let mut noted = 0;
    for pod in view.pods.iter().filter(|p| p.has_finalizer(FINALIZER) && !released.contains(p.uid())) {
        if !may_release(job, view, pod) || noted >= BATCH {
            continue;
        }
        release.push(pod.clone());
        let uid = pod.uid().to_owned();
        let failed_list = uncounted.failed.get_or_insert_default();
        let valid = !indexed(job) || index(job, pod).is_some();
        if pod::phase(pod) == "Succeeded" && !failed_list.contains(&uid) {
            if let Some(index) = index(job, pod).filter(|_| indexed(job)) {
                noted += usize::from(done.0.insert(index));
            } else if !indexed(job) && !uncounted.succeeded.get_or_insert_default().contains(&uid) {
                uncounted.succeeded.get_or_insert_default().push(uid);
                noted += 1;
            }
        } else if (failed(job, pod) || lost)
            && valid
            && !failed_list.contains(&uid)
            && counts_as_failure(job, pod)
        {
            failed_list.push(uid);
            noted += 1;
        }
    }
    Tracked { uncounted, release, succeeded_indexes: done }
}

fn may_release(job: &Job, view: &View, pod: &Arc<Pod>) -> bool {
    if job.deleting() || view.verdict.is_some() || pod::phase(pod) == "Succeeded" {
        return true;
    }
    if !failed(job, pod) {
        return false;
    }
    let kept = index(job, pod).and_then(|i| view.kept.get(&i));
    kept.is_none_or(|k| k.uid() != pod.uid())
}

/// What a job does about its number of pods.
#[derive(Debug, PartialEq)]
pub(super) enum Manage {
    Nothing,
    Delete(Vec<Arc<Pod>>),
    /// So many pods without an index.
    Create(usize),
    /// A pod for each of these indexes.
    CreateIndexes(Vec<i32>),
}

/// Decides how many pods there should be. The caller applies back-off.
pub(super) fn manage(job: &Job, view: &View, now: jiff::Timestamp) -> Manage {
    if suspended(job) {
        return if view.active.is_empty() { Manage::Nothing } else { Manage::Delete(view.active.clone()) };
    }
    let active = view.active.len() as i32;
    let parallelism = spec(job).parallelism.unwrap_or(1).max(0);
    let want = match spec(job).completions {
        None if view.succeeded > 0 => active,
        None => parallelism,
        Some(all) => (all - view.succeeded).clamp(0, parallelism),
    };
    let surplus = usize::try_from(active - want).unwrap_or(0);
    let remove = removable(job, view, surplus, now);
    if !remove.is_empty() {
        return Manage::Delete(remove.into_iter().take(BATCH).collect());
    }
    let waits = if only_replace_failed(job) { view.terminating } else { 0 };
    let missing = usize::try_from(want - waits - active).unwrap_or(0).min(BATCH);
    if missing == 0 {
        return Manage::Nothing;
    }
    if !indexed(job) {
        return Manage::Create(missing);
    }
    Manage::CreateIndexes(pending_indexes(job, view, missing))
}

fn pending_indexes(job: &Job, view: &View, most: usize) -> Vec<i32> {
    let completions = spec(job).completions.unwrap_or(0);
    let replaces_ended = only_replace_failed(job);
    let taken: HashSet<i32> = view
        .pods
        .iter()
        .filter(|p| pod::active(p) || (replaces_ended && pod::terminating(p)))
        .filter_map(|p| index(job, p))
        .collect();
    let failed = |i: &i32| view.failed_indexes.as_ref().is_some_and(|f| f.has(*i));
    let open =
        (0..completions).filter(|i| !taken.contains(i) && !view.succeeded_indexes.has(*i) && !failed(i));
    open.take(most).collect()
}

/// Active pods to delete: those of no or a doubled index first, then the least useful.
fn removable(job: &Job, view: &View, at_least: usize, now: jiff::Timestamp) -> Vec<Arc<Pod>> {
    let (mut remove, mut left) = (Vec::new(), Vec::new());
    if indexed(job) {
        let mut by_index: BTreeMap<Option<i32>, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in &view.active {
            by_index.entry(index(job, pod)).or_default().push(pod.clone());
        }
        for (index, pods) in by_index {
            let doubled = if index.is_none() { pods.len() } else { pods.len() - 1 };
            let first = controller_kit::rank::to_delete(&pods, &[], doubled, now);
            left.extend(pods.into_iter().filter(|p| !first.iter().any(|f| f.uid() == p.uid())));
            remove.extend(first);
        }
    } else {
        left = view.active.clone();
    }
    if remove.len() < at_least {
        remove.extend(controller_kit::rank::to_delete(&left, &[], at_least - remove.len(), now));
    }
    remove
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;

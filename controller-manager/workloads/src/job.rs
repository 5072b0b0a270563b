//! job-controller: pods that run to an end, so many at a time, until enough have succeeded.
//!
//! An ended pod is written into the status before its finalizer goes, and counted after: a crash at any
//! point neither loses a pod nor counts it twice.

mod indexes;
mod orphans;
mod policy;
mod record;
mod view;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use controller_kit::claim::Claimant;
use controller_kit::expect::{Expectations, Written};
use controller_kit::meta::{Labels, MetaExt, controller_of, controller_ref};
use controller_kit::{
    Context, Events, Key, Queue, Requeue, Shared, condition, errors, now_time, pod, semantic,
};
use futures::future::join_all;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::json;

use crate::pods::{PodControl, slow_start};
use crate::replicaset::wake_owners;
use record::Record;
use view::{FINALIZER, Manage, View, finished, indexed, new_condition, spec, suspended};

pub(super) struct Controller {
    ctx: Context,
    events: Events,
    jobs: Arc<Shared<Job>>,
    pods: Arc<Shared<Pod>>,
    expect: Expectations,
    written: Written,
    /// Pods whose finalizer is gone though the cache still shows it.
    released: Mutex<HashMap<Key, HashSet<String>>>,
    records: Mutex<HashMap<Key, Record>>,
}

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let (queue, orphans) = (Queue::new(), Queue::new());
    let (jobs, pods) = (ctx.informer::<Job>(), ctx.informer::<Pod>());
    jobs.synced().await;
    pods.synced().await;
    let q = queue.clone();
    jobs.watch(move |change| q.add(change.object().key()));
    let (q, cache) = (queue.clone(), jobs.clone());
    pods.watch(move |change| {
        wake_owners(&q, "Job", change, |pod| {
            let all = cache.namespace(pod.ns()).into_iter();
            let matching = all.filter(|j| {
                let selector = spec(j).selector.as_ref();
                Labels::optional(selector).matches(pod.metadata.labels.as_ref())
            });
            Some(matching.map(|j| j.key()).collect())
        })
    });
    orphans::watch(&orphans, &jobs, &pods);
    let workers = ctx.workers("job", "job", 5);
    let sweepers = ctx.workers("job-orphans", "job", 5);
    let controller = Controller {
        events: ctx.events("job-controller"),
        jobs,
        pods,
        ctx,
        expect: Expectations::default(),
        written: Written::default(),
        released: Mutex::default(),
        records: Mutex::default(),
    };
    let c = &controller;
    tokio::join!(
        workers.run(queue, |key| async move { c.reconcile(key).await }),
        sweepers.run(orphans, |key| async move { c.sweep(&key).await }),
    );
    Ok(())
}

fn externally_managed(job: &Job) -> bool {
    spec(job).managed_by.as_deref().is_some_and(|by| by != "kubernetes.io/job-controller")
}

impl Controller {
    async fn reconcile(&self, key: Key) -> anyhow::Result<Requeue> {
        let job = self.jobs.get(&key);
        let Some(job) = job.filter(|j| !finished(j)) else {
            self.forget(&key);
            return Ok(None);
        };
        if externally_managed(&job) {
            return Ok(None);
        }
        if !self.written.seen(&key, self.jobs.newest()) {
            return Ok(Some(Duration::from_secs(30)));
        }
        if !matches!(spec(&job).completion_mode.as_deref(), None | Some("NonIndexed" | "Indexed")) {
            let text = "Skipped Job sync because completion mode is unknown";
            self.events.warning(&*job, "UnknownCompletionMode", text);
            return Ok(None);
        }
        let caught_up = self.expect.satisfied(&key, &self.pods);
        let pods = self.claim(&job).await?;
        let mut job = (*job).clone();
        let now = now_time();
        let status = job.status.get_or_insert_default();
        if status.start_time.is_none() && spec_suspended(&job.spec) != Some(true) {
            status.start_time = Some(now.clone());
        }
        let released = self.released_of(&key);
        let view = view::look(&job, pods, &released, &now);
        let record = self.record(&key, &view);
        self.act(Pass { key, job, view, record, released, caught_up }).await
    }

    fn forget(&self, key: &Key) {
        self.expect.forget(key);
        self.released.lock().remove(key);
        self.records.lock().remove(key);
    }

    async fn claim(&self, job: &Job) -> anyhow::Result<Vec<Arc<Pod>>> {
        let claimant = Claimant {
            client: &self.ctx.client,
            owner: job,
            reference: controller_ref(job),
            selector: Labels::optional(spec(job).selector.as_ref()),
            finalizer: Some(FINALIZER),
        };
        claimant.claim(&self.pods).await
    }

    /// The pods whose finalizer we took away, as far as the cache does not show it yet.
    fn released_of(&self, key: &Key) -> HashSet<String> {
        let mut all = self.released.lock();
        let Some(set) = all.get_mut(key) else { return HashSet::new() };
        let uid = self.jobs.get(key).map(|j| j.uid().to_owned()).unwrap_or_default();
        let pods = self.pods.owned(&uid);
        set.retain(|uid| pods.iter().any(|p| p.uid() == uid && p.has_finalizer(FINALIZER)));
        set.clone()
    }

    fn record(&self, key: &Key, view: &View) -> Record {
        let old = self.records.lock().get(key).copied().unwrap_or_default();
        old.with(&view.newly_succeeded, &view.newly_failed)
    }

    async fn act(&self, mut pass: Pass) -> anyhow::Result<Requeue> {
        let mut outcome = Ok(());
        let mut requeue = None;
        let mut managed = false;
        let mut active = pass.view.active.len() as i32;
        let mut ready = pass.view.active.iter().filter(|p| pod::ready(p)).count() as i32;
        let mut terminating = pass.view.terminating;
        let mut verdict = pass.view.verdict.clone();
        let changed = if verdict.is_some() {
            let victims = pass.view.active.clone();
            let deleted = self.delete(&pass.key, &pass.job, &victims, false).await;
            if deleted.as_ref().is_err() || !pass.caught_up {
                verdict = None;
            }
            deleted.map(|n| Changed { gone: n, ..Changed::default() })
        } else if pass.caught_up && !pass.job.deleting() {
            managed = true;
            self.manage(&pass, &mut requeue).await
        } else {
            Ok(Changed::default())
        };
        match changed {
            Ok(change) => {
                active += change.made - change.gone;
                terminating += change.gone;
                if change.gone > 0 {
                    let left = active.max(0).min(ready);
                    ready = if active == 0 { 0 } else { left };
                }
            }
            Err(error) => outcome = Err(error),
        }
        if pass.view.verdict.is_none() {
            let enough = match spec(&pass.job).completions {
                None => pass.view.succeeded > 0 && active == 0,
                Some(all) => pass.view.succeeded >= all && active == 0,
            };
            if enough {
                let text = "Reached expected number of succeeded pods";
                verdict = Some(new_condition("SuccessCriteriaMet", "CompletionsReached", text, &now_time()));
            } else if managed {
                self.note_suspension(&mut pass.job);
            }
        }
        let status = pass.job.status.get_or_insert_default();
        status.active = Some(active);
        status.ready = Some(ready);
        status.terminating = Some(terminating);
        pass.view.verdict = verdict;
        let deadline = view::deadline_left(&pass.job, &now_time()).filter(|_| pass.view.verdict.is_none());
        self.track(pass).await?;
        outcome?;
        let deadline = deadline.map(|left| Duration::from_secs(left.max(0).unsigned_abs() + 1));
        Ok([requeue, deadline].into_iter().flatten().min())
    }

    fn note_suspension(&self, job: &mut Job) {
        let now = now_time();
        let (status, reason, text) = if suspended(job) {
            ("True", "JobSuspended", "Job suspended")
        } else {
            ("False", "JobResumed", "Job resumed")
        };
        let conditions = &mut job.status.get_or_insert_default().conditions;
        let old = condition::find(conditions, "Suspended").map(|c| c.status.clone());
        // A job that was never suspended says nothing about it.
        if old.as_deref() == Some(status) || (old.is_none() && status == "False") {
            return;
        }
        let new = JobCondition { status: status.into(), ..new_condition("Suspended", reason, text, &now) };
        condition::set(conditions, new, false);
        if status == "False" {
            job.status.get_or_insert_default().start_time = Some(now);
            self.events.normal(job, "Resumed", text);
        } else {
            self.events.normal(job, "Suspended", text);
        }
    }

    async fn manage(&self, pass: &Pass, requeue: &mut Requeue) -> anyhow::Result<Changed> {
        match view::manage(&pass.job, &pass.view, now_time().0) {
            Manage::Nothing => Ok(Changed::default()),
            Manage::Delete(pods) => {
                let gone = self.delete(&pass.key, &pass.job, &pods, true).await?;
                Ok(Changed { gone, ..Changed::default() })
            }
            Manage::Create(count) => {
                if let Some(wait) = pass.record.remaining(now_time().0) {
                    *requeue = Some(wait);
                    return Ok(Changed::default());
                }
                self.create(pass, &vec![None; count]).await
            }
            Manage::CreateIndexes(indexes) => {
                let per_index = view::per_index(&pass.job);
                if !per_index && let Some(wait) = pass.record.remaining(now_time().0) {
                    *requeue = Some(wait);
                    return Ok(Changed::default());
                }
                let mut due = Vec::new();
                for index in indexes {
                    let wait = pass.view.kept.get(&index).and_then(|p| record::of_index(p, now_time().0));
                    match wait.filter(|_| per_index) {
                        Some(wait) => *requeue = Some(requeue.map_or(wait, |r| r.min(wait))),
                        None => due.push(Some(index)),
                    }
                }
                self.create(pass, &due).await
            }
        }
    }

    async fn create(&self, pass: &Pass, slots: &[Option<i32>]) -> anyhow::Result<Changed> {
        let control = PodControl { client: &self.ctx.client, events: &self.events, owner: &pass.job };
        let (made, error) = slow_start(slots.len(), |i| {
            let control = &control;
            async move {
                let index = slots[i];
                let replaced = index.and_then(|i| pass.view.kept.get(&i)).map(|p| &**p);
                match control.create(&orphans::new_pod(&pass.job, index, replaced)).await {
                    Ok(pod) => {
                        self.expect.created(&pass.key, &pod);
                        Ok(())
                    }
                    Err(error) if errors::namespace_terminating(&error) => Ok(()),
                    Err(error) => Err(error),
                }
            }
        })
        .await;
        match error {
            Some(error) if made == 0 => Err(error.into()),
            _ => Ok(Changed { made: made as i32, gone: 0 }),
        }
    }

    /// Deletes active pods; where they shall not count as failed, their finalizer goes first.
    async fn delete(&self, key: &Key, job: &Job, pods: &[Arc<Pod>], uncounted: bool) -> anyhow::Result<i32> {
        let control = PodControl { client: &self.ctx.client, events: &self.events, owner: job };
        let results = join_all(pods.iter().map(|pod| async {
            if uncounted {
                self.release(pod).await?;
            }
            control.delete(pod).await?;
            self.expect.deleted(key, pod);
            Ok::<(), anyhow::Error>(())
        }))
        .await;
        let mut gone = 0;
        for result in results {
            result?;
            gone += 1;
        }
        Ok(gone)
    }

    async fn release(&self, pod: &Pod) -> anyhow::Result<()> {
        if !pod.has_finalizer(FINALIZER) {
            return Ok(());
        }
        let api: Api<Pod> = Api::namespaced(self.ctx.client.clone(), pod.ns());
        let patch =
            json!({"metadata": {"uid": pod.uid(), "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
        errors::optional(api.patch(pod.name(), &PatchParams::default(), &Patch::Strategic(patch)).await)?;
        if let Some(owner) = controller_of(&pod.metadata) {
            let key = Key::new(pod.ns(), &owner.name);
            self.released.lock().entry(key).or_default().insert(pod.uid().to_owned());
        }
        Ok(())
    }

    /// Writes ended pods down, takes their finalizers away, counts them, and ends the job when all is counted.
    async fn track(&self, pass: Pass) -> anyhow::Result<()> {
        let Pass { key, mut job, view, record, released, .. } = pass;
        let tracked = view::track(&job, &view, &released);
        let mut held: HashSet<String> = view
            .pods
            .iter()
            .filter(|p| p.has_finalizer(FINALIZER) && !released.contains(p.uid()))
            .map(|p| p.uid().to_owned())
            .collect();
        let status = job.status.get_or_insert_default();
        status.uncounted_terminated_pods = Some(tracked.uncounted);
        count(status, &held);
        if indexed(&job) {
            let status = job.status.get_or_insert_default();
            status.succeeded = Some(tracked.succeeded_indexes.len());
            status.completed_indexes = Some(tracked.succeeded_indexes.text()).filter(|t| !t.is_empty());
            status.failed_indexes = view.failed_indexes.as_ref().map(indexes::Indexes::text);
        }
        let mut ending = view.verdict.clone();
        if let Some(verdict) = &view.verdict {
            let conditions = &mut job.status.get_or_insert_default().conditions;
            if condition::find(conditions, &verdict.type_).is_none_or(|c| c.status != "True") {
                condition::set(conditions, verdict.clone(), false);
            }
            let last = if verdict.type_ == "SuccessCriteriaMet" { "Complete" } else { "Failed" };
            let (reason, message) =
                (verdict.reason.clone().unwrap_or_default(), verdict.message.clone().unwrap_or_default());
            ending = Some(new_condition(last, &reason, &message, &now_time()));
        }
        let mut job = self.write(&key, job).await?;
        self.records.lock().insert(key.clone(), record);
        let results = join_all(tracked.release.iter().map(|pod| self.release(pod))).await;
        let mut failure = None;
        for (pod, result) in tracked.release.iter().zip(results) {
            match result {
                Ok(()) => {
                    held.remove(pod.uid());
                }
                Err(error) => failure = Some(error),
            }
        }
        count(job.status.get_or_insert_default(), &held);
        let over = ending.filter(|_| failure.is_none()).and_then(|e| end(&mut job, e));
        let job = self.write(&key, job).await?;
        if let Some(over) = over {
            self.announce(&job, &over);
        }
        failure.map_or(Ok(()), Err)
    }

    fn announce(&self, job: &Job, over: &JobCondition) {
        if over.type_ != "Complete" {
            let (reason, text) =
                (over.reason.as_deref().unwrap_or_default(), over.message.as_deref().unwrap_or_default());
            self.events.warning(job, reason, text);
            return;
        }
        let succeeded = job.status.as_ref().and_then(|s| s.succeeded).unwrap_or(0);
        if spec(job).completions.is_some_and(|c| succeeded > c) {
            let text = "Too many succeeded pods running after completion count reached";
            self.events.warning(job, "TooManySucceededPods", text);
        }
        self.events.normal(job, "Completed", "Job completed");
    }

    async fn write(&self, key: &Key, job: Job) -> anyhow::Result<Job> {
        let old = self.jobs.get(key).filter(|o| o.m().resource_version == job.m().resource_version);
        let same = |old: &Job| match (&old.status, &job.status) {
            (Some(a), Some(b)) => {
                semantic::same(a, b)
                    && a.ready == b.ready
                    && a.terminating == b.terminating
                    && a.failed_indexes == b.failed_indexes
            }
            _ => false,
        };
        if old.is_some_and(|old| same(&old)) {
            return Ok(job);
        }
        let api: Api<Job> = Api::namespaced(self.ctx.client.clone(), job.ns());
        let written = api.replace_status(job.name(), &PostParams::default(), &job).await;
        match errors::optional(written)? {
            Some(written) => {
                self.written.note(key, written.rv());
                Ok(written)
            }
            None => Ok(job),
        }
    }
}

/// One pass over a job.
struct Pass {
    key: Key,
    job: Job,
    view: View,
    record: Record,
    released: HashSet<String>,
    caught_up: bool,
}

/// How many pods a pass made and deleted.
#[derive(Default)]
struct Changed {
    made: i32,
    gone: i32,
}

fn spec_suspended(spec: &Option<k8s_openapi::api::batch::v1::JobSpec>) -> Option<bool> {
    spec.as_ref()?.suspend
}

/// Moves written-down pods without finalizer into the counts.
fn count(status: &mut JobStatus, held: &HashSet<String>) {
    let uncounted = status.uncounted_terminated_pods.get_or_insert_with(UncountedTerminatedPods::default);
    let take = |list: &mut Option<Vec<String>>| -> i32 {
        let Some(uids) = list else { return 0 };
        let before = uids.len();
        uids.retain(|uid| held.contains(uid));
        (before - uids.len()) as i32
    };
    let (succeeded, failed) = (take(&mut uncounted.succeeded), take(&mut uncounted.failed));
    status.succeeded = Some(status.succeeded.unwrap_or(0) + succeeded);
    status.failed = Some(status.failed.unwrap_or(0) + failed);
}

/// Ends the job once every pod is counted and none is left on its way out.
fn end(job: &mut Job, ending: JobCondition) -> Option<JobCondition> {
    let status = job.status.as_mut()?;
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let pending = uncounted.succeeded.map_or(0, |l| l.len()) + uncounted.failed.map_or(0, |l| l.len());
    if pending > 0 || status.terminating.unwrap_or(0) > 0 || status.active.unwrap_or(0) > 0 {
        return None;
    }
    condition::set(&mut status.conditions, ending.clone(), false);
    if ending.type_ == "Complete" {
        status.completion_time = ending.last_transition_time.clone();
    }
    Some(ending)
}

//! cronjob-controller: makes a job whenever its schedule says so.

mod schedule;

use std::sync::Arc;
use std::time::Duration;

use controller_kit::meta::{MetaExt, controller_of, controller_ref};
use controller_kit::{Context, Events, Key, Queue, Requeue, Shared, errors, now, semantic};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Api;
use kube::api::{DeleteParams, PostParams, PropagationPolicy};

use schedule::Schedule;

const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

struct Controller {
    ctx: Context,
    events: Events,
    crons: Arc<Shared<CronJob>>,
    jobs: Arc<Shared<Job>>,
}

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let (crons, jobs) = (ctx.informer::<CronJob>(), ctx.informer::<Job>());
    crons.synced().await;
    jobs.synced().await;
    let q = queue.clone();
    crons.watch(move |change| q.add(change.object().key()));
    let q = queue.clone();
    jobs.watch(move |change| {
        let job = change.object();
        if let Some(owner) = controller_of(&job.metadata).filter(|o| o.kind == "CronJob") {
            q.add(Key::new(job.ns(), &owner.name));
        }
    });
    let workers = ctx.workers("cronjob", "cron-job", 5);
    let events = ctx.events("cronjob-controller");
    let controller = Controller { ctx, events, crons, jobs };
    let c = &controller;
    workers.run(queue, |key| async move { c.reconcile(&key).await }).await;
    Ok(())
}

/// How a job ended, if it has.
fn outcome(job: &Job) -> Option<&str> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let over =
        conditions.iter().find(|c| (c.type_ == "Complete" || c.type_ == "Failed") && c.status == "True")?;
    Some(&over.type_)
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        kind: Some("Job".into()),
        api_version: Some("batch/v1".into()),
        namespace: job.metadata.namespace.clone(),
        name: job.metadata.name.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        field_path: None,
    }
}

fn job_name(cron: &CronJob, at: Timestamp) -> String {
    format!("{}-{}", cron.name(), at.as_second() / 60)
}

/// The job for a time.
fn new_job(cron: &CronJob, spec: &CronJobSpec, at: Timestamp, zone: &TimeZone) -> Job {
    let meta = spec.job_template.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    let text = match spec.time_zone {
        None => at.to_string(),
        Some(_) => at.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
    };
    annotations.insert(SCHEDULED_AT.into(), text);
    Job {
        metadata: ObjectMeta {
            name: Some(job_name(cron, at)),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            creation_timestamp: None,
            owner_references: Some(vec![controller_ref(cron)]),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    }
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> anyhow::Result<Requeue> {
        let Some(cached) = self.crons.get(key) else { return Ok(None) };
        let mut cron = (*cached).clone();
        let spec = cron.spec.clone();
        let jobs = self.jobs.owned(cron.uid());
        let mut status = cron.status.clone().unwrap_or_default();
        self.prune(&cron, &spec, &jobs, &mut status).await?;
        self.follow(&cron, &jobs, &mut status).await?;
        let again = self.start(&mut cron, &spec, &mut status).await;
        self.write(&cached, &cron, status).await?;
        again
    }

    /// Deletes finished jobs beyond the history limits, oldest first.
    async fn prune(
        &self,
        cron: &CronJob,
        spec: &CronJobSpec,
        jobs: &[Arc<Job>],
        status: &mut CronJobStatus,
    ) -> anyhow::Result<()> {
        let limits = [
            ("Complete", spec.successful_jobs_history_limit.unwrap_or(3)),
            ("Failed", spec.failed_jobs_history_limit.unwrap_or(1)),
        ];
        for (kind, limit) in limits {
            let mut ended: Vec<_> =
                jobs.iter().filter(|j| outcome(j) == Some(kind) && !j.deleting()).collect();
            ended
                .sort_by_key(|j| (j.status.as_ref().and_then(|s| s.start_time.clone()), j.name().to_owned()));
            let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
            for job in ended.into_iter().take(surplus) {
                self.delete(cron, job, status).await?;
            }
        }
        Ok(())
    }

    async fn delete(&self, cron: &CronJob, job: &Job, status: &mut CronJobStatus) -> anyhow::Result<()> {
        let api: Api<Job> = Api::namespaced(self.ctx.client.clone(), job.ns());
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        if let Err(error) = errors::optional(api.delete(job.name(), &params).await) {
            self.events.warning(cron, "FailedDelete", format!("Deleted job: {}", errors::text(&error)));
            return Err(error.into());
        }
        forget(status, job.uid());
        self.events.normal(cron, "SuccessfulDelete", format!("Deleted job {}", job.name()));
        Ok(())
    }

    /// Brings the list of active jobs up to date.
    async fn follow(
        &self,
        cron: &CronJob,
        jobs: &[Arc<Job>],
        status: &mut CronJobStatus,
    ) -> anyhow::Result<()> {
        for job in jobs {
            let listed = status.active.iter().flatten().any(|r| r.uid.as_deref() == Some(job.uid()));
            match outcome(job) {
                None if !listed && !job.deleting() => {
                    // The list may have been written after this job was seen, or never: it is ours either way.
                    status.active.get_or_insert_default().push(reference(job));
                }
                Some(kind) => {
                    if listed {
                        forget(status, job.uid());
                        let text = format!("Saw completed job: {}, condition: {kind}", job.name());
                        self.events.normal(cron, "SawCompletedJob", text);
                    }
                    let done = job.status.as_ref().and_then(|s| s.completion_time.clone());
                    if kind == "Complete" && done > status.last_successful_time {
                        status.last_successful_time = done;
                    }
                }
                None => {}
            }
        }
        let active = status.active.clone().unwrap_or_default();
        for missing in active.iter().filter(|r| !jobs.iter().any(|j| r.uid.as_deref() == Some(j.uid()))) {
            let name = missing.name.clone().unwrap_or_default();
            let api: Api<Job> = Api::namespaced(self.ctx.client.clone(), cron.ns());
            let live = errors::optional(api.get_metadata(&name).await)?;
            if live.is_none_or(|j| j.metadata.uid != missing.uid) {
                self.events.normal(cron, "MissingJob", format!("Active job went missing: {name}"));
                forget(status, missing.uid.as_deref().unwrap_or_default());
            }
        }
        Ok(())
    }

    async fn start(
        &self,
        cron: &mut CronJob,
        spec: &CronJobSpec,
        status: &mut CronJobStatus,
    ) -> anyhow::Result<Requeue> {
        if cron.deleting() || spec.suspend == Some(true) {
            return Ok(None);
        }
        let zone = match &spec.time_zone {
            None => TimeZone::system(),
            Some(name) => match TimeZone::get(name) {
                Ok(zone) => zone,
                Err(error) => {
                    self.events.warning(
                        cron,
                        "UnknownTimeZone",
                        format!("invalid timeZone: \"{name}\": {error}"),
                    );
                    return Ok(None);
                }
            },
        };
        let schedule = match Schedule::parse(&spec.schedule) {
            Ok(schedule) => schedule,
            Err(error) => {
                let text = format!("unparseable schedule: \"{}\" : {error}", spec.schedule);
                self.events.warning(cron, "UnparseableSchedule", text);
                return Ok(None);
            }
        };
        let now = now();
        let again = schedule.next(now, &zone).map(|next| {
            Duration::from_millis(u64::try_from(next.duration_since(now).as_millis()).unwrap_or(0) + 100)
        });
        let (due, many) = schedule.latest(earliest(cron, spec, status, now), now, &zone);
        let Some(due) = due else { return Ok(again) };
        if many {
            let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.events.warning(cron, "TooManyMissedTimes", text);
        }
        let late = spec.starting_deadline_seconds.is_some_and(|d| now.duration_since(due).as_secs() > d);
        if late {
            let text = format!(
                "Missed scheduled time to start a job: {}",
                due.strftime("%a, %d %b %Y %H:%M:%S +0000")
            );
            self.events.warning(cron, "MissSchedule", text);
            return Ok(again);
        }
        let name = job_name(cron, due);
        let active = status.active.clone().unwrap_or_default();
        let started = status.last_schedule_time.as_ref().is_some_and(|t| t.0 >= due);
        if started || active.iter().any(|r| r.name.as_deref() == Some(&name)) {
            return Ok(again);
        }
        match spec.concurrency_policy.as_deref() {
            Some("Forbid") if !active.is_empty() => {
                let text =
                    "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.events.normal(cron, "JobAlreadyActive", text);
                return Ok(again);
            }
            Some("Replace") => {
                for old in active {
                    let key = Key::new(cron.ns(), old.name.unwrap_or_default());
                    if let Some(job) = self.jobs.get(&key) {
                        self.delete(cron, &job, status).await?;
                    }
                }
            }
            _ => {}
        }
        self.create(cron, spec, due, &zone, status).await?;
        Ok(again)
    }

    async fn create(
        &self,
        cron: &CronJob,
        spec: &CronJobSpec,
        due: Timestamp,
        zone: &TimeZone,
        status: &mut CronJobStatus,
    ) -> anyhow::Result<()> {
        let api: Api<Job> = Api::namespaced(self.ctx.client.clone(), cron.ns());
        let wanted = new_job(cron, spec, due, zone);
        let job = match api.create(&PostParams::default(), &wanted).await {
            Ok(job) => {
                self.events.normal(cron, "SuccessfulCreate", format!("Created job {}", job.name()));
                job
            }
            Err(error) if errors::namespace_terminating(&error) => return Ok(()),
            Err(error) if errors::already_exists(&error) => {
                let Some(job) = errors::optional(api.get(wanted.name()).await)? else {
                    return Err(error.into());
                };
                if controller_of(&job.metadata).is_none_or(|o| o.uid != cron.uid()) {
                    return Err(error.into());
                }
                job
            }
            Err(error) => {
                self.events.warning(
                    cron,
                    "FailedCreate",
                    format!("Error creating job: {}", errors::text(&error)),
                );
                return Err(error.into());
            }
        };
        if outcome(&job).is_none() {
            status.active.get_or_insert_default().push(reference(&job));
        }
        status.last_schedule_time = Some(Time(due));
        Ok(())
    }

    async fn write(&self, cached: &CronJob, cron: &CronJob, status: CronJobStatus) -> anyhow::Result<()> {
        if cached.status.as_ref().is_some_and(|old| semantic::same(old, &status))
            || (cached.status.is_none() && semantic::same(&CronJobStatus::default(), &status))
        {
            return Ok(());
        }
        let api: Api<CronJob> = Api::namespaced(self.ctx.client.clone(), cron.ns());
        let next = CronJob { status: Some(status), ..cron.clone() };
        errors::optional(api.replace_status(cron.name(), &PostParams::default(), &next).await)?;
        Ok(())
    }
}

fn forget(status: &mut CronJobStatus, uid: &str) {
    if let Some(active) = &mut status.active {
        active.retain(|r| r.uid.as_deref() != Some(uid));
    }
}

/// From when on times count: the last start or the cron job's creation, but not before the starting deadline.
fn earliest(cron: &CronJob, spec: &CronJobSpec, status: &CronJobStatus, now: Timestamp) -> Timestamp {
    let last = status.last_schedule_time.as_ref().or(cron.metadata.creation_timestamp.as_ref());
    let from = last.map_or(now, |t| t.0);
    let deadline = spec.starting_deadline_seconds;
    let bound = deadline.and_then(|d| now.checked_sub(jiff::SignedDuration::from_secs(d)).ok());
    bound.map_or(from, |b| from.max(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn jobs_are_named_by_their_minute() {
        let cron: CronJob = serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"},
            "spec": {"schedule": "* * * * *", "timeZone": "UTC", "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": {}}}}}))
        .unwrap();
        let at: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let job = new_job(&cron, &cron.spec, at, &TimeZone::UTC);
        assert_eq!(job.name(), format!("c-{}", at.as_second() / 60));
        assert_eq!(job.label("a"), Some("b"));
        assert_eq!(job.annotation(SCHEDULED_AT), Some("2026-01-01T00:01:00+00:00"));
        assert_eq!(controller_of(&job.metadata).map(|o| o.kind.as_str()), Some("CronJob"));
    }
}

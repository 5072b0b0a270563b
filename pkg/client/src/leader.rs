//! Leader election through a `coordination.k8s.io` Lease, compatible with upstream's: daemons of both kinds can stand
//! for the same lease.
//!
//! Whether another holder's lease has run out is judged by our own clock and by when we last saw it change, never by the
//! times written in it, so that clocks may differ. A leader that cannot renew in time stops being one before anybody
//! else may start.

use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, bail};
use component::Flags;
use component::metrics::{GaugeVec, gauge_vec};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::{Recorder, is_not_found, object_ref};

static STATUS: LazyLock<GaugeVec> = LazyLock::new(|| {
    let help = "[ALPHA] 1 while this process holds the lease, else 0.";
    gauge_vec("leader_election_master_status", help, &["name"])
});
/// As upstream, a candidate waits up to a fifth longer than it has to, so that candidates do not march in step.
const JITTER: f64 = 1.2;

/// The flags that [`Config::from_flags`] reads, with their help, and the one that asks for an election at all.
pub const FLAGS: &[(&str, &str)] = &[
    ("leader-elect", "Work only while holding the lease, so that others can stand by."),
    ("leader-elect-lease-duration", "How long a lease that is not renewed keeps others out."),
    ("leader-elect-renew-deadline", "How long the leader tries to renew before it gives up."),
    ("leader-elect-resource-lock", "What holds the lease; only leases."),
    ("leader-elect-resource-name", "The lease's name."),
    ("leader-elect-resource-namespace", "The lease's namespace."),
    ("leader-elect-retry-period", "Time between two tries."),
];

/// Who stands for what.
#[derive(Clone)]
pub struct Config {
    /// The lease's name.
    pub name: String,
    /// The lease's namespace.
    pub namespace: String,
    /// Who we are; unique among all candidates. See [`identity`].
    pub identity: String,
    /// How long a lease that is not renewed keeps others out.
    pub lease_duration: Duration,
    /// How long the leader tries to renew before it gives up.
    pub renew_deadline: Duration,
    /// How long between two tries.
    pub retry_period: Duration,
    /// Give the lease back at shutdown, so that another candidate starts at once.
    pub release_on_cancel: bool,
    /// Tells of a new leader by an event.
    pub recorder: Option<Recorder>,
}

impl Config {
    /// Upstream's default times.
    pub fn new(name: &str, namespace: &str, identity: String) -> Config {
        Config {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            identity,
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
            release_on_cancel: false,
            recorder: None,
        }
    }

    /// As the standard flags say, standing as this host.
    pub fn from_flags(flags: &Flags, host: &str) -> anyhow::Result<Config> {
        let lock = flags.str("leader-elect-resource-lock");
        if lock != "leases" {
            bail!("unsupported leader election resource lock {lock:?}: only \"leases\" is supported");
        }
        let (name, namespace) =
            (flags.str("leader-elect-resource-name"), flags.str("leader-elect-resource-namespace"));
        Ok(Config {
            lease_duration: flags.duration("leader-elect-lease-duration"),
            renew_deadline: flags.duration("leader-elect-renew-deadline"),
            retry_period: flags.duration("leader-elect-retry-period"),
            ..Config::new(name, namespace, identity(host))
        })
    }

    /// The times must leave room for each other.
    pub fn validate(&self) -> anyhow::Result<()> {
        if self.lease_duration <= self.renew_deadline {
            bail!("leaseDuration must be greater than renewDeadline");
        }
        if self.renew_deadline <= self.retry_period.mul_f64(JITTER) {
            bail!("renewDeadline must be greater than retryPeriod*JitterFactor");
        }
        if self.retry_period.is_zero() || self.name.is_empty() || self.identity.is_empty() {
            bail!("retryPeriod, lease name and identity must be set");
        }
        Ok(())
    }
}

/// A candidate's identity: `<host>_<uuid>`.
pub fn identity(host: &str) -> String {
    format!("{host}_{}", uuid::Uuid::new_v4())
}

/// Waits to become the leader, then runs `on_started` until it ends, the lease is lost (an error) or shutdown. The token
/// that `on_started` gets is cancelled in the last two cases.
pub async fn run<F, Fut>(
    config: Config,
    client: kube::Client,
    shutdown: CancellationToken,
    on_started: F,
) -> anyhow::Result<()>
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    config.validate()?;
    let mut elector = Elector { api: Api::namespaced(client, &config.namespace), config, seen: None };
    STATUS.with(&[&elector.config.name]).set(0.0);
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        () = elector.acquire() => {}
    }
    elector.announce();
    let working = shutdown.child_token();
    let result = {
        let work = on_started(working.clone());
        tokio::pin!(work);
        tokio::select! {
            result = work.as_mut() => result,
            () = shutdown.cancelled() => {
                // Keep the lease while the work winds down: nobody else may start before it has.
                tokio::select! {
                    result = work.as_mut() => result,
                    lost = elector.renew() => lost,
                }
            }
            lost = elector.renew() => {
                working.cancel();
                lost
            }
        }
    };
    STATUS.with(&[&elector.config.name]).set(0.0);
    if elector.config.release_on_cancel && result.is_ok() {
        elector.release().await;
    }
    result
}

/// What we know of the lease.
struct Seen {
    lease: Lease,
    /// When we first saw it as it is.
    at: Instant,
}

struct Elector {
    config: Config,
    api: Api<Lease>,
    seen: Option<Seen>,
}

impl Elector {
    async fn acquire(&mut self) {
        tracing::info!(
            lease = self.config.name,
            namespace = self.config.namespace,
            "Attempting to acquire leader lease..."
        );
        loop {
            match self.try_acquire_or_renew().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::error!(error = format!("{error:#}"), "Error retrieving lease lock"),
            }
            sleep(self.config.retry_period.mul_f64(1.0 + rand::random::<f64>() * (JITTER - 1.0))).await;
        }
    }

    fn announce(&self) {
        tracing::info!(
            lease = self.config.name,
            namespace = self.config.namespace,
            "Successfully acquired lease"
        );
        STATUS.with(&[&self.config.name]).set(1.0);
        if let (Some(recorder), Some(seen)) = (&self.config.recorder, &self.seen) {
            let message = format!("{} became leader", self.config.identity);
            recorder.event(&object_ref(&seen.lease), "Normal", "LeaderElection", &message);
        }
    }

    /// Renews until that fails for too long; returns only then.
    async fn renew(&mut self) -> anyhow::Result<()> {
        loop {
            sleep(self.config.retry_period).await;
            let deadline = Instant::now() + self.config.renew_deadline;
            if timeout_at(deadline, self.renew_once()).await.is_err() {
                tracing::error!(
                    lease = self.config.name,
                    "Failed to renew lease: timed out waiting for the condition"
                );
                STATUS.with(&[&self.config.name]).set(0.0);
                bail!("leaderelection lost");
            }
        }
    }

    async fn renew_once(&mut self) {
        loop {
            match self.try_acquire_or_renew().await {
                Ok(true) => return,
                Ok(false) => tracing::info!(lease = self.config.name, "Lease is held by another candidate"),
                Err(error) => tracing::error!(error = format!("{error:#}"), "Failed to renew lease"),
            }
            sleep(self.config.retry_period).await;
        }
    }

    /// One step: whether we hold the lease after it.
    async fn try_acquire_or_renew(&mut self) -> anyhow::Result<bool> {
        let now = MicroTime(jiff::Timestamp::now());
        // A leader whose lease is as it left it needs no read before its write.
        if let Some(seen) = &self.seen
            && self.is_ours(&seen.lease)
            && !self.expired(seen)
        {
            let renewed = self.claim(&seen.lease, now.clone());
            match self.api.replace(&self.config.name, &PostParams::default(), &renewed).await {
                Ok(lease) => {
                    self.observe(lease);
                    return Ok(true);
                }
                Err(error) => tracing::debug!(%error, "Fast renewal failed, reading the lease"),
            }
        }
        let current = match self.api.get(&self.config.name).await {
            Ok(lease) => lease,
            Err(error) if is_not_found(&error) => {
                let lease = self.api.create(&PostParams::default(), &self.first(now)).await?;
                self.observe(lease);
                return Ok(true);
            }
            Err(error) => return Err(error).context("cannot read the lease"),
        };
        let changed = self.seen.as_ref().is_none_or(|s| s.lease.spec != current.spec);
        if changed {
            self.observe(current.clone());
        }
        let held = holder(&current).is_some_and(|h| !h.is_empty());
        let expired = self.seen.as_ref().is_none_or(|s| self.expired(s));
        if held && !self.is_ours(&current) && !expired {
            return Ok(false);
        }
        let claimed = self.claim(&current, now);
        let lease = self.api.replace(&self.config.name, &PostParams::default(), &claimed).await?;
        self.observe(lease);
        Ok(true)
    }

    fn observe(&mut self, lease: Lease) {
        self.seen = Some(Seen { lease, at: Instant::now() });
    }

    /// Whether the lease as we saw it has run out; the holder's own duration counts.
    fn expired(&self, seen: &Seen) -> bool {
        let stated = seen.lease.spec.as_ref().and_then(|s| s.lease_duration_seconds).filter(|s| *s > 0);
        let duration = stated
            .and_then(|s| u64::try_from(s).ok())
            .map_or(self.config.lease_duration, Duration::from_secs);
        seen.at.elapsed() > duration
    }

    fn is_ours(&self, lease: &Lease) -> bool {
        holder(lease) == Some(self.config.identity.as_str())
    }

    /// The lease as ours: renewed if it was ours, taken over if not.
    fn claim(&self, current: &Lease, now: MicroTime) -> Lease {
        let mut lease = current.clone();
        let ours = self.is_ours(current);
        let spec = lease.spec.get_or_insert_default();
        if !ours {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.holder_identity = Some(self.config.identity.clone());
        spec.lease_duration_seconds = Some(seconds(self.config.lease_duration));
        spec.renew_time = Some(now);
        lease
    }

    fn first(&self, now: MicroTime) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(self.config.name.clone()),
                namespace: Some(self.config.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.config.identity.clone()),
                lease_duration_seconds: Some(seconds(self.config.lease_duration)),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Gives the lease back: no holder, and a duration of a second, as upstream writes it.
    async fn release(&mut self) {
        let Some(seen) = self.seen.take().filter(|s| self.is_ours(&s.lease)) else { return };
        let mut lease = seen.lease;
        let now = MicroTime(jiff::Timestamp::now());
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(now.clone());
        spec.acquire_time = Some(now);
        let params = PostParams::default();
        let write = self.api.replace(&self.config.name, &params, &lease);
        match tokio::time::timeout(self.config.renew_deadline, write).await {
            Ok(Ok(_)) => tracing::info!(lease = self.config.name, "Released lease"),
            Ok(Err(error)) => tracing::error!(%error, "Failed to release lease"),
            Err(_) => tracing::error!("Failed to release lease: timed out"),
        }
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref()
}

fn seconds(d: Duration) -> i32 {
    i32::try_from(d.as_secs()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;

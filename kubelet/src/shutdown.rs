//! Graceful node shutdown: logind tells before the machine goes down, and waits while pods end, the least important
//! first.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use tokio_util::sync::CancellationToken;
use zbus::zvariant::OwnedFd;

use crate::config::KubeletConfiguration;
use crate::kubelet::Kubelet;
use crate::pod::PodExt;
use crate::status::{Verdict, now};
use crate::worker::Decree;

/// Where logind reads how long it may be held up.
const DROP_IN: &str = "/etc/systemd/logind.conf.d/99-kubelet.conf";
/// How long to wait before the bus is tried again.
const PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
const SYSTEM_CRITICAL: i32 = 2_000_000_000;

/// Whether the node is going down.
#[derive(Default)]
pub struct Shutdown(AtomicBool);

impl Shutdown {
    /// Whether it is.
    pub fn is_under_way(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, on: bool) {
        self.0.store(on, Ordering::Relaxed);
    }

    /// While the node goes down no pod is let in.
    pub fn admit(&self) -> Result<(), Verdict> {
        match self.is_under_way() {
            false => Ok(()),
            true => Err(Verdict {
                reason: "NodeShutdown".into(),
                message: "Pod was rejected as the node is shutting down.".into(),
            }),
        }
    }
}

/// How long pods of at least this priority may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    pub priority: i32,
    pub seconds: i64,
}

/// The periods of a configuration, by rising priority; none if nobody asked for a graceful shutdown.
pub fn periods(config: &KubeletConfiguration) -> Vec<Period> {
    let mut list: Vec<Period> = config
        .shutdown_grace_period_by_pod_priority
        .iter()
        .map(|entry| Period { priority: entry.priority, seconds: entry.shutdown_grace_period_seconds })
        .collect();
    let seconds = |d: Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
    if list.is_empty() && !config.shutdown_grace_period.is_zero() {
        let critical = config.shutdown_grace_period_critical_pods;
        list = vec![
            Period { priority: 0, seconds: seconds(config.shutdown_grace_period.saturating_sub(critical)) },
            Period { priority: SYSTEM_CRITICAL, seconds: seconds(critical) },
        ];
    }
    list.sort_by_key(|period| period.priority);
    list
}

/// The pods of each period: a pod belongs to the highest priority that is not above its own.
fn groups(periods: &[Period], pods: Vec<Arc<Pod>>) -> Vec<(Period, Vec<Arc<Pod>>)> {
    let mut groups: BTreeMap<usize, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        let priority = match pod.spec().priority {
            Some(priority) => priority,
            None if pod.is_critical() => SYSTEM_CRITICAL,
            None => 0,
        };
        let index = periods.iter().rposition(|period| period.priority <= priority).unwrap_or(0);
        groups.entry(index).or_default().push(pod);
    }
    periods.iter().enumerate().map(|(i, p)| (*p, groups.remove(&i).unwrap_or_default())).collect()
}

/// Waits for logind's word until the kubelet itself is told to stop.
pub async fn run(kubelet: Arc<Kubelet>, stop: CancellationToken) {
    let periods = periods(&kubelet.config);
    if periods.is_empty() {
        return;
    }
    let mut pause = PAUSE;
    loop {
        let watched = async {
            let bus = zbus::Connection::system().await.context("cannot reach the system bus")?;
            watch(&kubelet, &bus, &periods, Path::new(DROP_IN)).await
        };
        tokio::select! {
            () = stop.cancelled() => return,
            ended = watched => {
                if let Err(error) = ended {
                    tracing::warn!(error = format!("{error:#}"), "Failed to watch for a node shutdown");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
        }
    }
}

#[zbus::proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1",
    gen_blocking = false
)]
trait Logind {
    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> zbus::Result<OwnedFd>;
    #[zbus(property(emits_changed_signal = "false"), name = "InhibitDelayMaxUSec")]
    fn inhibit_delay_max_usec(&self) -> zbus::Result<u64>;
    #[zbus(signal)]
    fn prepare_for_shutdown(&self, begins: bool) -> zbus::Result<()>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    gen_blocking = false
)]
trait Systemd {
    fn kill_unit(&self, name: &str, whom: &str, signal: i32) -> zbus::Result<()>;
}

/// Holds logind up from the beginning of a shutdown until the pods have ended.
async fn watch(
    kubelet: &Kubelet,
    bus: &zbus::Connection,
    periods: &[Period],
    drop_in: &Path,
) -> anyhow::Result<()> {
    let logind = LogindProxy::builder(bus).cache_properties(zbus::proxy::CacheProperties::No).build().await?;
    let needed = Duration::from_secs(periods.iter().map(|p| u64::try_from(p.seconds).unwrap_or(0)).sum());
    ensure_delay(bus, &logind, needed, drop_in).await?;
    let mut words = logind.receive_prepare_for_shutdown().await?;
    let mut lock = Some(inhibit(&logind).await?);
    while let Some(word) = words.next().await {
        match word.args()?.begins {
            true => {
                tracing::info!("Shutdown manager detected new shutdown event");
                kubelet.events.node("Normal", "Shutdown", "Shutdown manager detected shutdown event");
                kubelet.shutdown.set(true);
                kubelet.node_changed.notify_one();
                crate::metrics::node::shutdown_began();
                end_pods(kubelet, periods).await;
                crate::metrics::node::shutdown_ended();
                // Nothing holds the machine up any more.
                drop(lock.take());
            }
            false => {
                tracing::info!("Shutdown manager detected shutdown cancellation");
                kubelet.events.node("Normal", "Shutdown", "Shutdown manager detected shutdown cancellation");
                kubelet.shutdown.set(false);
                kubelet.node_changed.notify_one();
                lock = Some(inhibit(&logind).await?);
            }
        }
    }
    bail!("the bus was closed")
}

async fn inhibit(logind: &LogindProxy<'_>) -> zbus::Result<OwnedFd> {
    logind.inhibit("shutdown", "kubelet", "Kubelet needs time to handle node shutdown", "delay").await
}

/// Logind waits no longer than it is told to: if that is too short, it is told more.
async fn ensure_delay(
    bus: &zbus::Connection,
    logind: &LogindProxy<'_>,
    needed: Duration,
    drop_in: &Path,
) -> anyhow::Result<()> {
    let current = Duration::from_micros(logind.inhibit_delay_max_usec().await?);
    if current >= needed {
        return Ok(());
    }
    let text = format!("# Kubelet logind override\n[Login]\nInhibitDelayMaxSec={}\n", needed.as_secs());
    if let Some(dir) = drop_in.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(drop_in, text).with_context(|| format!("cannot write {}", drop_in.display()))?;
    let systemd = SystemdProxy::new(bus).await?;
    systemd.kill_unit("systemd-logind.service", "all", libc::SIGHUP).await?;
    let now = Duration::from_micros(logind.inhibit_delay_max_usec().await?);
    if now < needed {
        bail!(
            "node shutdown manager was unable to update logind InhibitDelayMaxSec to {needed:?} (ShutdownGracePeriod), current value of InhibitDelayMaxSec ({now:?}) is less than requested ShutdownGracePeriod"
        );
    }
    Ok(())
}

/// Ends all pods, one group after the other, each for as long as its period allows.
async fn end_pods(kubelet: &Kubelet, periods: &[Period]) {
    for (period, pods) in groups(periods, kubelet.pods.active()) {
        let mut ends: Vec<_> = pods.iter().filter_map(|pod| end_pod(kubelet, pod, period)).collect();
        let all = async {
            for end in &mut ends {
                // A pod whose worker is gone has ended, too.
                let _ = end.wait_for(|ended| *ended).await;
            }
        };
        let limit = Duration::from_secs(u64::try_from(period.seconds).unwrap_or(0));
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!(priority = period.priority, "Shutdown manager pod killing time out");
        }
    }
}

fn end_pod(kubelet: &Kubelet, pod: &Pod, period: Period) -> Option<tokio::sync::watch::Receiver<bool>> {
    let grace = pod.spec().termination_grace_period_seconds.unwrap_or(30).min(period.seconds);
    let condition = PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some("TerminationByKubelet".into()),
        message: Some(MESSAGE.into()),
        last_transition_time: Some(now()),
        observed_generation: pod.metadata.generation,
        last_probe_time: None,
    };
    let decree = Decree {
        verdict: Some(Verdict { reason: "Terminated".into(), message: MESSAGE.into() }),
        grace: Some(grace),
        conditions: vec![condition],
        rejected: false,
    };
    kubelet.pods.decree(pod.uid(), decree);
    kubelet.pods.end_of(pod.uid())
}

#[cfg(test)]
mod tests;

//! The systemd driver's other half: slices are units of systemd, which would set its own limits where it is not told
//! ours. Units are made and stopped over the system bus, by a task of their own, in the order they were asked for.
//!
//! The folders are made and limited beside that, so a pod never waits for the bus; what systemd then writes is the same.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use zbus::zvariant::Value;

use super::Limits;

/// Slices that may wait for the bus; when it stands still longer, the next look at a pod asks again.
const WAITING: usize = 1024;

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    /// A slice is to be there, with these limits.
    Slice(String, Limits),
    /// A slice is to be no more.
    Stop(String),
}

/// The way to systemd.
pub struct Units(mpsc::Sender<Order>);

/// The orders' other end.
pub type Orders = mpsc::Receiver<Order>;

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    gen_blocking = false
)]
trait Manager {
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Value<'_>)],
        aux: &[(&str, Vec<(&str, Value<'_>)>)],
    ) -> zbus::Result<zbus::zvariant::OwnedObjectPath>;
    fn set_unit_properties(
        &self,
        name: &str,
        runtime: bool,
        properties: &[(&str, Value<'_>)],
    ) -> zbus::Result<()>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<zbus::zvariant::OwnedObjectPath>;
}

impl Units {
    /// A way, and its other end for [`run`].
    pub fn new() -> (Self, Orders) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), receiver)
    }

    /// Gives an order; never waits.
    pub fn order(&self, order: Order) {
        if self.0.try_send(order).is_err() {
            tracing::debug!("systemd does not keep up with slices");
        }
    }
}

/// Carries orders out until the shutdown.
pub async fn run(mut orders: Orders, v2: bool, shutdown: CancellationToken) {
    let bus = match zbus::Connection::system().await {
        Ok(bus) => bus,
        Err(error) => {
            tracing::warn!(%error, "Cannot reach systemd; slices are only made as folders");
            return;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        result = obey(&bus, &mut orders, v2) => if let Err(error) = result {
            tracing::warn!(%error, "Cannot talk to systemd any more");
        }
    }
}

async fn obey(bus: &zbus::Connection, orders: &mut Orders, v2: bool) -> zbus::Result<()> {
    let systemd =
        ManagerProxy::builder(bus).cache_properties(zbus::proxy::CacheProperties::No).build().await?;
    // A slice that has what is asked for is not set again at each look at its pod.
    let mut known = std::collections::HashMap::new();
    while let Some(order) = orders.recv().await {
        let done = match &order {
            Order::Slice(name, limits) if known.get(name) == Some(limits) => Ok(()),
            Order::Slice(name, limits) => {
                let done = slice(&systemd, name, limits, v2).await;
                if done.is_ok() {
                    known.insert(name.clone(), limits.clone());
                }
                done
            }
            Order::Stop(name) => {
                known.remove(name);
                match systemd.stop_unit(name, "replace").await {
                    Err(error) if !is(&error, "NoSuchUnit") => Err(error),
                    _ => Ok(()),
                }
            }
        };
        if let Err(error) = done {
            tracing::warn!(?order, %error, "systemd refused");
        }
    }
    Ok(())
}

async fn slice(systemd: &ManagerProxy<'_>, name: &str, limits: &Limits, v2: bool) -> zbus::Result<()> {
    let limits = properties(limits, v2);
    let mut all: Vec<(&str, Value<'_>)> = vec![
        ("Description", Value::from(format!("kubelet pod slice {name}"))),
        ("DefaultDependencies", Value::from(false)),
        ("MemoryAccounting", Value::from(true)),
        ("CPUAccounting", Value::from(true)),
        ("TasksAccounting", Value::from(true)),
    ];
    all.extend(limits.iter().map(|(key, value)| (*key, Value::from(*value))));
    match systemd.start_transient_unit(name, "replace", &all, &[]).await {
        Err(error) if is(&error, "UnitExists") => {
            let only: Vec<(&str, Value<'_>)> =
                limits.iter().map(|(key, value)| (*key, Value::from(*value))).collect();
            systemd.set_unit_properties(name, true, &only).await
        }
        done => done.map(drop),
    }
}

/// Whether an error of systemd's is of that name.
fn is(error: &zbus::Error, name: &str) -> bool {
    matches!(error, zbus::Error::MethodError(full, ..) if full.as_str().ends_with(name))
}

/// Limits as systemd names them.
fn properties(limits: &Limits, v2: bool) -> Vec<(&'static str, u64)> {
    let number = |n: i64| u64::try_from(n).unwrap_or(0);
    let or_infinite = |n: i64| if n > 0 { number(n) } else { u64::MAX };
    let mut out = Vec::new();
    if limits.shares > 0 {
        out.push(match v2 {
            true => ("CPUWeight", number(super::weight(limits.shares))),
            false => ("CPUShares", number(limits.shares)),
        });
    }
    // A quota is told as CPU time a second, in steps of ten milliseconds.
    let a_second = |quota: i64| {
        let micros = number(quota) * 1_000_000 / number(limits.period).max(1);
        micros.div_ceil(10_000) * 10_000
    };
    out.push(("CPUQuotaPerSecUSec", if limits.quota > 0 { a_second(limits.quota) } else { u64::MAX }));
    out.push((if v2 { "MemoryMax" } else { "MemoryLimit" }, or_infinite(limits.memory)));
    if limits.pids > 0 {
        out.push(("TasksMax", number(limits.pids)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_as_systemd_names_them() {
        let limits = Limits { shares: 1024, quota: 50_000, memory: 64, period: 100_000, ..Limits::default() };
        assert_eq!(
            properties(&limits, true),
            [("CPUWeight", 39), ("CPUQuotaPerSecUSec", 500_000), ("MemoryMax", 64)]
        );
        let open = Limits { pids: 7, ..Limits::default() };
        assert_eq!(
            properties(&open, false),
            [("CPUQuotaPerSecUSec", u64::MAX), ("MemoryLimit", u64::MAX), ("TasksMax", 7)]
        );
    }
}

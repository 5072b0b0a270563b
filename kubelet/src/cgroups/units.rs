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
/// How long to wait before a bus that is gone is tried again.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(10);

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
    // The one that was being carried out when the bus went away.
    let mut left = None;
    loop {
        let obeyed = async {
            let bus = zbus::Connection::system().await?;
            obey(&bus, &mut orders, &mut left, v2).await
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            result = obeyed => match result {
                Ok(()) => return,
                Err(error) => tracing::warn!(%error, "Cannot reach systemd; slices are only made as folders"),
            },
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Ends with an error if the bus is gone, and without when nobody gives orders any more.
async fn obey(
    bus: &zbus::Connection,
    orders: &mut Orders,
    left: &mut Option<Order>,
    v2: bool,
) -> zbus::Result<()> {
    let systemd =
        ManagerProxy::builder(bus).cache_properties(zbus::proxy::CacheProperties::No).build().await?;
    // A slice that has what is asked for is not set again at each look at its pod.
    let mut known = std::collections::HashMap::new();
    loop {
        let order = match left.take() {
            Some(order) => order,
            None => match orders.recv().await {
                Some(order) => order,
                None => return Ok(()),
            },
        };
        match carry_out(&systemd, &order, &mut known, v2).await {
            Ok(()) => {}
            Err(error @ zbus::Error::MethodError(..)) => tracing::warn!(?order, %error, "systemd refused"),
            Err(error) => {
                *left = Some(order);
                return Err(error);
            }
        }
    }
}

async fn carry_out(
    systemd: &ManagerProxy<'_>,
    order: &Order,
    known: &mut std::collections::HashMap<String, Limits>,
    v2: bool,
) -> zbus::Result<()> {
    match order {
        Order::Slice(name, limits) => {
            // What an order does not speak of stays, so the same may be told in turns.
            let before = known.get(name).cloned().unwrap_or_default();
            let now = over(&before, limits);
            if known.get(name) != Some(&now) {
                slice(systemd, name, limits, v2).await?;
                known.insert(name.clone(), now);
            }
            Ok(())
        }
        Order::Stop(name) => {
            known.remove(name);
            match systemd.stop_unit(name, "replace").await {
                Err(error) if !is(&error, "NoSuchUnit") => Err(error),
                _ => Ok(()),
            }
        }
    }
}

/// What holds when limits are told to a slice that has some.
fn over(before: &Limits, told: &Limits) -> Limits {
    let newer = |new: i64, old: i64| if new != 0 { new } else { old };
    Limits {
        shares: newer(told.shares, before.shares),
        quota: newer(told.quota, before.quota),
        period: newer(told.period, before.period),
        memory: newer(told.memory, before.memory),
        pids: newer(told.pids, before.pids),
        // Not for systemd.
        hugepages: Vec::new(),
        cpus: if told.cpus.is_empty() { before.cpus.clone() } else { told.cpus.clone() },
        min: told.min.or(before.min),
        low: told.low.or(before.low),
    }
}

async fn slice(systemd: &ManagerProxy<'_>, name: &str, limits: &Limits, v2: bool) -> zbus::Result<()> {
    let limits = properties(limits, v2);
    let mut all: Vec<(&str, Value<'_>)> = vec![
        ("Description", Value::from(format!("libcontainer container {name}"))),
        ("Wants", Value::from(vec![parent(name)])),
        ("DefaultDependencies", Value::from(false)),
        ("MemoryAccounting", Value::from(true)),
        ("CPUAccounting", Value::from(true)),
        ("TasksAccounting", Value::from(true)),
        (if v2 { "IOAccounting" } else { "BlockIOAccounting" }, Value::from(true)),
    ];
    all.extend(limits.iter().map(|(key, value)| (*key, value.clone())));
    match systemd.start_transient_unit(name, "replace", &all, &[]).await {
        Err(error) if is(&error, "UnitExists") => systemd.set_unit_properties(name, true, &limits).await,
        done => done.map(drop),
    }
}

/// The slice that a slice is in; its name says so.
fn parent(slice: &str) -> String {
    match slice.rsplit_once('-') {
        Some((parent, _)) => format!("{parent}.slice"),
        None => "-.slice".into(),
    }
}

/// A quota a period as systemd keeps it: it counts CPU time in steps of ten milliseconds a second.
pub fn rounded(quota: i64, period: i64) -> i64 {
    let a_second = i128::from(quota) * 1_000_000 / i128::from(period.max(1));
    let whole = (a_second + 9_999) / 10_000 * 10_000;
    i64::try_from(whole * i128::from(period) / 1_000_000).unwrap_or(quota)
}

/// Whether an error of systemd's is of that name.
fn is(error: &zbus::Error, name: &str) -> bool {
    matches!(error, zbus::Error::MethodError(full, ..) if full.as_str().ends_with(name))
}

/// Limits as systemd names them.
fn properties(limits: &Limits, v2: bool) -> Vec<(&'static str, Value<'static>)> {
    let number = |n: i64| u64::try_from(n).unwrap_or(0);
    let or_infinite = |n: i64| if n > 0 { number(n) } else { u64::MAX };
    let mut out = Vec::new();
    let mut set = |key, value: u64| out.push((key, Value::from(value)));
    if limits.shares > 0 {
        match v2 {
            true => set("CPUWeight", number(super::weight(limits.shares))),
            false => set("CPUShares", number(limits.shares)),
        }
    }
    // A quota is told as CPU time a second, in steps of ten milliseconds.
    let a_second = |quota: i64| {
        let micros = number(quota) * 1_000_000 / number(limits.period).max(1);
        micros.div_ceil(10_000) * 10_000
    };
    if limits.quota != 0 {
        set("CPUQuotaPerSecUSec", if limits.quota > 0 { a_second(limits.quota) } else { u64::MAX });
        if v2 {
            set("CPUQuotaPeriodUSec", number(limits.period));
        }
    }
    if limits.memory != 0 {
        set(if v2 { "MemoryMax" } else { "MemoryLimit" }, or_infinite(limits.memory));
    }
    if limits.pids > 0 {
        set("TasksMax", number(limits.pids));
    }
    if v2 {
        limits.min.into_iter().for_each(|bytes| set("MemoryMin", number(bytes)));
        limits.low.into_iter().for_each(|bytes| set("MemoryLow", number(bytes)));
        if let Some(mask) = cpu_mask(&limits.cpus) {
            out.push(("AllowedCPUs", Value::from(mask)));
        }
    }
    out
}

/// A list of CPUs as systemd wants it: a bit for each, the first eight in the first byte.
fn cpu_mask(cpus: &str) -> Option<Vec<u8>> {
    let set: kubelet_resources::CpuSet = cpus.parse().ok()?;
    let last = set.iter().max()?;
    let mut mask = vec![0_u8; last as usize / 8 + 1];
    for cpu in set.iter() {
        if let Some(byte) = mask.get_mut(cpu as usize / 8) {
            *byte |= 1 << (cpu % 8);
        }
    }
    Some(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_as_systemd_names_them() {
        let limits = Limits {
            shares: 1024,
            quota: 50_000,
            memory: 64,
            period: 100_000,
            low: Some(5),
            cpus: "0-2,9".into(),
            ..Limits::default()
        };
        let expected = [
            ("CPUWeight", Value::from(39_u64)),
            ("CPUQuotaPerSecUSec", Value::from(500_000_u64)),
            ("CPUQuotaPeriodUSec", Value::from(100_000_u64)),
            ("MemoryMax", Value::from(64_u64)),
            ("MemoryLow", Value::from(5_u64)),
            ("AllowedCPUs", Value::from(vec![7_u8, 2])),
        ];
        assert_eq!(properties(&limits, true), expected);
        let open = Limits { pids: 7, quota: -1, memory: -1, ..Limits::default() };
        let expected = [
            ("CPUQuotaPerSecUSec", Value::from(u64::MAX)),
            ("MemoryLimit", Value::from(u64::MAX)),
            ("TasksMax", Value::from(7_u64)),
        ];
        assert_eq!(properties(&open, false), expected);
        assert!(properties(&Limits::default(), true).is_empty(), "what is not told stays");
    }

    #[test]
    fn names_and_steps_of_systemd() {
        assert_eq!(parent("kubepods-burstable-pod1_2.slice"), "kubepods-burstable.slice");
        assert_eq!(parent("kubepods.slice"), "-.slice");
        assert_eq!([rounded(12_500, 100_000), rounded(50_000, 100_000)], [13_000, 50_000]);
    }

    #[test]
    fn orders_add_up() {
        let weighed = Limits { shares: 5, low: Some(1), ..Limits::default() };
        let protected = over(&weighed, &Limits { low: Some(2), ..Limits::default() });
        assert_eq!(protected, Limits { shares: 5, low: Some(2), ..Limits::default() });
        assert_eq!(over(&protected, &weighed), Limits { shares: 5, low: Some(1), ..Limits::default() });
    }
}

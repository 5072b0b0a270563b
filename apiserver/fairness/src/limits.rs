//! How many requests each level may have at a time.
//!
//! The server's seats are shared by the levels' shares (the nominal limits). Every [`PERIOD`] seats that a level may
//! lend and did not want go to those that wanted more than they have, in proportion to what they wanted.

use crate::level::{Demand, Level};
use api::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often seats change hands.
pub const PERIOD: Duration = Duration::from_secs(10);
/// How much of yesterday's demand is still in today's.
const SMOOTHING: f64 = 0.977;

/// The limits that a level's object gives it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bounds {
    pub nominal: usize,
    /// What it keeps for itself.
    pub lower: usize,
    /// Up to where it may borrow.
    pub upper: usize,
}

fn of_percent(n: usize, percent: &Value) -> Option<usize> {
    Some((n as f64 * percent.as_f64()? / 100.0).round() as usize)
}

/// The bounds of all levels, by name.
pub fn nominal(total: usize, levels: &[Arc<Value>]) -> BTreeMap<String, Bounds> {
    let part = |o: &Value| {
        let spec = &o["spec"];
        if spec["type"] == "Exempt" { spec["exempt"].clone() } else { spec["limited"].clone() }
    };
    let shares = |o: &Value| {
        let default = if o["spec"]["type"] == "Exempt" { 0 } else { 30 };
        part(o)["nominalConcurrencyShares"].as_u64().unwrap_or(default) as f64
    };
    let sum: f64 = levels.iter().map(|o| shares(o)).sum();
    let mut out = BTreeMap::new();
    for object in levels {
        let nominal = if sum > 0.0 { (total as f64 * shares(object) / sum).ceil() as usize } else { 0 };
        let spec = part(object);
        let lendable = of_percent(nominal, &spec["lendablePercent"]).unwrap_or(0);
        let upper = of_percent(nominal, &spec["borrowingLimitPercent"]).map_or(total, |b| nominal + b);
        let lower = nominal.saturating_sub(lendable);
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        out.insert(name, Bounds { nominal, lower, upper: upper.max(nominal) });
    }
    out
}

/// Demand over time, as one number that rises at once and sinks slowly.
pub fn smooth(before: f64, demand: &Demand) -> f64 {
    let envelope = (demand.average + demand.deviation).min(demand.high);
    envelope.max(SMOOTHING * before + (1.0 - SMOOTHING) * envelope)
}

/// A level in the sharing-out.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Item {
    lower: f64,
    upper: f64,
    target: f64,
}

/// Gives each its target times one fraction, within its bounds, so that all together have `total`. Returns the
/// fraction, too.
fn share_out(total: f64, items: &[Item]) -> (Vec<f64>, f64) {
    let at = |fraction: f64| -> Vec<f64> {
        items.iter().map(|i| (i.target * fraction).clamp(i.lower, i.upper.max(i.lower))).collect()
    };
    let most: f64 = items.iter().map(|i| i.upper.max(i.lower)).sum();
    let (mut low, mut high) = (0.0, 1.0);
    while at(high).iter().sum::<f64>() < total.min(most) - 0.001 && high < 1e9 {
        high *= 2.0;
    }
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if at(middle).iter().sum::<f64>() < total { low = middle } else { high = middle }
    }
    (at(high), high)
}

/// Shares the seats out anew. Returns the fraction of their targets that levels got.
pub fn rebalance(total: usize, levels: &[&Arc<Level>]) -> f64 {
    let mut rest = total as f64;
    let mut limited = Vec::new();
    for level in levels {
        let (bounds, demand) = (level.bounds(), level.take_demand());
        if level.is_exempt() {
            let used = demand.high.max(bounds.lower as f64);
            rest -= used.min(bounds.nominal as f64);
            level.set_limit(bounds.nominal, bounds.lower as f64);
            continue;
        }
        let lower = (bounds.lower as f64).max(demand.high.min(bounds.nominal as f64));
        let target = lower.max(demand.smoothed);
        limited.push((level, bounds, Item { lower, upper: bounds.upper as f64, target }));
    }
    let mut items: Vec<Item> = limited.iter().map(|(_, _, i)| *i).collect();
    if items.iter().map(|i| i.lower).sum::<f64>() > rest {
        // Not even what was wanted is there: everybody goes down towards what they keep in any case.
        for (item, (_, bounds, _)) in items.iter_mut().zip(&limited) {
            item.target = item.lower;
            item.lower = bounds.lower as f64;
        }
    }
    // A target of nothing would stay nothing however much is left.
    items.iter_mut().for_each(|i| i.target = i.target.max(0.1));
    let (shares, fraction) = share_out(rest, &items);
    for ((level, _, item), share) in limited.iter().zip(shares) {
        level.set_limit((share.round() as usize).max(1), item.target);
    }
    fraction
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn shares_become_seats() {
        let level = |name: &str, shares: u32, lend: u32, borrow: Value| {
            Arc::new(json!({"metadata": {"name": name}, "spec": {"type": "Limited", "limited": {
                "nominalConcurrencyShares": shares, "lendablePercent": lend, "borrowingLimitPercent": borrow}}}))
        };
        let exempt = Arc::new(json!({"metadata": {"name": "exempt"}, "spec": {"type": "Exempt"}}));
        let all = [
            level("a", 40, 25, Value::Null),
            level("b", 100, 90, json!(50)),
            level("c", 105, 0, json!(0)),
            exempt,
        ];
        let got = nominal(600, &all);
        assert_eq!(got["a"], Bounds { nominal: 98, lower: 73, upper: 600 });
        assert_eq!(got["b"], Bounds { nominal: 245, lower: 24, upper: 368 });
        assert_eq!(got["c"], Bounds { nominal: 258, lower: 258, upper: 258 });
        assert_eq!(got["exempt"].nominal, 0);
    }

    #[test]
    fn what_is_left_goes_to_those_who_want_it() {
        let item = |lower: f64, upper: f64, target: f64| Item { lower, upper, target };
        let (got, _) = share_out(100.0, &[item(10.0, 100.0, 10.0), item(10.0, 100.0, 30.0)]);
        assert_eq!(got.iter().map(|s| s.round()).collect::<Vec<_>>(), [25.0, 75.0]);
        let (got, _) = share_out(100.0, &[item(40.0, 100.0, 40.0), item(10.0, 20.0, 80.0)]);
        assert_eq!(
            got.iter().map(|s| s.round()).collect::<Vec<_>>(),
            [80.0, 20.0],
            "no more than may be borrowed"
        );
    }

    #[test]
    fn demand_rises_at_once_and_sinks_slowly() {
        let of = |high, average, deviation| Demand { high, average, deviation, smoothed: 0.0 };
        assert_eq!(smooth(0.0, &of(10.0, 8.0, 1.0)), 9.0);
        assert_eq!(smooth(0.0, &of(10.0, 8.0, 5.0)), 10.0);
        let later = smooth(9.0, &of(0.0, 0.0, 0.0));
        assert!((8.7..8.9).contains(&later), "{later}");
    }
}

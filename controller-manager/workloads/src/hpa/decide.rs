//! How many replicas a measured load calls for, and how fast that may change. Pure functions.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::HPAScalingRules;

/// One pod as scaling sees it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    /// Measured use, if there is a measurement.
    pub used: Option<i64>,
    /// What the pod asks for.
    pub request: i64,
    /// Just started: its use does not say much yet.
    pub unready: bool,
}

/// What came of the measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Proposal {
    pub replicas: i32,
    /// Use as a share of the requests, in percent.
    pub utilization: i32,
    /// Use of an average pod.
    pub average: i64,
}

/// What is aimed at.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// Percent of the requests.
    Utilization(i32),
    /// So much each pod.
    Average(i64),
}

/// Changes smaller than this are none: up, down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tolerance(pub f64, pub f64);

impl Tolerance {
    fn within(self, ratio: f64) -> bool {
        (1.0 - self.1) <= ratio && ratio <= (1.0 + self.0)
    }
}

fn ratio(samples: &BTreeMap<String, (i64, i64)>, target: Target) -> Option<(f64, i32, i64)> {
    let used: i64 = samples.values().map(|s| s.0).sum();
    let count = i64::try_from(samples.len()).ok().filter(|n| *n > 0)?;
    match target {
        Target::Utilization(percent) => {
            let asked: i64 = samples.values().map(|s| s.1).sum();
            let now = i32::try_from(used.checked_mul(100)?.checked_div(asked)?).ok()?;
            Some((f64::from(now) / f64::from(percent.max(1)), now, used / count))
        }
        Target::Average(each) => Some(((used / count) as f64 / each.max(1) as f64, 0, used / count)),
    }
}

/// The replicas that bring the load to its target. Pods without measurement are taken to be at whatever
/// extreme makes the change smaller; a change of direction through them is no change.
pub(super) fn propose(
    samples: &BTreeMap<String, Sample>,
    current: i32,
    target: Target,
    tolerance: Tolerance,
) -> Result<Proposal, &'static str> {
    let measured = |s: &Sample| s.used.filter(|_| !s.unready).map(|used| (used, s.request));
    let mut known: BTreeMap<String, (i64, i64)> =
        samples.iter().filter_map(|(name, s)| Some((name.clone(), measured(s)?))).collect();
    if known.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)");
    }
    let (first, utilization, average) = ratio(&known, target).ok_or("no request to compare the use with")?;
    let keep = Proposal { replicas: current, utilization, average };
    let missing = samples.iter().filter(|(_, s)| s.used.is_none() && !s.unready);
    let unready = samples.iter().filter(|(_, s)| s.unready && first > 1.0);
    let gaps: Vec<_> = missing.chain(unready).collect();
    let size = |ratio: f64, pods: usize| (ratio * pods as f64).ceil() as i32;
    if gaps.is_empty() {
        if tolerance.within(first) {
            return Ok(keep);
        }
        return Ok(Proposal { replicas: size(first, known.len()), ..keep });
    }
    for (name, sample) in gaps {
        let used = match target {
            _ if first > 1.0 || sample.unready => 0,
            Target::Utilization(percent) => sample.request * i64::from(percent.max(100)) / 100,
            Target::Average(each) => each,
        };
        known.insert(name.clone(), (used, sample.request));
    }
    let (second, _, _) = ratio(&known, target).ok_or("no request to compare the use with")?;
    let turned = (first < 1.0 && second > 1.0) || (first > 1.0 && second < 1.0);
    let replicas = size(second, known.len());
    let backwards = (second < 1.0 && replicas > current) || (second > 1.0 && replicas < current);
    if tolerance.within(second) || turned || backwards {
        return Ok(keep);
    }
    Ok(Proposal { replicas, ..keep })
}

/// What was done and recommended before, by how long ago.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    pub recommendations: Vec<(Duration, i32)>,
    pub added: Vec<(Duration, i32)>,
    pub removed: Vec<(Duration, i32)>,
}

/// The bounds within which a number may move now.
pub(super) struct Bounds<'a> {
    pub current: i32,
    pub min: i32,
    pub max: i32,
    pub up: Option<&'a HPAScalingRules>,
    pub down: Option<&'a HPAScalingRules>,
    pub down_window: Duration,
}

fn window(rules: Option<&HPAScalingRules>, default: Duration) -> Duration {
    let seconds = rules.and_then(|r| r.stabilization_window_seconds);
    seconds.map_or(default, |s| Duration::from_secs(u64::try_from(s).unwrap_or(0)))
}

/// Holds a number back to what was recommended within the windows.
pub(super) fn stabilize(wanted: i32, history: &History, bounds: &Bounds<'_>) -> i32 {
    let within = |window: Duration| {
        history.recommendations.iter().filter(move |(age, _)| *age < window).map(|(_, n)| *n)
    };
    let least = within(window(bounds.up, Duration::ZERO)).chain([wanted]).min().unwrap_or(wanted);
    let most = within(window(bounds.down, bounds.down_window)).chain([wanted]).max().unwrap_or(wanted);
    bounds.current.max(least).min(most)
}

/// The farthest a set of rules lets the number move, from what it was at the start of each period.
fn limit(
    rules: Option<&HPAScalingRules>,
    current: i32,
    done: &[(Duration, i32)],
    undone: &[(Duration, i32)],
    up: bool,
) -> Option<i32> {
    let select = rules.and_then(|r| r.select_policy.as_deref()).unwrap_or("Max");
    if select == "Disabled" {
        return Some(current);
    }
    let policies = rules.and_then(|r| r.policies.as_deref()).filter(|p| !p.is_empty())?;
    let limits = policies.iter().map(|policy| {
        let period = Duration::from_secs(u64::try_from(policy.period_seconds).unwrap_or(0));
        let sum = |list: &[(Duration, i32)]| {
            list.iter().filter(|(age, _)| *age < period).map(|(_, n)| *n).sum::<i32>()
        };
        let sign = if up { 1 } else { -1 };
        let start = current - sign * sum(done) + sign * sum(undone);
        match policy.type_.as_str() {
            "Percent" => {
                let share = f64::from(start) * (1.0 + f64::from(sign) * f64::from(policy.value) / 100.0);
                if up { share.ceil() as i32 } else { share as i32 }
            }
            _ => start + sign * policy.value,
        }
    });
    // "Max" means the policy that allows the greatest change.
    let greatest = (select == "Max") == up;
    if greatest { limits.max() } else { limits.min() }
}

/// The number within all bounds, and what limited it.
pub(super) fn normalize(
    wanted: i32,
    history: &History,
    bounds: &Bounds<'_>,
) -> (i32, bool, &'static str, &'static str) {
    let current = bounds.current;
    if wanted > current {
        let fallback = if bounds.up.is_none() { (current * 2).max(4) } else { i32::MAX };
        let rate = limit(bounds.up, current, &history.added, &history.removed, true)
            .unwrap_or(fallback)
            .max(current);
        let (most, reason, text) = if bounds.max > rate {
            (
                rate,
                "ScaleUpLimit",
                "the desired replica count is increasing faster than the maximum scale rate",
            )
        } else {
            (
                bounds.max,
                "TooManyReplicas",
                "the desired replica count is more than the maximum replica count",
            )
        };
        if wanted > most {
            return (most, true, reason, text);
        }
    } else if wanted < current {
        let rate = limit(bounds.down, current, &history.removed, &history.added, false)
            .unwrap_or(i32::MIN)
            .min(current);
        let (least, reason, text) = if bounds.min < rate {
            (
                rate,
                "ScaleDownLimit",
                "the desired replica count is decreasing faster than the maximum scale rate",
            )
        } else {
            (bounds.min, "TooFewReplicas", "the desired replica count is less than the minimum replica count")
        };
        if wanted < least {
            return (least, true, reason, text);
        }
    }
    (wanted, false, "DesiredWithinRange", "the desired count is within the acceptable range")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn samples(list: &[(Option<i64>, bool)]) -> BTreeMap<String, Sample> {
        let sample = |(i, (used, unready)): (usize, &(Option<i64>, bool))| {
            (i.to_string(), Sample { used: *used, request: 1000, unready: *unready })
        };
        list.iter().enumerate().map(sample).collect()
    }

    #[test]
    fn load_decides_the_size() {
        let tolerance = Tolerance(0.1, 0.1);
        let run = |list: &[(Option<i64>, bool)], current| {
            propose(&samples(list), current, Target::Utilization(50), tolerance).map(|p| p.replicas)
        };
        assert_eq!(run(&[(Some(1000), false), (Some(1000), false)], 2), Ok(4));
        assert_eq!(run(&[(Some(250), false), (Some(250), false)], 2), Ok(1));
        assert_eq!(run(&[(Some(520), false), (Some(520), false)], 2), Ok(2));
        // A pod without measurement counts as idle when scaling up, and as busy when scaling down.
        assert_eq!(run(&[(Some(1000), false), (None, false)], 2), Ok(2));
        assert_eq!(run(&[(Some(100), false), (None, false)], 2), Ok(2));
        assert_eq!(run(&[(Some(1000), false), (Some(900), true)], 2), Ok(2));
        assert!(run(&[(None, false)], 1).is_err());
    }

    #[test]
    fn changes_are_bounded() {
        let bounds = |current, up: Option<&'static HPAScalingRules>| Bounds {
            current,
            min: 2,
            max: 10,
            up,
            down: None,
            down_window: Duration::from_secs(300),
        };
        let none = History::default();
        assert_eq!(normalize(20, &none, &bounds(6, None)).0, 10);
        assert_eq!(normalize(9, &none, &bounds(2, None)).0, 4);
        assert_eq!(normalize(1, &none, &bounds(5, None)).0, 2);
        let past = History { recommendations: vec![(Duration::from_secs(60), 5)], ..History::default() };
        assert_eq!(stabilize(2, &past, &bounds(5, None)), 5);
        let rules: HPAScalingRules =
            serde_json::from_value(json!({"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}))
                .unwrap();
        let rules: &'static HPAScalingRules = Box::leak(Box::new(rules));
        assert_eq!(normalize(8, &none, &bounds(3, Some(rules))).0, 4);
        let just = History { added: vec![(Duration::from_secs(10), 1)], ..History::default() };
        assert_eq!(normalize(8, &just, &bounds(4, Some(rules))).0, 4);
    }
}

//! What the metrics API answers and what pods ask for, in comparable numbers. Pure functions.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use k8s_openapi::api::autoscaling::v2::MetricTarget;
use k8s_openapi::api::core::v1::Pod;
use kube::core::Selector;
use serde::Deserialize;

use super::decide::Target;

#[derive(Deserialize)]
pub(super) struct PodMetricsList {
    #[serde(default)]
    pub items: Vec<PodMetrics>,
}
#[derive(Deserialize)]
pub(super) struct PodMetrics {
    pub metadata: NameOnly,
    #[serde(default)]
    pub containers: Vec<ContainerMetrics>,
}
#[derive(Deserialize)]
pub(super) struct NameOnly {
    #[serde(default)]
    pub name: String,
}
#[derive(Deserialize)]
pub(super) struct ContainerMetrics {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub usage: BTreeMap<String, String>,
}

/// CPU in thousandths, everything else in units.
pub(super) fn amount(text: &str, resource: &str) -> Option<i64> {
    let quantity = Quantity::parse(text).ok()?;
    Some(if resource == "cpu" { quantity.milli_value() } else { quantity.value() })
}

pub(super) fn request(pod: &Pod, resource: &str, container: Option<&str>) -> Option<i64> {
    let spec = pod.spec.as_ref()?;
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let all = spec.containers.iter().chain(sidecars).filter(|c| container.is_none_or(|name| c.name == name));
    all.map(|c| amount(&c.resources.as_ref()?.requests.as_ref()?.get(resource)?.0, resource)).sum()
}

pub(super) fn target(goal: &MetricTarget, resource: &str) -> anyhow::Result<Target> {
    if let Some(percent) = goal.average_utilization {
        return Ok(Target::Utilization(percent));
    }
    let average = goal.average_value.as_ref().and_then(|q| amount(&q.0, resource));
    average.map(Target::Average).ok_or_else(|| anyhow::anyhow!("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set"))
}

/// Reads a selector in its text form, as a Scale has it.
pub(super) fn parse_selector(text: &str) -> anyhow::Result<Selector> {
    use kube::core::Expression;
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    let list = |t: &str| {
        t.trim()
            .trim_start_matches('(')
            .trim_end_matches(')')
            .split(',')
            .map(|v| v.trim().to_owned())
            .collect()
    };
    let expression = |part: &str| -> Expression {
        let part = part.trim();
        if let Some((key, values)) = part.split_once(" notin ") {
            Expression::NotIn(key.trim().into(), list(values))
        } else if let Some((key, values)) = part.split_once(" in ") {
            Expression::In(key.trim().into(), list(values))
        } else if let Some((key, value)) = part.split_once("!=") {
            Expression::NotEqual(key.trim().into(), value.trim().into())
        } else if let Some((key, value)) = part.split_once('=') {
            Expression::Equal(key.trim().into(), value.trim_start_matches('=').trim().into())
        } else if let Some(key) = part.strip_prefix('!') {
            Expression::DoesNotExist(key.trim().into())
        } else {
            Expression::Exists(part.into())
        }
    };
    Ok(parts.into_iter().filter(|p| !p.trim().is_empty()).map(expression).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::SelectorExt;

    #[test]
    fn selectors_are_read_back() {
        let selector = parse_selector("a=b,c in (d,e),!f,g!=h").unwrap();
        let labels = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>()
        };
        assert!(selector.matches(&labels(&[("a", "b"), ("c", "e")])));
        assert!(!selector.matches(&labels(&[("a", "b"), ("c", "x")])));
        assert!(!selector.matches(&labels(&[("a", "b"), ("c", "e"), ("f", "")])));
    }
}

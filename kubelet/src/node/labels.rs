//! Labels that a node may give itself: within Kubernetes' own domains only those that mean no privilege.

use std::collections::BTreeMap;

use anyhow::bail;

const ALLOWED: [&str; 12] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "node.kubernetes.io/exclude-from-external-load-balancers",
];

const PREFIXES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

fn within(domain: &str, parent: &str) -> bool {
    domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
}

/// Refuses labels of `--node-labels` that the apiserver would not let a node set.
pub fn check(labels: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let forbidden = |key: &&String| {
        let Some((domain, _)) = key.split_once('/') else { return false };
        let ours = within(domain, "kubernetes.io") || within(domain, "k8s.io");
        ours && !ALLOWED.contains(&key.as_str()) && !PREFIXES.iter().any(|p| within(domain, p))
    };
    let bad: Vec<&str> = labels.keys().filter(forbidden).map(String::as_str).collect();
    if !bad.is_empty() {
        bail!(
            "unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: [{}]\n--node-labels in the 'kubernetes.io' namespace must begin with an allowed prefix ({}) or be in the specifically allowed set ({})",
            bad.join(" "),
            PREFIXES.join(", "),
            ALLOWED.join(", ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains() {
        for (key, fine) in [
            ("a", true),
            ("example.com/a", true),
            ("node.kubernetes.io/anything", true),
            ("x.kubelet.kubernetes.io/a", true),
            ("topology.kubernetes.io/zone", true),
            ("node-restriction.kubernetes.io/a", false),
            ("node-role.kubernetes.io/control-plane", false),
            ("k8s.io/a", false),
            ("notk8s.io/a", true),
        ] {
            let labels = BTreeMap::from([(key.to_string(), String::new())]);
            assert_eq!(check(&labels).is_ok(), fine, "{key}");
        }
    }
}

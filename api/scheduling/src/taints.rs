//! Taints of nodes and the tolerations of pods.

use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};

pub const NO_SCHEDULE: &str = "NoSchedule";
pub const PREFER_NO_SCHEDULE: &str = "PreferNoSchedule";
pub const NO_EXECUTE: &str = "NoExecute";

/// Whether the toleration lets a pod bear the taint. An empty effect or key matches all.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |t: &Option<String>| t.as_deref().unwrap_or("").to_owned();
    let (effect, key, value) = (text(&toleration.effect), text(&toleration.key), text(&toleration.value));
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    let taint_value = taint.value.as_deref().unwrap_or("");
    match toleration.operator.as_deref().unwrap_or("") {
        "Exists" => true,
        "" | "Equal" => value == taint_value,
        "Gt" | "Lt" => match (taint_value.parse::<i64>(), value.parse::<i64>()) {
            (Ok(on_node), Ok(wanted)) if toleration.operator.as_deref() == Some("Gt") => on_node > wanted,
            (Ok(on_node), Ok(wanted)) => on_node < wanted,
            _ => false,
        },
        _ => false,
    }
}

/// The first taint with one of the effects that no toleration bears.
pub fn first_untolerated<'a>(
    taints: &'a [Taint],
    tolerations: &[Toleration],
    effects: &[&str],
) -> Option<&'a Taint> {
    taints
        .iter()
        .filter(|t| effects.contains(&t.effect.as_str()))
        .find(|taint| !tolerations.iter().any(|t| tolerates(t, taint)))
}

pub fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_keys_and_effects() {
        let taint =
            Taint { key: "k".into(), value: Some("5".into()), effect: NO_SCHEDULE.into(), time_added: None };
        let t = |key: &str, operator: &str, value: &str, effect: &str| Toleration {
            key: Some(key.into()),
            operator: Some(operator.into()),
            value: Some(value.into()),
            effect: Some(effect.into()),
            toleration_seconds: None,
        };
        let cases = [
            (t("k", "Equal", "5", ""), true),
            (t("k", "", "5", "NoSchedule"), true),
            (t("k", "Equal", "6", ""), false),
            (t("", "Exists", "", ""), true),
            (t("k", "Exists", "", "NoExecute"), false),
            (t("k", "Gt", "4", ""), true),
            (t("k", "Lt", "4", ""), false),
        ];
        for (toleration, expected) in cases {
            assert_eq!(tolerates(&toleration, &taint), expected, "{toleration:?}");
        }
        assert!(first_untolerated(&[taint], &[], &[NO_EXECUTE]).is_none());
    }
}

//! What a job's policies say of failed pods and succeeded indexes. Pure functions.

use controller_kit::meta::MetaExt;
use k8s_openapi::api::batch::v1::{
    Job, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, SuccessPolicy,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::indexes::Indexes;

/// What a failed pod means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A failure like any other.
    Counted,
    /// No failure: the pod is replaced.
    Ignored,
    /// Its index has failed for good.
    FailIndex,
    /// The whole job has failed, for this reason.
    FailJob(String),
}

/// The first rule that matches decides.
pub(super) fn meaning(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Meaning {
    let Some(policy) = policy else { return Meaning::Counted };
    for (index, rule) in policy.rules.iter().enumerate() {
        let text = if let Some(codes) = &rule.on_exit_codes {
            let Some((name, code)) = exit_code(pod, codes) else { continue };
            format!(
                "Container {name} for pod {} failed with exit code {code} matching {} rule at index {index}",
                pod.key(),
                rule.action
            )
        } else {
            let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
            let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
            let matching = |c: &&k8s_openapi::api::core::v1::PodCondition| {
                patterns
                    .iter()
                    .any(|p| p.type_ == c.type_ && p.status.as_deref().unwrap_or("True") == c.status)
            };
            let Some(found) = conditions.into_iter().find(matching) else { continue };
            format!(
                "Pod {} has condition {} matching {} rule at index {index}",
                pod.key(),
                found.type_,
                rule.action
            )
        };
        return match rule.action.as_str() {
            "Ignore" => Meaning::Ignored,
            "FailIndex" => Meaning::FailIndex,
            "FailJob" => Meaning::FailJob(text),
            _ => Meaning::Counted,
        };
    }
    Meaning::Counted
}

fn exit_code(pod: &Pod, wanted: &PodFailurePolicyOnExitCodesRequirement) -> Option<(String, i32)> {
    let status = pod.status.as_ref()?;
    let matches = |s: &&ContainerStatus| {
        let code = s.state.as_ref().and_then(|s| s.terminated.as_ref()).map_or(0, |t| t.exit_code);
        let named = wanted.container_name.as_ref().is_none_or(|n| *n == s.name);
        let listed = wanted.values.contains(&code);
        named
            && code != 0
            && (if wanted.operator == "In" { listed } else { wanted.operator == "NotIn" && !listed })
    };
    let apps = status.container_statuses.iter().flatten();
    let found = apps.chain(status.init_container_statuses.iter().flatten()).find(matches)?;
    Some((found.name.clone(), found.state.as_ref()?.terminated.as_ref()?.exit_code))
}

/// The message of the first success rule that the succeeded indexes satisfy.
pub(super) fn success(
    policy: Option<&SuccessPolicy>,
    completions: i32,
    succeeded: &Indexes,
) -> Option<String> {
    if succeeded.0.is_empty() {
        return None;
    }
    let met = policy?.rules.iter().position(|rule| match &rule.succeeded_indexes {
        Some(text) => {
            let required = Indexes::parse(text, completions);
            let have = i32::try_from(required.0.intersection(&succeeded.0).count()).unwrap_or(i32::MAX);
            required.len() > 0 && (have == required.len() || rule.succeeded_count.is_some_and(|n| have >= n))
        }
        None => rule.succeeded_count.is_some_and(|n| succeeded.len() >= n),
    })?;
    Some(format!("Matched rules at index {met}"))
}

/// Only pods that have ended are replaced, not those that are on their way out.
pub(super) fn only_replace_failed(job: &Job) -> bool {
    let Some(spec) = &job.spec else { return false };
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_are_read_in_order() {
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1]}}]}))
        .unwrap();
        let pod = |code: i32, disrupted: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "status": {"phase": "Failed",
                "conditions": [{"type": "DisruptionTarget", "status": disrupted}],
                "containerStatuses": [{"name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": code}}}]}}))
            .unwrap()
        };
        assert_eq!(meaning(Some(&policy), &pod(42, "True")), Meaning::Ignored);
        let text = "Container main for pod n/p failed with exit code 42 matching FailJob rule at index 1";
        assert_eq!(meaning(Some(&policy), &pod(42, "False")), Meaning::FailJob(text.into()));
        assert_eq!(meaning(Some(&policy), &pod(7, "False")), Meaning::FailIndex);
        assert_eq!(meaning(Some(&policy), &pod(1, "False")), Meaning::Counted);
        assert_eq!(meaning(None, &pod(42, "False")), Meaning::Counted);
    }

    #[test]
    fn success_rules() {
        let policy: SuccessPolicy = serde_json::from_value(json!({"rules": [
            {"succeededIndexes": "0,2", "succeededCount": 1}, {"succeededCount": 3}]}))
        .unwrap();
        let done = |text: &str| success(Some(&policy), 10, &Indexes::parse(text, 10));
        assert_eq!(done("1"), None);
        assert_eq!(done("2").as_deref(), Some("Matched rules at index 0"));
        assert_eq!(done("1,3,4").as_deref(), Some("Matched rules at index 1"));
    }
}

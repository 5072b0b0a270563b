//! clusterrole-aggregation-controller: fills the rules of roles that are sums of others.

use std::sync::Arc;

use controller_kit::meta::{Labels, MetaExt};
use controller_kit::{Context, Key, Queue, Requeue, Shared, errors};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let roles = ctx.informer::<ClusterRole>();
    roles.synced().await;
    let (q, cache) = (queue.clone(), roles.clone());
    roles.watch(move |change| {
        if change.object().aggregation_rule.is_some() {
            q.add(change.object().key());
        }
        let labels = |role: &ClusterRole| role.metadata.labels.clone();
        for sum in cache.list().iter().filter(|r| r.aggregation_rule.is_some()) {
            let now = selects(sum, &labels(change.object()));
            let before = change.old().is_some_and(|old| selects(sum, &labels(old)));
            if now || before {
                q.add(sum.key());
            }
        }
    });
    let workers = ctx.workers("clusterrole-aggregation", "clusterrole-aggregation", 5);
    let (ctx, roles) = (&ctx, &roles);
    workers.run(queue, |key| async move { reconcile(ctx, roles, &key).await }).await;
    Ok(())
}

fn selects(sum: &ClusterRole, labels: &Option<std::collections::BTreeMap<String, String>>) -> bool {
    let selectors = sum.aggregation_rule.iter().flat_map(|r| r.cluster_role_selectors.iter().flatten());
    selectors.into_iter().any(|s| Labels::new(s).matches(labels.as_ref()))
}

/// The rules of all selected roles, each once, selector by selector and role by name.
fn rules(sum: &ClusterRole, roles: &[Arc<ClusterRole>]) -> Vec<PolicyRule> {
    let mut all: Vec<PolicyRule> = Vec::new();
    for selector in sum.aggregation_rule.iter().flat_map(|r| r.cluster_role_selectors.iter().flatten()) {
        let labels = Labels::new(selector);
        let others =
            roles.iter().filter(|r| r.name() != sum.name() && labels.matches(r.metadata.labels.as_ref()));
        for rule in others.flat_map(|r| r.rules.iter().flatten()) {
            if !all.contains(rule) {
                all.push(rule.clone());
            }
        }
    }
    all
}

async fn reconcile(ctx: &Context, roles: &Arc<Shared<ClusterRole>>, key: &Key) -> anyhow::Result<Requeue> {
    let Some(sum) = roles.get(key).filter(|r| r.aggregation_rule.is_some()) else { return Ok(None) };
    let wanted = rules(&sum, &roles.list());
    if sum.rules.clone().unwrap_or_default() == wanted {
        return Ok(None);
    }
    let api: Api<ClusterRole> = Api::all(ctx.client.clone());
    let patch = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": key.name},
        "rules": wanted,
    });
    let params = PatchParams::apply("clusterrole-aggregation-controller").force();
    errors::optional(api.patch(&key.name, &params, &Patch::Apply(patch)).await)?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_summed_without_repetition() {
        let role = |name: &str, label: &str, resource: &str| -> Arc<ClusterRole> {
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": name, "labels": {label: "true"}},
                "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": [resource]}]}))
                .unwrap(),
            )
        };
        let sum: ClusterRole =
            serde_json::from_value(json!({"metadata": {"name": "sum", "labels": {"x": "true"}},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"x": "true"}}]}}))
            .unwrap();
        let all = [
            role("a", "x", "pods"),
            role("b", "x", "pods"),
            role("c", "x", "secrets"),
            role("d", "y", "nodes"),
        ];
        let resources: Vec<_> =
            rules(&sum, &all).into_iter().flat_map(|r| r.resources.unwrap_or_default()).collect();
        assert_eq!(resources, ["pods", "secrets"]);
    }
}

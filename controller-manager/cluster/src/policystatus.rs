//! validatingadmissionpolicy-status-controller: what the types of the objects that a policy is for say of its
//! expressions, as warnings in its status.

use anyhow::Context as _;
use api::GroupVersionKind;
use controller_kit::discovery::{Discovery, discover};
use controller_kit::meta::MetaExt;
use controller_kit::{Context, Key, Queue, Requeue, Shared, errors};
use expressions::Type;
use expressions::admission::{Compiler, Names};
use k8s_openapi::api::admissionregistration::v1::{
    NamedRuleWithOperations, ValidatingAdmissionPolicy, ValidatingAdmissionPolicySpec,
};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

const NAME: &str = "validatingadmissionpolicy-status-controller";
/// How many kinds an expression is checked with at most.
const MOST_KINDS: usize = 10;

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let policies = ctx.informer::<ValidatingAdmissionPolicy>();
    policies.synced().await;
    let q = queue.clone();
    policies.watch(move |change| {
        if !change.deleted() {
            q.add(Key::cluster(change.object().name()));
        }
    });
    let workers = ctx.workers(NAME, "validatingadmissionpolicystatus", 5);
    let (client, policies) = (&ctx.client, &policies);
    workers.run(queue, |key| async move { reconcile(client, policies, &key.name).await }).await;
    Ok(())
}

async fn reconcile(
    client: &Client,
    policies: &Arc<Shared<ValidatingAdmissionPolicy>>,
    name: &str,
) -> anyhow::Result<Requeue> {
    let Some(policy) = policies.get(&Key::cluster(name)) else { return Ok(None) };
    let generation = policy.metadata.generation.unwrap_or_default();
    let seen = policy.status.as_ref().and_then(|s| s.observed_generation).unwrap_or_default();
    if generation <= seen {
        return Ok(None);
    }
    let Some(spec) = &policy.spec else { return Ok(None) };
    let checker = Checker::new(client, spec).await?;
    let mut checking = json!({});
    let warnings = checker.warnings(spec);
    if !warnings.is_empty() {
        checking["expressionWarnings"] = warnings.into();
    }
    let status = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "status": {"observedGeneration": generation, "typeChecking": checking},
    });
    let api: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    match api.patch_status(name, &PatchParams::apply(NAME).force(), &Patch::Apply(&status)).await {
        Ok(_) => Ok(None),
        Err(e) if errors::not_found(&e) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// The kinds that the expressions of a policy are checked with, and the kind of its parameters.
struct Checker {
    kinds: Vec<(GroupVersionKind, Type)>,
    /// `None` without parameters.
    params: Option<Type>,
}

impl Checker {
    async fn new(client: &Client, spec: &ValidatingAdmissionPolicySpec) -> anyhow::Result<Checker> {
        let found = discover(client).await.context("discovery failed")?;
        let rules =
            spec.match_constraints.as_ref().and_then(|m| m.resource_rules.as_deref()).unwrap_or_default();
        let mut kinds = Vec::new();
        for gvk in wanted(rules, &found) {
            if let Some(of) = type_of(client, &found, &gvk).await? {
                kinds.push((gvk, of));
            }
        }
        let params = match &spec.param_kind {
            None => None,
            Some(kind) => {
                let version = kind.api_version.clone().unwrap_or_default();
                let (group, version) = version.split_once('/').unwrap_or(("", &version));
                let gvk = GroupVersionKind::new(group, version, kind.kind.as_deref().unwrap_or_default());
                Some(type_of(client, &found, &gvk).await?.unwrap_or(Type::Dyn))
            }
        };
        Ok(Checker { kinds, params })
    }

    fn warnings(&self, spec: &ValidatingAdmissionPolicySpec) -> Vec<Value> {
        let mut warnings = Vec::new();
        for (i, v) in spec.validations.iter().flatten().enumerate() {
            let message = v.message_expression.as_deref().filter(|m| !m.is_empty());
            for (key, text) in [("expression", Some(v.expression.as_str())), ("messageExpression", message)] {
                let warning = text.map(|t| self.check(t, spec)).unwrap_or_default();
                if !warning.is_empty() {
                    let field = format!("spec.validations[{i}].{key}");
                    warnings.push(json!({"fieldRef": field, "warning": warning}));
                }
            }
        }
        warnings
    }

    /// What is wrong with an expression, for each kind that it does not fit.
    fn check(&self, text: &str, spec: &ValidatingAdmissionPolicySpec) -> String {
        let names = Names { params: self.params.is_some(), authorizer: true, patch: false };
        let mut said = Vec::new();
        for (gvk, of) in &self.kinds {
            let mut compiler = Compiler::typed(of.clone(), self.params.clone().unwrap_or(Type::Dyn));
            for v in spec.variables.iter().flatten() {
                // What is wrong with a variable shows where it is used.
                let _ = compiler.variable(&v.name, &v.expression, names);
            }
            if let Err(why) = compiler.compile(text, names, &[]) {
                let why = why.strip_prefix("compilation failed: ").unwrap_or(&why);
                let mut line = String::new();
                // Writing to a string does not fail.
                let _ = writeln!(line, "{}/{}, Kind={}: {why}", gvk.group, gvk.version, gvk.kind);
                said.push(line);
            }
        }
        said.join("\n")
    }
}

/// The kinds of the resources that rules name outright; wildcards say nothing of types.
fn wanted(rules: &[NamedRuleWithOperations], found: &Discovery) -> Vec<GroupVersionKind> {
    let plain = |list: &Option<Vec<String>>| -> Vec<String> {
        let list = list.clone().unwrap_or_default();
        if list.iter().any(|x| x.contains('*')) { Vec::new() } else { list }
    };
    let mut kinds = BTreeSet::new();
    for rule in rules {
        let (groups, versions) = (plain(&rule.api_groups), plain(&rule.api_versions));
        let resources: Vec<String> = rule.resources.clone().unwrap_or_default();
        let resources: BTreeSet<&str> =
            resources.iter().map(String::as_str).filter(|r| !r.contains(['*', '/'])).collect();
        for known in found.all() {
            let named = groups.contains(&known.group)
                && versions.contains(&known.version)
                && resources.contains(known.plural.as_str());
            if named && kinds.len() < MOST_KINDS {
                kinds.insert((known.group.clone(), known.version.clone(), known.kind.clone()));
            }
        }
    }
    kinds.into_iter().map(|(group, version, kind)| GroupVersionKind::new(&group, &version, &kind)).collect()
}

/// The type of a kind, if anything is known of it.
async fn type_of(client: &Client, found: &Discovery, gvk: &GroupVersionKind) -> anyhow::Result<Option<Type>> {
    if let Some(known) = expressions::kinds::builtin(gvk) {
        return Ok(Some(known));
    }
    if !found.all().iter().any(|r| r.group == gvk.group && r.version == gvk.version && r.kind == gvk.kind) {
        return Ok(None);
    }
    // The published schema: everybody may read it.
    let path = format!("/openapi/v3/apis/{}/{}", gvk.group, gvk.version);
    let request = http::Request::get(path).body(Vec::new())?;
    let document: Value = match client.request(request).await {
        Ok(document) => document,
        Err(e) if errors::not_found(&e) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let is_it = |schema: &&Value| {
        let kinds = schema["x-kubernetes-group-version-kind"].as_array();
        kinds.is_some_and(|kinds| {
            kinds
                .iter()
                .any(|k| k["group"] == gvk.group && k["version"] == gvk.version && k["kind"] == gvk.kind)
        })
    };
    let schemas = document["components"]["schemas"].as_object();
    let schema = schemas.and_then(|all| all.values().find(is_it));
    Ok(schema.and_then(|schema| expressions::kinds::custom(&gvk.kind, schema)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(expression: &str) -> ValidatingAdmissionPolicySpec {
        serde_json::from_value(json!({
            "variables": [{"name": "replicas", "expression": "object.spec.replicas"}],
            "validations": [{"expression": expression}],
        }))
        .expect("a spec")
    }

    #[test]
    fn expressions_are_checked_with_types() {
        let gvk = GroupVersionKind::new("apps", "v1", "Deployment");
        let of = expressions::kinds::builtin(&gvk).expect("a type");
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "replicas": {"type": "string"}}}}});
        let custom = expressions::kinds::custom("Foo", &schema).expect("a type");
        let foo = GroupVersionKind::new("a.b", "v1", "Foo");
        let checker = Checker { kinds: vec![(gvk, of), (foo, custom)], params: None };
        for (text, wanted) in [
            ("object.metadata.labels['a'] == 'b'", vec![]),
            ("object.metadata.creationTimestamp < timestamp(0)", vec![]),
            (
                "variables.replicas == 1",
                vec![
                    "a.b/v1, Kind=Foo: ERROR: <input>:1:20: found no matching overload for '_==_' applied to '(string, int)'",
                ],
            ),
            (
                "object.spec.nope == 1",
                vec![
                    "apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'nope'\n | object.spec.nope == 1\n | ...........^\n",
                ],
            ),
        ] {
            let warnings = checker.warnings(&spec(text));
            assert_eq!(warnings.is_empty(), wanted.is_empty(), "{warnings:?}");
            for start in wanted {
                let said = warnings[0]["warning"].as_str().unwrap_or_default();
                assert!(said.starts_with(start), "{said}");
                assert_eq!(warnings[0]["fieldRef"], "spec.validations[0].expression");
            }
        }
    }
}

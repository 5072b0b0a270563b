//! MutatingAdmissionPolicy.

use super::definitions::{Binding, Policies, Policy};
use super::{is_excluded, namespace, params, patches};
use crate::attributes::{Attributes, Operation};
use crate::chain::{Deps, Plugin};
use crate::matching::Match;
use crate::objects::{name, with_cause};
use crate::scene::{Judge, POLICY_BUDGET, Scene, Session, is_exempt, settle};
use crate::versions;
use api::Value;
use api::registry::Registry;
use api::status::Result;
use auth::Authorizer;
use std::collections::HashSet;
use std::sync::Arc;

pub struct Mutating {
    policies: Policies,
    registry: Arc<dyn Registry>,
    authorizer: Arc<dyn Authorizer>,
}

/// What the policies of a request remember between the first round and a second one.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    last_output: Option<Value>,
    /// Policies that asked to see later changes and have run.
    willing: HashSet<String>,
    /// Those of them that must run again.
    due: HashSet<String>,
}

impl Memory {
    fn require_willing(&mut self) {
        self.due.extend(self.willing.drain());
    }
}

/// Policies that failed, and how.
#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    fn add(&mut self, policy: &Policy, binding: Option<&Binding>, why: &str) {
        if policy.ignore_failure {
            return;
        }
        self.0.push(match binding {
            Some(b) => format!("policy '{}' with binding '{}' denied request: {why}", policy.name, b.name),
            None => format!("policy {:?} denied request: {why}", policy.name),
        });
    }

    fn status(self, a: &Attributes) -> Result<()> {
        let Some(first) = self.0.first().cloned() else { return Ok(()) };
        let refusal = a.forbidden("admission request denied by policy");
        let mut status = self.0.iter().fold(refusal, |s, text| with_cause(s, "", text, ""));
        status.message = first;
        status.reason = "Invalid";
        Err(status)
    }
}

impl Mutating {
    pub fn new(deps: &Deps) -> Self {
        let registry = deps.registry.clone();
        let (policies, bindings) = ("mutatingadmissionpolicies", "mutatingadmissionpolicybindings");
        Mutating {
            policies: Policies::new(registry.clone(), policies, bindings),
            registry,
            authorizer: deps.authorizer.clone(),
        }
    }

    /// How a binding sees the request, with which parameters; nothing if it does not want it.
    async fn wanted(
        &self,
        a: &Attributes,
        policy: &Policy,
        binding: &Binding,
    ) -> std::result::Result<Option<Vec<Option<Value>>>, String> {
        if let Some(criteria) = &binding.criteria
            && criteria.find(a, &*self.registry).await.map_err(|e| e.message)?.is_none()
        {
            return Ok(None);
        }
        params::collect(&*self.registry, policy, binding, &a.namespace).await.map(Some)
    }

    async fn policy(&self, a: &mut Attributes, policy: &Policy, failures: &mut Failures) -> Result<()> {
        let found = match policy.criteria.find(a, &*self.registry).await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(()),
            Err(why) => {
                failures.add(policy, None, &format!("failed to configure policy: {}", why.message));
                return Ok(());
            }
        };
        for binding in &policy.bindings {
            let params = match self.wanted(a, policy, binding).await {
                Ok(Some(params)) => params,
                Ok(None) => continue,
                Err(why) => {
                    failures.add(policy, Some(binding), &format!("failed to configure binding: {why}"));
                    continue;
                }
            };
            for param in &params {
                self.invoke(a, policy, binding, &found, param.as_ref(), failures).await?;
            }
        }
        Ok(())
    }

    async fn invoke(
        &self,
        a: &mut Attributes,
        policy: &Policy,
        binding: &Binding,
        found: &Match,
        param: Option<&Value>,
        failures: &mut Failures,
    ) -> Result<()> {
        let namespace = namespace(a, &*self.registry).await?;
        let user = a.user.clone();
        let judge = Judge::new(&*self.authorizer, &user);
        let mut scene = Scene::new(a, found, namespace.as_deref());
        if !policy.conditions.is_empty() {
            match policy.conditions.hold(&scene, param, &judge).await {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(why) => {
                    failures.add(policy, Some(binding), &why);
                    return Ok(());
                }
            }
        }
        let key = format!("{}/{}/{}", policy.name, binding.name, param.map(name).unwrap_or_default());
        if a.reinvocation.second_round && !a.reinvocation.policies.due.remove(&key) {
            return Ok(());
        }
        let before = scene.object.clone();
        for mutation in &policy.mutations {
            let Some(object) = &scene.object else { break };
            let given = settle(&scene, param, &policy.variables, &judge, POLICY_BUDGET, |s| {
                Session::evaluate(s, &mutation.expression)
            });
            let given = given.await;
            let patched = given.and_then(|g| g).and_then(|given| {
                let registry = &*self.registry;
                patches::patched(registry, &found.resource, &found.kind, object, mutation, given)
            });
            match patched {
                Ok(mut after) => {
                    let room = kinds::room(&found.kind.group, &found.kind.version, &found.kind.kind);
                    room.defaults(&mut after);
                    scene.object = Some(after);
                }
                Err(why) => failures.add(policy, Some(binding), &why),
            }
        }
        if let Some(after) = scene.object.filter(|after| Some(after) != before.as_ref()) {
            a.reinvocation.policies.require_willing();
            a.reinvocation.wanted = true;
            let stored = a.object.take().unwrap_or_default();
            a.object = Some(versions::back(after, &stored));
        }
        if policy.reinvoke_if_needed {
            a.reinvocation.policies.willing.insert(key);
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Plugin for Mutating {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }
    fn handles(&self, _operation: Operation) -> bool {
        true
    }
    async fn admit(&self, a: &mut Attributes) -> Result<()> {
        let policies = self.policies.current();
        if policies.is_empty() || is_exempt(a) || is_excluded(a) {
            return Ok(());
        }
        if a.reinvocation.second_round && a.reinvocation.policies.last_output != a.object {
            a.reinvocation.policies.require_willing();
        }
        let mut failures = Failures::default();
        for policy in policies.iter() {
            self.policy(a, policy, &mut failures).await?;
        }
        a.reinvocation.policies.last_output = a.object.clone();
        failures.status(a)
    }
}

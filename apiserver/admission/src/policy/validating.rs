//! ValidatingAdmissionPolicy.

use super::definitions::{Annotation, Binding, Policies, Policy, Validation};
use super::{is_excluded, namespace, params};
use crate::attributes::{Attributes, Operation};
use crate::chain::{Deps, Plugin};
use crate::matching::Match;
use crate::objects::with_cause;
use crate::scene::{Given, Judge, POLICY_BUDGET, Scene, Session, Stop, is_exempt, settle};
use api::registry::Registry;
use api::status::{Result, Status};
use api::{Value, json};
use auth::Authorizer;
use std::collections::BTreeMap;
use std::sync::Arc;

const LONGEST_MESSAGE: usize = 5 * 1024;
const LONGEST_ANNOTATION: usize = 10 * 1024;

pub struct Validating {
    policies: Policies,
    registry: Arc<dyn Registry>,
    authorizer: Arc<dyn Authorizer>,
}

/// Why a request is not what a policy wants.
struct Denial {
    /// Which of the policy's validations it was.
    index: usize,
    message: String,
    reason: &'static str,
}

impl Denial {
    fn of(index: usize, message: impl Into<String>) -> Self {
        Denial { index, message: message.into(), reason: "Invalid" }
    }
}

/// What the evaluation of a policy for one parameter comes to.
#[derive(Default)]
struct Judged {
    denials: Vec<Denial>,
    annotations: Vec<(String, String)>,
    /// Annotations that could not be made: these deny whatever a binding's actions are.
    failures: Vec<String>,
}

/// What all policies together come to.
#[derive(Default)]
struct Verdict {
    refusal: Option<Status>,
}

impl Verdict {
    fn deny(&mut self, a: &Attributes, policy: &Policy, binding: Option<&Binding>, denial: &Denial) {
        if self.refusal.is_some() {
            return;
        }
        let by = binding.map(|b| format!(" with binding '{}'", b.name)).unwrap_or_default();
        let message =
            format!("ValidatingAdmissionPolicy '{}'{by} denied request: {}", policy.name, denial.message);
        let mut status = with_cause(a.forbidden(&message), "", &message, "");
        status.reason = denial.reason;
        status.code = match denial.reason {
            "Forbidden" => 403,
            "Unauthorized" => 401,
            "RequestEntityTooLarge" => 413,
            _ => 422,
        };
        self.refusal = Some(status);
    }

    fn misconfigured(&mut self, a: &Attributes, policy: &Policy, binding: Option<&Binding>, why: &str) {
        if policy.ignore_failure {
            return;
        }
        let what = if binding.is_some() { "binding" } else { "policy" };
        self.deny(a, policy, binding, &Denial::of(0, format!("failed to configure {what}: {why}")));
    }
}

impl Validating {
    pub fn new(deps: &Deps) -> Self {
        let registry = deps.registry.clone();
        let (policies, bindings) = ("validatingadmissionpolicies", "validatingadmissionpolicybindings");
        Validating {
            policies: Policies::new(registry.clone(), policies, bindings),
            registry,
            authorizer: deps.authorizer.clone(),
        }
    }

    async fn policy(&self, a: &mut Attributes, policy: &Policy, verdict: &mut Verdict) -> Result<()> {
        let registry = &*self.registry;
        let found = match policy.criteria.find(a, registry).await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(()),
            Err(why) => {
                verdict.misconfigured(a, policy, None, &why.message);
                return Ok(());
            }
        };
        let mut annotations: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for binding in &policy.bindings {
            if let Some(criteria) = &binding.criteria {
                match criteria.find(a, registry).await {
                    Ok(Some(_)) => {}
                    Ok(None) => continue,
                    Err(why) => {
                        verdict.misconfigured(a, policy, Some(binding), &why.message);
                        continue;
                    }
                }
            }
            let params = match params::collect(registry, policy, binding, &a.namespace).await {
                Ok(params) => params,
                Err(why) => {
                    verdict.misconfigured(a, policy, Some(binding), &why);
                    continue;
                }
            };
            let namespace = namespace(a, registry).await?;
            let scene = Scene::new(a, &found, namespace.as_deref());
            for param in &params {
                let judged = self.judge(a, policy, &found, &scene, param.as_ref()).await;
                for (key, value) in judged.annotations {
                    let values = annotations.entry(key).or_default();
                    if !values.contains(&value) {
                        values.push(value);
                    }
                }
                for denial in &judged.denials {
                    act(a, policy, binding, denial, verdict);
                }
                for why in judged.failures {
                    verdict.deny(a, policy, Some(binding), &Denial::of(0, why));
                }
            }
        }
        for (key, values) in annotations {
            a.annotate(format!("{}/{key}", policy.name), values.join(", "));
        }
        Ok(())
    }

    async fn judge(
        &self,
        a: &Attributes,
        policy: &Policy,
        _seen_as: &Match,
        scene: &Scene,
        param: Option<&Value>,
    ) -> Judged {
        let judge = Judge::new(&*self.authorizer, &a.user);
        let failed = |why: String| match policy.ignore_failure {
            true => Judged::default(),
            false => Judged { denials: vec![Denial::of(0, why)], ..Judged::default() },
        };
        if !policy.conditions.is_empty() {
            match policy.conditions.hold(scene, param, &judge).await {
                Ok(true) => {}
                Ok(false) => return Judged::default(),
                Err(why) => return failed(why),
            }
        }
        let ignore = policy.ignore_failure;
        let denials = settle(scene, param, &policy.variables, &judge, POLICY_BUDGET, |s| {
            judge_all(s, &policy.validations, ignore)
        });
        let denials = match denials.await {
            Ok(denials) => denials,
            Err(why) => return failed(why),
        };
        let annotated = settle(scene, param, &policy.variables, &judge, POLICY_BUDGET, |s| {
            annotate_all(s, &policy.annotations, ignore)
        });
        match annotated.await {
            Ok((annotations, failures)) => Judged { denials, annotations, failures },
            Err(why) => failed(why),
        }
    }
}

/// Does what a binding wants done about a denial.
fn act(a: &mut Attributes, policy: &Policy, binding: &Binding, denial: &Denial, verdict: &mut Verdict) {
    for action in &binding.actions {
        match action.as_str() {
            "Deny" => verdict.deny(a, policy, Some(binding), denial),
            "Warn" => a.warn(format!(
                "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                policy.name, binding.name, denial.message
            )),
            "Audit" => {
                let note = json!([{
                    "message": denial.message,
                    "policy": policy.name,
                    "binding": binding.name,
                    "expressionIndex": denial.index,
                    "validationActions": binding.actions,
                }]);
                a.annotate("validation.policy.admission.k8s.io/validation_failure", note.to_string());
            }
            _ => {}
        }
    }
}

fn judge_all<'s>(
    session: &mut Session<'s, '_>,
    validations: &'s [Validation],
    ignore: bool,
) -> std::result::Result<Vec<Denial>, Stop> {
    let mut results = Vec::new();
    for v in validations {
        results.push(Session::evaluate(session, &v.expression)?);
    }
    let mut denials = Vec::new();
    for (i, (v, result)) in validations.iter().zip(results).enumerate() {
        match result {
            Ok(Given::Bool(true)) => {}
            Ok(_) => {
                let message = message(session, v)?;
                denials.push(Denial { index: i, message, reason: reason(&v.reason) });
            }
            Err(_) if ignore => {}
            Err(why) => denials.push(Denial::of(i, why)),
        }
    }
    Ok(denials)
}

fn reason(text: &str) -> &'static str {
    const KNOWN: [&str; 4] = ["Unauthorized", "Forbidden", "Invalid", "RequestEntityTooLarge"];
    KNOWN.into_iter().find(|k| *k == text).unwrap_or("Invalid")
}

/// What a user is told: what the message expression says if it says anything sensible, else the message.
fn message<'s>(session: &mut Session<'s, '_>, v: &'s Validation) -> std::result::Result<String, Stop> {
    if let Some(by) = &v.by_expression
        && let Ok(Given::Text(said)) = Session::evaluate(session, by)?
    {
        let said = said.trim();
        if !said.is_empty() && said.len() <= LONGEST_MESSAGE && !said.contains('\n') {
            return Ok(said.to_owned());
        }
    }
    Ok(match v.message.as_str() {
        "" => format!("failed expression: {}", v.expression.text.trim()),
        message => message.to_owned(),
    })
}

type Annotated = (Vec<(String, String)>, Vec<String>);

fn annotate_all<'s>(
    session: &mut Session<'s, '_>,
    annotations: &'s [Annotation],
    ignore: bool,
) -> std::result::Result<Annotated, Stop> {
    let (mut made, mut failures) = (Vec::new(), Vec::new());
    for annotation in annotations {
        match Session::evaluate(session, &annotation.value)? {
            Ok(Given::Text(value)) if !value.trim().is_empty() => {
                let value = value.trim();
                let mut end = value.len().min(LONGEST_ANNOTATION);
                while !value.is_char_boundary(end) {
                    end -= 1;
                }
                made.push((annotation.key.clone(), value[..end].to_owned()));
            }
            Ok(Given::Text(_) | Given::Null) => {}
            Ok(Given::Bool(_) | Given::Other(..)) => failures.push(format!(
                "valueExpression '{}' resulted in unsupported return type. Return type must be either string or null.",
                annotation.value.text
            )),
            Err(_) if ignore => {}
            Err(why) => failures.push(why),
        }
    }
    Ok((made, failures))
}

#[async_trait::async_trait]
impl Plugin for Validating {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }
    fn handles(&self, _operation: Operation) -> bool {
        true
    }
    async fn validate(&self, a: &mut Attributes) -> Result<()> {
        let policies = self.policies.current();
        if policies.is_empty() || is_exempt(a) || is_excluded(a) {
            return Ok(());
        }
        let mut verdict = Verdict::default();
        for policy in policies.iter() {
            self.policy(a, policy, &mut verdict).await?;
        }
        verdict.refusal.map_or(Ok(()), Err)
    }
}

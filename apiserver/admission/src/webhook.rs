//! Admission webhooks: mutating ones one after the other, validating ones all at once. What a hook
//! sees is the object in the version that its rules name; what it answers is believed only as far as
//! the AdmissionReview contract goes.

mod client;
mod hooks;
mod review;

use crate::attributes::{Attributes, Operation};
use crate::chain::{Deps, Plugin};
use crate::matching::Match;
use crate::metrics::Step;
use crate::scene::is_exempt;
use crate::versions;
use api::json;
use api::registry::Registry;
use api::status::{Result, Status};
use auth::Authorizer;
pub use client::Clients;
use futures::future::join_all;
use hooks::{Asked, Hook, Hooks};
use review::{Answer, Invocation};
use std::collections::HashSet;
use std::sync::Arc;

/// What the mutating hooks and policies of a request remember between the first round and a second one, which
/// runs if a later hook has changed what an earlier one saw.
#[derive(Clone, Debug, Default)]
pub struct Reinvocation {
    pub(crate) second_round: bool,
    pub(crate) wanted: bool,
    last_output: Option<api::Value>,
    /// Hooks that asked to see later changes and have run.
    willing: HashSet<String>,
    /// Those of them that must run again.
    due: HashSet<String>,
    pub(crate) policies: crate::policy::Memory,
}

impl Reinvocation {
    fn require_willing(&mut self) {
        self.due.extend(self.willing.drain());
    }
}

/// Why a hook did not let the request pass.
enum Failure {
    /// It could not be asked, or its answer makes no sense: the failure policy decides.
    Calling(String),
    /// It said no, or we did.
    Rejected(Status),
}

/// What both plugins share.
struct Caller {
    registry: Arc<dyn Registry>,
    authorizer: Arc<dyn Authorizer>,
    clients: Clients,
}

impl Caller {
    fn new(deps: &Deps) -> Caller {
        Caller {
            registry: deps.registry.clone(),
            authorizer: deps.authorizer.clone(),
            clients: Clients::default(),
        }
    }

    fn asked(&self) -> Asked<'_> {
        Asked { registry: &*self.registry, authorizer: &*self.authorizer }
    }

    async fn ask(
        &self,
        hook: &Hook,
        invocation: &Invocation,
        mutating: bool,
    ) -> std::result::Result<Answer, Failure> {
        if invocation.attributes.dry_run && !hook.no_side_effects {
            return Err(Failure::Rejected(Status::bad_request(format!(
                "admission webhook {:?} does not support dry run",
                hook.name
            ))));
        }
        let Some(version) = hook.review_version() else {
            return Err(Failure::Calling(
                "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)".into(),
            ));
        };
        let uid = invocation.uid();
        let body = review::request(&uid, version, invocation);
        let reply = self.clients.call(&*self.registry, hook, &body).await;
        let reply = reply.map_err(|why| Failure::Calling(format!("failed to call webhook: {why}")))?;
        review::answer(&uid, version, mutating, &reply)
            .map_err(|why| Failure::Calling(format!("received invalid webhook response: {why}")))
    }
}

impl Failure {
    /// The HTTP status that it would be.
    fn code(&self) -> u16 {
        match self {
            Failure::Rejected(status) => status.code,
            Failure::Calling(_) => 500,
        }
    }

    /// The error of the request, or nothing if the hook may fail.
    fn judged(self, hook: &Hook) -> Result<()> {
        match self {
            Failure::Rejected(status) => Err(status),
            Failure::Calling(why) if hook.ignore_failure => {
                tracing::warn!(webhook = hook.name, why, "failed calling webhook, failing open");
                Ok(())
            }
            Failure::Calling(why) => {
                Err(Status::internal(format!("failed calling webhook {:?}: {why}", hook.name)))
            }
        }
    }
}

fn keep(a: &mut Attributes, hook: &Hook, answer: &mut Answer) {
    a.warnings.append(&mut answer.warnings);
    for (key, value) in answer.annotations.drain(..) {
        a.annotate(format!("{}/{key}", hook.name), value);
    }
}

/// MutatingAdmissionWebhook.
pub struct Mutating {
    hooks: Hooks,
    caller: Caller,
}

impl Mutating {
    pub fn new(deps: &Deps) -> Self {
        Mutating {
            hooks: Hooks::new(deps.registry.clone(), "mutatingwebhookconfigurations"),
            caller: Caller::new(deps),
        }
    }

    /// Whether the hook changed the object.
    async fn run(
        &self,
        a: &mut Attributes,
        hook: &Hook,
        invocation: Match,
    ) -> std::result::Result<bool, Failure> {
        let target = Invocation::new(a, invocation);
        let mut answer = self.caller.ask(hook, &target, true).await?;
        let mut object = target.into_object();
        keep(a, hook, &mut answer);
        if let Some(refusal) = answer.refusal(&hook.name) {
            return Err(Failure::Rejected(refusal));
        }
        let Some(patch) = answer.patch else { return Ok(false) };
        let Some(object) = object.as_mut() else {
            return Err(Failure::Rejected(Status::internal(format!(
                "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                hook.name
            ))));
        };
        let before = object.clone();
        merge::patch::json_patch(object, &patch).map_err(|e| Failure::Rejected(Status::internal(e)))?;
        if !object.is_object() {
            return Err(Failure::Rejected(Status::internal(format!(
                "admission webhook {:?} left no object",
                hook.name
            ))));
        }
        if *object == before {
            return Ok(false);
        }
        let stored = a.object.take().unwrap_or_default();
        a.object = Some(versions::back(object.clone(), &stored));
        Ok(true)
    }
}

#[async_trait::async_trait]
impl Plugin for Mutating {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }
    fn handles(&self, _operation: Operation) -> bool {
        true
    }
    async fn admit(&self, a: &mut Attributes) -> Result<()> {
        let hooks = self.hooks.current();
        if hooks.is_empty() || is_exempt(a) {
            return Ok(());
        }
        let second = a.reinvocation.second_round;
        if second && a.reinvocation.last_output != a.object {
            a.reinvocation.require_willing();
        }
        for (index, hook) in hooks.iter().enumerate() {
            let Some(found) = hook.matches(a, &self.caller.asked()).await? else { continue };
            if second && !a.reinvocation.due.remove(&hook.id) {
                continue;
            }
            let (operation, began) = (a.operation, std::time::Instant::now());
            let outcome = self.run(a, hook, found).await;
            let code = outcome.as_ref().map_or_else(Failure::code, |_| 200);
            crate::metrics::webhook(&hook.name, Step::Admit, operation, began, code);
            let changed = matches!(outcome, Ok(true));
            if changed {
                a.reinvocation.require_willing();
                a.reinvocation.wanted = true;
            }
            let note = json!({"configuration": hook.configuration, "webhook": hook.name, "mutated": changed});
            let round = u8::from(second);
            a.annotate(
                format!("mutation.webhook.admission.k8s.io/round_{round}_index_{index}"),
                note.to_string(),
            );
            if hook.reinvoke_if_needed {
                a.reinvocation.willing.insert(hook.id.clone());
            }
            if let Err(failure) = outcome {
                failure.judged(hook)?;
            }
        }
        a.reinvocation.last_output = a.object.clone();
        Ok(())
    }
}

/// ValidatingAdmissionWebhook.
pub struct Validating {
    hooks: Hooks,
    caller: Caller,
}

impl Validating {
    pub fn new(deps: &Deps) -> Self {
        Validating {
            hooks: Hooks::new(deps.registry.clone(), "validatingwebhookconfigurations"),
            caller: Caller::new(deps),
        }
    }
}

#[async_trait::async_trait]
impl Plugin for Validating {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }
    fn handles(&self, _operation: Operation) -> bool {
        true
    }
    async fn validate(&self, a: &mut Attributes) -> Result<()> {
        let hooks = self.hooks.current();
        if hooks.is_empty() || is_exempt(a) {
            return Ok(());
        }
        let mut calls = Vec::new();
        for hook in hooks.iter() {
            if let Some(found) = hook.matches(a, &self.caller.asked()).await? {
                calls.push((hook, Invocation::new(a, found)));
            }
        }
        let operation = a.operation;
        let asked = calls.iter().map(|(hook, invocation)| async move {
            let began = std::time::Instant::now();
            let answer = self.caller.ask(hook, invocation, false).await;
            let code = match &answer {
                Err(failure) => failure.code(),
                Ok(answer) => answer.refusal(&hook.name).map_or(200, |status| status.code),
            };
            crate::metrics::webhook(&hook.name, Step::Validate, operation, began, code);
            answer
        });
        let answers = join_all(asked).await;
        let hooks: Vec<&Arc<Hook>> = calls.into_iter().map(|(hook, _)| hook).collect();
        let mut first = Ok(());
        for (hook, answer) in hooks.into_iter().zip(answers) {
            let outcome = match answer {
                Err(failure) => failure.judged(hook),
                Ok(mut answer) => {
                    keep(a, hook, &mut answer);
                    answer.refusal(&hook.name).map_or(Ok(()), Err)
                }
            };
            first = first.and(outcome);
        }
        first
    }
}

#[cfg(test)]
mod tests;

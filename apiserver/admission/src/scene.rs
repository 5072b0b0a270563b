//! What expressions see of a request, and their evaluation: match conditions of webhooks and policies, and
//! whatever policies say.

use crate::attributes::Attributes;
use crate::matching::Match;
use crate::objects::{aggregate, text};
use crate::versions::shown;
use api::{GroupVersionKind, GroupVersionResource, Value, json};
use auth::{Authorizer, UserInfo};
use expressions::admission::{Compiler, Names};
use expressions::authz::{Authority, Check, Decision};
use expressions::{Activation, Fault, PER_CALL_LIMIT, Program, Type, Val, authz};
use parking_lot::Mutex;
use std::collections::HashMap;

/// What the match conditions of one webhook or policy may cost.
const CONDITIONS_BUDGET: u64 = 2_500_000;
/// What the expressions of one binding may cost.
pub const POLICY_BUDGET: u64 = 10_000_000;
/// How many decisions of the authorizer one evaluation may need.
const MOST_CHECKS: usize = 256;
const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// Configurations of admission itself are not subject to it.
pub fn is_exempt(a: &Attributes) -> bool {
    const KINDS: [&str; 6] = [
        "ValidatingWebhookConfiguration",
        "MutatingWebhookConfiguration",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "MutatingAdmissionPolicy",
        "MutatingAdmissionPolicyBinding",
    ];
    a.kind.group == "admissionregistration.k8s.io" && KINDS.contains(&a.kind.kind.as_str())
}

fn kind(k: &GroupVersionKind) -> Value {
    json!({"group": k.group, "version": k.version, "kind": k.kind})
}

fn resource(r: &GroupVersionResource) -> Value {
    json!({"group": r.group, "version": r.version, "resource": r.resource})
}

/// The `request` of a review, without the objects.
pub fn request(a: &Attributes, seen_as: &Match) -> Value {
    let mut request = json!({
        "kind": kind(&seen_as.kind),
        "resource": resource(&seen_as.resource),
        "requestKind": kind(&a.kind),
        "requestResource": resource(&a.resource),
        "operation": a.operation.as_str(),
        "userInfo": a.user.to_value(),
        "dryRun": a.dry_run,
        "options": a.options,
    });
    // A namespace counts as being in itself.
    let namespace = if a.is("", "namespaces") { &a.name } else { &a.namespace };
    for (key, value) in [
        ("subResource", &a.subresource),
        ("requestSubResource", &a.subresource),
        ("name", &a.name),
        ("namespace", namespace),
    ] {
        if !value.is_empty() {
            request[key] = value.as_str().into();
        }
    }
    request
}

/// A request as expressions see it.
pub struct Scene {
    pub object: Option<Value>,
    old_object: Option<Value>,
    request: Value,
    namespace: Option<Value>,
    own: Check,
}

impl Scene {
    pub fn new(a: &Attributes, seen_as: &Match, namespace: Option<&Value>) -> Self {
        let own = Check {
            group: seen_as.resource.group.clone(),
            resource: seen_as.resource.resource.clone(),
            subresource: a.subresource.clone(),
            namespace: a.namespace.clone(),
            name: a.name.clone(),
            ..Check::default()
        };
        Scene {
            object: a.object.as_ref().map(|o| shown(o, &seen_as.kind)),
            old_object: a.old_object.as_deref().map(|o| shown(o, &seen_as.kind)),
            request: request(a, seen_as),
            namespace: namespace.map(namespace_object),
            own,
        }
    }

    fn fill<'s>(&'s self, params: Option<&'s Value>, judge: &'s Judge<'s>) -> Activation<'s> {
        let of = |v: Option<&'s Value>| v.map_or(Val::Null, Val::json);
        let mut a = Activation::new();
        a.set("object", of(self.object.as_ref()));
        a.set("oldObject", of(self.old_object.as_ref()));
        a.set("request", Val::json(&self.request));
        a.set("namespaceObject", of(self.namespace.as_ref()));
        a.set("params", of(params));
        a.set("variables", Val::Variables);
        a.set("authorizer", authz::authorizer());
        a.set("authorizer.requestResource", authz::resource(self.own.clone()));
        a.authority(judge);
        a
    }
}

/// Only what is declared of a namespace can be seen.
fn namespace_object(namespace: &Value) -> Value {
    const METADATA: [&str; 12] = [
        "name",
        "generateName",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "labels",
        "annotations",
        "finalizers",
    ];
    let meta = &namespace["metadata"];
    let kept: api::Map<String, Value> =
        METADATA.iter().filter_map(|k| Some(((*k).to_owned(), meta.get(*k)?.clone()))).collect();
    json!({"metadata": kept, "spec": namespace["spec"], "status": namespace["status"]})
}

/// Decisions of the authorizer about the user of a request; each is asked for once.
pub struct Judge<'a> {
    authorizer: &'a dyn Authorizer,
    user: &'a UserInfo,
    known: Mutex<HashMap<Check, Decision>>,
}

impl Authority for Judge<'_> {
    fn decision(&self, check: &Check) -> Option<Decision> {
        self.known.lock().get(check).cloned()
    }
}

impl<'a> Judge<'a> {
    pub fn new(authorizer: &'a dyn Authorizer, user: &'a UserInfo) -> Self {
        Judge { authorizer, user, known: Mutex::default() }
    }

    async fn ask(&self, check: Check) {
        let account = check.service_account.as_ref().map(|(namespace, name)| {
            let name = format!("system:serviceaccount:{namespace}:{name}");
            let group = format!("system:serviceaccounts:{namespace}");
            UserInfo::new(&name, &["system:serviceaccounts", &group, "system:authenticated"])
        });
        let user = account.as_ref().unwrap_or(self.user);
        let attributes = match &check.path {
            Some(path) => auth::authz::Attributes::path(user, &check.verb, path),
            None => auth::authz::Attributes {
                label_selector: check.label_selector.as_deref().unwrap_or_default(),
                field_selector: equal_fields(check.field_selector.as_deref().unwrap_or_default()),
                ..auth::authz::Attributes::resource(user, &check.verb, &check.group, &check.resource)
                    .namespace(&check.namespace)
                    .name(&check.name)
                    .subresource(&check.subresource)
            },
        };
        let verdict = self.authorizer.authorize(&attributes).await;
        let decision = Decision {
            allowed: verdict.allowed(),
            reason: verdict.reason.into_owned(),
            error: verdict.error,
        };
        self.known.lock().insert(check, decision);
    }
}

fn equal_fields(selector: &str) -> Vec<(&str, &str)> {
    let pairs = selector.split(',').filter_map(|part| part.split_once('='));
    pairs
        .filter(|(k, _)| !k.ends_with('!'))
        .map(|(k, v)| (k.trim(), v.trim_start_matches('=').trim()))
        .collect()
}

/// One expression as it stands in a configuration, compiled or not.
pub struct Expression {
    pub text: String,
    pub program: Result<Program, String>,
}

/// What an expression gave.
#[derive(Clone, Debug, PartialEq)]
pub enum Given {
    Bool(bool),
    Text(String),
    Null,
    /// Anything else, if JSON has a form for it; and its type.
    Other(Option<Value>, String),
}

/// A variable of a policy.
pub struct Variable {
    pub name: String,
    pub expression: Expression,
}

/// Expressions that belong together share what they may cost.
pub struct Session<'s, 'c> {
    activation: &'c Activation<'s>,
    remaining: u64,
}

/// Why a session ended before its time.
pub enum Stop {
    Budget,
    Ask(Box<Check>),
}

impl Session<'_, '_> {
    /// Evaluates the next expression. The inner error is the expression's own.
    pub fn evaluate<'s>(
        this: &mut Session<'s, '_>,
        e: &'s Expression,
    ) -> Result<Result<Given, String>, Stop> {
        let program = match &e.program {
            Ok(program) => program,
            Err(why) => return Ok(Err(format!("compilation error: {why}"))),
        };
        let (result, cost) = program.evaluate(this.activation, PER_CALL_LIMIT);
        if let Err(Fault::Undecided(check)) = result {
            return Err(Stop::Ask(check));
        }
        if cost > this.remaining {
            return Err(Stop::Budget);
        }
        this.remaining -= cost;
        Ok(match result {
            Ok(value) => match misnamed(&value) {
                Some(why) => Err(format!("type mismatch: {why}")),
                None => Ok(given(&value)),
            },
            Err(why) => Err(format!("expression '{}' resulted in error: {why}", e.text)),
        })
    }
}

/// What is wrong with the names of a configuration's parts, or of those in the operations of a patch.
fn misnamed(value: &Val<'_>) -> Option<String> {
    match value {
        Val::Object(_) => value.misnamed(),
        Val::List(operations) => operations.iter().find_map(|op| match op {
            Val::Object(op) => op.fields.get("value").and_then(Val::misnamed),
            _ => None,
        }),
        _ => None,
    }
}

fn given(value: &Val<'_>) -> Given {
    match value {
        Val::Bool(b) => Given::Bool(*b),
        Val::Str(s) => Given::Text(s.to_string()),
        Val::Null => Given::Null,
        other => Given::Other(other.to_json(), other.type_of().to_string()),
    }
}

/// Runs a session, again whenever it needs a decision that nobody has asked for yet.
pub async fn settle<'s, T>(
    scene: &'s Scene,
    params: Option<&'s Value>,
    variables: &'s [Variable],
    judge: &'s Judge<'s>,
    budget: u64,
    run: impl Fn(&mut Session<'s, '_>) -> Result<T, Stop>,
) -> Result<T, String> {
    for _ in 0..MOST_CHECKS {
        let stop = {
            let mut activation = scene.fill(params, judge);
            for v in variables {
                if let Ok(program) = &v.expression.program {
                    activation.variable(&v.name, program.root());
                }
            }
            let mut session = Session { activation: &activation, remaining: budget };
            match run(&mut session) {
                Ok(done) => return Ok(done),
                Err(stop) => stop,
            }
        };
        match stop {
            Stop::Budget => break,
            Stop::Ask(check) => judge.ask(*check).await,
        }
    }
    Err(OUT_OF_BUDGET.to_owned())
}

/// The conditions under which a webhook or policy wants a request that it matches.
#[derive(Default)]
pub struct Conditions(Vec<Expression>);

impl Conditions {
    pub fn compile(list: &[Value], params: bool) -> Self {
        let names = Names { params, authorizer: true, patch: false };
        let compiler = Compiler::plain();
        let compile = |c: &Value| {
            let text = text(c, &["expression"]).to_owned();
            let program = compiler.compile(&text, names, &[Type::Bool]);
            Expression { text, program }
        };
        Conditions(list.iter().map(compile).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all of them hold. One that does not decides, whatever errors others have.
    pub async fn hold(
        &self,
        scene: &Scene,
        params: Option<&Value>,
        judge: &Judge<'_>,
    ) -> Result<bool, String> {
        let all = settle(scene, params, &[], judge, CONDITIONS_BUDGET, |session| {
            let mut errors = Vec::new();
            for condition in &self.0 {
                match Session::evaluate(session, condition)? {
                    Ok(Given::Bool(true)) => {}
                    Ok(_) => return Ok(Ok(false)),
                    Err(why) => errors.push(why),
                }
            }
            Ok(aggregate(errors).map_or(Ok(true), Err))
        });
        all.await?
    }
}

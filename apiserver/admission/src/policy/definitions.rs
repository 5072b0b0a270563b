//! The policies that have bindings, compiled once for each change of them.

use crate::matching::Criteria;
use crate::objects::{items, name, text};
use crate::scene::{Conditions, Expression, Variable};
use api::Value;
use api::registry::Registry;
use arc_swap::ArcSwapOption;
use expressions::Type;
use expressions::admission::{Compiler, Names, json_patch_type, object_type};
use std::sync::Arc;

const GROUP: &str = "admissionregistration.k8s.io";

/// One rule of a validating policy.
pub struct Validation {
    pub expression: Expression,
    pub message: String,
    pub by_expression: Option<Expression>,
    pub reason: String,
}

/// An annotation that a policy adds to the audit event.
pub struct Annotation {
    pub key: String,
    pub value: Expression,
}

/// One change of a mutating policy.
pub struct Mutation {
    pub json_patch: bool,
    pub expression: Expression,
}

pub struct Policy {
    pub name: String,
    pub ignore_failure: bool,
    pub criteria: Criteria,
    pub conditions: Conditions,
    /// `apiVersion` and `kind` of its parameters.
    pub param_kind: Option<(String, String)>,
    pub variables: Vec<Variable>,
    pub validations: Vec<Validation>,
    pub annotations: Vec<Annotation>,
    pub mutations: Vec<Mutation>,
    pub reinvoke_if_needed: bool,
    pub bindings: Vec<Binding>,
}

pub struct Binding {
    pub name: String,
    pub criteria: Option<Criteria>,
    pub param_ref: Option<Value>,
    pub actions: Vec<String>,
}

impl Binding {
    fn read(v: &Value) -> Self {
        let spec = &v["spec"];
        let there = |key: &str| spec.get(key).filter(|v| !v.is_null());
        Binding {
            name: name(v).to_owned(),
            criteria: there("matchResources").map(Criteria::of_binding),
            param_ref: there("paramRef").cloned(),
            actions: crate::objects::strings(spec, &["validationActions"]),
        }
    }
}

impl Policy {
    fn read(v: &Value, bindings: &[Arc<Value>]) -> Self {
        let spec = &v["spec"];
        let own = name(v).to_owned();
        let param_kind = spec.get("paramKind").filter(|p| !p.is_null());
        let param_kind =
            param_kind.map(|p| (text(p, &["apiVersion"]).to_owned(), text(p, &["kind"]).to_owned()));
        let names = Names { params: param_kind.is_some(), authorizer: true, patch: false };
        let mut compiler = Compiler::composed();
        let variable = |v: &Value| {
            let (name, text) = (text(v, &["name"]).to_owned(), text(v, &["expression"]).to_owned());
            let program = compiler.variable(&name, &text, names);
            Variable { name, expression: Expression { text, program } }
        };
        let variables = items(spec, &["variables"]).iter().map(variable).collect();
        let compile = |text: &str, names: Names, wanted: &[Type]| Expression {
            text: text.to_owned(),
            program: compiler.compile(text, names, wanted),
        };
        let in_message = Names { authorizer: false, ..names };
        let validation = |v: &Value| Validation {
            expression: compile(text(v, &["expression"]), names, &[Type::Bool]),
            message: text(v, &["message"]).trim().to_owned(),
            by_expression: Some(text(v, &["messageExpression"]))
                .filter(|m| !m.trim().is_empty())
                .map(|m| compile(m, in_message, &[Type::String])),
            reason: text(v, &["reason"]).to_owned(),
        };
        let annotation = |v: &Value| Annotation {
            key: text(v, &["key"]).to_owned(),
            value: compile(text(v, &["valueExpression"]), names, &[Type::String, Type::Null]),
        };
        let mutation = |v: &Value| {
            let json_patch = text(v, &["patchType"]) == "JSONPatch";
            let (key, wanted) = match json_patch {
                true => ("jsonPatch", Type::list(json_patch_type())),
                false => ("applyConfiguration", object_type()),
            };
            let names = Names { patch: true, ..names };
            Mutation { json_patch, expression: compile(text(v, &[key, "expression"]), names, &[wanted]) }
        };
        Policy {
            ignore_failure: text(spec, &["failurePolicy"]) == "Ignore",
            criteria: Criteria::of_policy(&spec["matchConstraints"]),
            conditions: Conditions::compile(items(spec, &["matchConditions"]), param_kind.is_some()),
            variables,
            validations: items(spec, &["validations"]).iter().map(validation).collect(),
            annotations: items(spec, &["auditAnnotations"]).iter().map(annotation).collect(),
            mutations: items(spec, &["mutations"]).iter().map(mutation).collect(),
            reinvoke_if_needed: text(spec, &["reinvocationPolicy"]) == "IfNeeded",
            bindings: bindings
                .iter()
                .filter(|b| text(b, &["spec", "policyName"]) == own)
                .map(|b| Binding::read(b))
                .collect(),
            param_kind,
            name: own,
        }
    }
}

type List = Arc<Vec<Policy>>;
type Revisions = (i64, i64);

/// All policies of one sort that have bindings, by name.
pub struct Policies {
    registry: Arc<dyn Registry>,
    policies: &'static str,
    bindings: &'static str,
    current: ArcSwapOption<(Revisions, List)>,
}

impl Policies {
    pub fn new(registry: Arc<dyn Registry>, policies: &'static str, bindings: &'static str) -> Self {
        Policies { registry, policies, bindings, current: ArcSwapOption::empty() }
    }

    pub fn current(&self) -> List {
        let (policies, bindings) = ((GROUP, self.policies), (GROUP, self.bindings));
        let revisions = (self.registry.revision(policies), self.registry.revision(bindings));
        if let Some(known) = self.current.load_full()
            && known.0 == revisions
        {
            return known.1.clone();
        }
        let sorted = |gr| {
            let mut all = self.registry.list(gr, None);
            all.sort_by(|a, b| name(a).cmp(name(b)));
            all
        };
        let bindings = sorted(bindings);
        let read = sorted(policies).iter().map(|p| Policy::read(p, &bindings)).collect::<Vec<_>>();
        let list: List = Arc::new(read.into_iter().filter(|p| !p.bindings.is_empty()).collect());
        self.current.store(Some(Arc::new((revisions, list.clone()))));
        list
    }
}

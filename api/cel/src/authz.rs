//! The `authorizer` of expressions: who asks for what is built up step by step; deciding is the caller's.

use crate::error::{Fault, Result};
use crate::value::Val;
use std::sync::Arc;

/// What an authorizer is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Check {
    /// Instead of the user of the request: namespace and name of a service account.
    pub service_account: Option<(String, String)>,
    /// Of a request for something that is no resource.
    pub path: Option<String>,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub field_selector: Option<String>,
    pub label_selector: Option<String>,
    pub verb: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    pub allowed: bool,
    pub reason: String,
    pub error: Option<String>,
}

/// Whoever knows decisions. `None` means that it has to be asked first, outside of the evaluation.
pub trait Authority {
    fn decision(&self, check: &Check) -> Option<Decision>;
}

/// A value of the authorizer's types.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    Authorizer(Check),
    Path(Check),
    Group(Check),
    Resource(Check),
    Decision(Decision),
}

impl Subject {
    pub fn type_name(&self) -> &'static str {
        match self {
            Subject::Authorizer(_) => "kubernetes.authorization.Authorizer",
            Subject::Path(_) => "kubernetes.authorization.PathCheck",
            Subject::Group(_) => "kubernetes.authorization.GroupCheck",
            Subject::Resource(_) => "kubernetes.authorization.ResourceCheck",
            Subject::Decision(_) => "kubernetes.authorization.Decision",
        }
    }
}

/// The authorizer itself.
pub fn authorizer<'a>() -> Val<'a> {
    Val::Authz(Arc::new(Subject::Authorizer(Check::default())))
}

/// A check of the resource of the request.
pub fn resource<'a>(check: Check) -> Val<'a> {
    Val::Authz(Arc::new(Subject::Resource(check)))
}

pub(crate) fn call<'a>(
    authority: Option<&dyn Authority>,
    name: &str,
    on: &Subject,
    args: &[Val<'a>],
) -> Result<Val<'a>> {
    let text = |i: usize| match args.get(i) {
        Some(Val::Str(s)) => Ok(s.to_string()),
        _ => Err(Fault::no_such_overload()),
    };
    let made = |s: Subject| Ok(Val::Authz(Arc::new(s)));
    match (name, on.clone()) {
        ("path", Subject::Authorizer(c)) => made(Subject::Path(Check { path: Some(text(0)?), ..c })),
        ("group", Subject::Authorizer(c)) => made(Subject::Group(Check { group: text(0)?, ..c })),
        ("serviceAccount", Subject::Authorizer(c)) => {
            let account = (text(0)?, text(1)?);
            if account.0.is_empty() || account.1.is_empty() {
                return Err(Fault::error("Invalid service account namespace or name"));
            }
            made(Subject::Authorizer(Check { service_account: Some(account), ..c }))
        }
        ("resource", Subject::Group(c)) => made(Subject::Resource(Check { resource: text(0)?, ..c })),
        ("subresource", Subject::Resource(c)) => {
            made(Subject::Resource(Check { subresource: text(0)?, ..c }))
        }
        ("namespace", Subject::Resource(c)) => made(Subject::Resource(Check { namespace: text(0)?, ..c })),
        ("name", Subject::Resource(c)) => made(Subject::Resource(Check { name: text(0)?, ..c })),
        ("fieldSelector", Subject::Resource(c)) => {
            made(Subject::Resource(Check { field_selector: Some(text(0)?), ..c }))
        }
        ("labelSelector", Subject::Resource(c)) => {
            made(Subject::Resource(Check { label_selector: Some(text(0)?), ..c }))
        }
        ("check", Subject::Path(c) | Subject::Resource(c)) => {
            let check = Check { verb: text(0)?, ..c };
            match authority.and_then(|a| a.decision(&check)) {
                Some(decision) => made(Subject::Decision(decision)),
                None => Err(Fault::Undecided(Box::new(check))),
            }
        }
        ("allowed", Subject::Decision(d)) => Ok(Val::Bool(d.allowed)),
        ("reason", Subject::Decision(d)) => Ok(Val::str(d.reason)),
        ("errored", Subject::Decision(d)) => Ok(Val::Bool(d.error.is_some())),
        ("error", Subject::Decision(d)) => Ok(Val::str(d.error.unwrap_or_default())),
        _ => Err(Fault::no_such_overload()),
    }
}

//! A kind written down as data: most rooms are one [`Kind`] that names the functions it has.

use crate::metadata::{Checks, Names};
use crate::prepare::Plan;
use crate::{Context, Operation, Room};
use api::Value;
use api::field::ErrorList;

/// A room made of plain functions; start from [`PLAIN`] and say what differs.
pub struct Kind {
    pub names: Names,
    pub defaults: fn(&mut Value),
    /// What happens to status, spec and generation on a write.
    pub plan: Plan,
    /// What `plan` cannot say; runs after it.
    pub prepare: fn(Operation, &Context<'_>, &mut Value, Option<&Value>),
    pub validate: fn(&Context<'_>, &Value, Option<&Value>, &mut ErrorList),
    pub canonicalize: fn(&mut Value),
    pub warnings: fn(&Context<'_>, &Value, Option<&Value>) -> Vec<String>,
    pub row: Option<fn(&Value) -> Vec<Value>>,
    pub row_conditions: fn(&Value) -> Option<Value>,
    pub any_finalizer: bool,
    pub names_the_nameless: bool,
    pub create_on_update: bool,
    pub metadata_checks: Checks,
    pub status_metadata_checks: Checks,
    pub unconditional_update: bool,
    pub grace_period: fn(&Value, Option<i64>) -> Option<i64>,
    pub deletion_finalizers: &'static [&'static str],
}

/// No defaults, no status, no checks beyond metadata.
pub const PLAIN: Kind = Kind {
    names: Names::Subdomain,
    defaults: |_| (),
    plan: Plan::NONE,
    prepare: |_, _, _, _| (),
    validate: |_, _, _, _| (),
    canonicalize: |_| (),
    warnings: |_, _, _| Vec::new(),
    row: None,
    row_conditions: |_| None,
    any_finalizer: false,
    names_the_nameless: false,
    create_on_update: false,
    metadata_checks: Checks::UPDATE,
    status_metadata_checks: Checks::UPDATE,
    unconditional_update: true,
    grace_period: |_, _| None,
    deletion_finalizers: &[],
};

impl Room for Kind {
    fn defaults(&self, object: &mut Value) {
        (self.defaults)(object);
    }
    fn prepare(&self, op: Operation, cx: &Context<'_>, new: &mut Value, old: Option<&Value>) {
        self.plan.apply(op, cx, new, old);
        (self.prepare)(op, cx, new, old);
    }
    fn validate(&self, cx: &Context<'_>, new: &Value, old: Option<&Value>) -> ErrorList {
        let mut errors = ErrorList::new();
        (self.validate)(cx, new, old, &mut errors);
        errors
    }
    fn canonicalize(&self, object: &mut Value) {
        (self.canonicalize)(object);
    }
    fn warnings(&self, cx: &Context<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        (self.warnings)(cx, new, old)
    }
    fn name_errors(&self, _object: &Value, name: &str, prefix: bool) -> Vec<String> {
        self.names.check(name, prefix)
    }
    fn row(&self, object: &Value) -> Option<Vec<Value>> {
        self.row.map(|f| f(object))
    }
    fn row_conditions(&self, object: &Value) -> Option<Value> {
        (self.row_conditions)(object)
    }
    fn any_finalizer(&self) -> bool {
        self.any_finalizer
    }
    fn names_the_nameless(&self) -> bool {
        self.names_the_nameless
    }
    fn metadata_checks(&self, cx: &Context<'_>) -> Checks {
        if cx.subresource == "status" { self.status_metadata_checks } else { self.metadata_checks }
    }
    fn create_on_update(&self) -> bool {
        self.create_on_update
    }
    fn unconditional_update(&self) -> bool {
        self.unconditional_update
    }
    fn grace_period(&self, object: &Value, asked: Option<i64>) -> Option<i64> {
        (self.grace_period)(object, asked)
    }
    fn deletion_finalizers(&self) -> &'static [&'static str] {
        self.deletion_finalizers
    }
    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        self.plan.reset_fields(subresource)
    }
}

//! The expressions of webhooks and policies: whether they compile, and give what they must.

use api::field::{Error, ErrorList, Path};
use expressions::Type;
use expressions::admission::{Compiler, INSTANTIATION, Names, json_patch_type, object_type};

/// A match condition of a webhook, or of a policy that may have parameters.
pub fn match_condition(text: &str, params: bool, at: &Path, e: &mut ErrorList) {
    let names = Names { params, authorizer: true, patch: false };
    if let Err(why) = Compiler::plain().compile(text, names, &[Type::Bool]) {
        e.push(refused(text, why, at));
    }
}

fn refused(text: &str, why: String, at: &Path) -> Error {
    match why.starts_with(INSTANTIATION) {
        true => Error::internal(at, why),
        false => Error::invalid(at, text, why),
    }
}

/// The expressions of one policy, which may use the variables before them.
pub struct Policy {
    compiler: Compiler,
    params: bool,
}

impl Policy {
    pub fn new(params: bool) -> Policy {
        Policy { compiler: Compiler::composed(), params }
    }

    fn names(&self) -> Names {
        Names { params: self.params, authorizer: true, patch: false }
    }

    pub fn variable(&mut self, name: &str, text: &str, at: &Path, e: &mut ErrorList) {
        let names = self.names();
        if let Err(why) = self.compiler.variable(name, text, names) {
            e.push(refused(text, why, at));
        }
    }

    fn check(&self, text: &str, names: Names, wanted: &[Type], at: &Path, e: &mut ErrorList) {
        if let Err(why) = self.compiler.compile(text, names, wanted) {
            e.push(refused(text, why, at));
        }
    }

    pub fn validation(&self, text: &str, at: &Path, e: &mut ErrorList) {
        self.check(text, self.names(), &[Type::Bool], at, e);
    }

    pub fn message(&self, text: &str, at: &Path, e: &mut ErrorList) {
        self.check(text, Names { authorizer: false, ..self.names() }, &[Type::String], at, e);
    }

    pub fn annotation(&self, text: &str, at: &Path, e: &mut ErrorList) {
        self.check(text, self.names(), &[Type::String, Type::Null], at, e);
    }

    pub fn mutation(&self, text: &str, json_patch: bool, at: &Path, e: &mut ErrorList) {
        let wanted = if json_patch { Type::list(json_patch_type()) } else { object_type() };
        self.check(text, Names { patch: true, ..self.names() }, &[wanted], at, e);
    }
}

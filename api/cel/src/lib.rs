//! CEL as Kubernetes speaks it: from the text of an expression to a checked program, what it can cost at worst,
//! and its evaluation within a budget.
//!
//! - [`syntax`] reads texts (the grammar is the `cel` crate's), [`macros`] expands what that does not know
//! - [`check`] finds out what names and calls mean, from [`decls`]; [`types`] has the rules
//! - [`rules`] compiles the rules of custom resources
//! - [`shape`] is a schema as expressions see it; [`estimate`] reckons from it what an expression can cost
//! - [`admission`] has the environments of policies and webhooks
//! - [`kinds`] has the types of whole kinds, [`device`] compiles selectors of devices
//! - [`names`] says what can be an identifier
//! - [`eval`] runs a program with [`value`]s; [`ops`] and [`library`] are the functions
//!
//! Everything here is pure: no clock, no I/O. An expression that asks an authorizer stops with
//! [`Fault::Undecided`]; whoever runs it asks, and runs it again.

pub mod admission;
pub mod authz;
pub mod check;
mod decls;
pub mod device;
pub mod error;
pub mod estimate;
pub mod eval;
pub mod kinds;
pub mod library;
mod macros;
pub mod names;
pub mod ops;
mod patterns;
pub mod rules;
pub mod shape;
pub mod syntax;
pub mod time;
pub mod types;
pub mod value;
pub mod walk;

pub use check::Env;
pub use error::{CompileError, Fault};
pub use eval::{Activation, PER_CALL_LIMIT};
pub use shape::Shape;
pub use types::Type;
pub use value::Val;

use check::Checked;

/// A checked expression.
pub struct Program {
    checked: Checked,
}

impl Program {
    /// Reads and checks a text.
    pub fn compile(text: &str, env: &Env) -> Result<Program, CompileError> {
        let checked = check::check(syntax::parse(text)?, env)?;
        Ok(Program { checked })
    }

    /// The type of what it gives.
    pub fn result(&self) -> &Type {
        self.checked.type_of(&self.checked.root)
    }

    pub fn root(&self) -> &syntax::Expr {
        &self.checked.root
    }

    /// Whether it uses a variable.
    pub fn mentions(&self, name: &str) -> bool {
        walk::mentions(&self.checked.root, name)
    }

    /// Constants are converted before anything runs: those that cannot be are an error.
    pub fn constants(&self) -> Result<(), Fault> {
        let mut todo = vec![self.root()];
        while let Some(e) = todo.pop() {
            walk::children(e, &mut |child| todo.push(child));
            let syntax::Kind::Call { name, target: None, args } = &e.kind else { continue };
            let converts = matches!(
                &**name,
                "bool" | "bytes" | "double" | "duration" | "int" | "string" | "timestamp" | "uint"
            );
            if converts && args.iter().all(|a| matches!(a.kind, syntax::Kind::Literal(_))) {
                eval::evaluate(e, &Activation::new(), PER_CALL_LIMIT).0?;
            }
        }
        Ok(())
    }

    /// The most it can cost, with the schemas of its variables.
    pub fn cost(&self, schemas: &[(&str, &Shape)]) -> u64 {
        estimate::estimate(&self.checked, schemas).max
    }

    /// Evaluates it. Also tells what that cost, which is at most a little more than `limit`.
    pub fn evaluate<'a>(&'a self, activation: &Activation<'a>, limit: u64) -> (Result<Val<'a>, Fault>, u64) {
        eval::evaluate(self.root(), activation, limit.min(PER_CALL_LIMIT))
    }
}

#[cfg(test)]
mod tests;

//! The rules in the schemas of custom resources (`x-kubernetes-validations`), compiled.

use crate::{Env, Program, Shape, Type};
use api::Value as Json;

/// The most that one rule may cost by estimation.
pub const RULE_LIMIT: u64 = 10_000_000;
/// The most that all rules of a schema may cost by estimation.
pub const SCHEMA_LIMIT: u64 = 100_000_000;
/// What the rules of one object may cost when they run.
pub const BUDGET: u64 = 10_000_000;

/// One rule.
pub struct Rule {
    pub program: Program,
    /// It compares with what was before.
    pub uses_old: bool,
    pub cost: u64,
    /// The expression of its message, and what that can cost; or what is wrong with it.
    pub message: Option<Result<(Program, u64), String>>,
}

fn text<'a>(v: &'a Json, key: &str) -> &'a str {
    v.get(key).and_then(Json::as_str).unwrap_or_default()
}

/// Compiles a rule for values of a shape.
pub fn compile(rule: &Json, shape: &Shape) -> Result<Rule, String> {
    let optional = rule.get("optionalOldSelf").and_then(Json::as_bool).unwrap_or_default();
    let this = shape.as_type();
    let old = if optional { Type::optional(this.clone()) } else { this.clone() };
    let env = Env::new().with("self", this).with("oldSelf", old);
    let program = Program::compile(text(rule, "rule"), &env).map_err(|e| e.to_string())?;
    if *program.result() != Type::Bool {
        return Err("cel expression must evaluate to a bool".to_owned());
    }
    let schemas = [("self", shape), ("oldSelf", shape)];
    let cost = program.cost(&schemas);
    let message = Some(text(rule, "messageExpression")).filter(|m| !m.trim().is_empty()).map(|m| {
        let program = Program::compile(m, &env).map_err(|e| format!("messageExpression {e}"))?;
        if *program.result() != Type::String {
            return Err("messageExpression must evaluate to a string".to_owned());
        }
        let cost = program.cost(&schemas);
        Ok((program, cost))
    });
    Ok(Rule { uses_old: program.mentions("oldSelf"), program, cost, message })
}

/// How often values of a shape can occur in one request, at most.
pub fn most_often(shape: &Shape) -> u64 {
    (3 * 1024 * 1024) / (shape.min_size() + 1)
}

/// One step of the path that a rule names for its errors.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Child(String),
    Key(String),
}

/// The steps of a `fieldPath` (`.a.b['c.d']`), if a schema has them.
pub fn field_path(path: &str, schema: &Json) -> Option<Vec<Step>> {
    let (mut rest, mut schema, mut steps) = (path, schema, Vec::new());
    while !rest.is_empty() {
        let name = if let Some(after) = rest.strip_prefix("['") {
            let end = after.find("']")?;
            rest = &after[end + 2..];
            after[..end].replace("\\'", "'").replace("\\\\", "\\")
        } else {
            let after = rest.strip_prefix('.')?;
            let end = after.find(['.', '[']).unwrap_or(after.len());
            rest = &after[end..];
            after[..end].to_owned()
        };
        if name.is_empty() {
            return None;
        }
        let additional = schema.get("additionalProperties").filter(|a| a.is_object());
        match (schema.get("properties").and_then(|p| p.get(&name)), additional) {
            (Some(of), _) => {
                schema = of;
                steps.push(Step::Child(name));
            }
            (None, Some(of)) => {
                schema = of;
                steps.push(Step::Key(name));
            }
            (None, None) => return None,
        }
    }
    (!steps.is_empty()).then_some(steps)
}

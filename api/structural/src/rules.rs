//! The rules of custom resources at work: what of an object they refuse, and what they would refuse had it been
//! changed.

use api::field::{Error, ErrorList, ErrorType, Path};
use api::{Map, Value};
use expressions::rules::{self, BUDGET, Rule, Step};
use expressions::{Activation, Fault, PER_CALL_LIMIT, Shape, Val};

const RULES: &str = "x-kubernetes-validations";
const LONGEST_MESSAGE: usize = 5 * 1024;

/// One rule as it is written, and compiled.
struct Own {
    text: String,
    message: String,
    reason: String,
    field_path: Vec<Step>,
    optional_old: bool,
    compiled: Result<Rule, String>,
}

/// The rules of a schema and of everything below it.
pub struct Rules {
    kind: String,
    shape: Shape,
    own: Vec<Own>,
    properties: Vec<(String, Rules)>,
    additional: Option<Box<Rules>>,
    items: Option<Box<Rules>>,
    /// What tells the items of a list apart; items of others cannot be followed from version to version.
    keys: Option<Vec<String>>,
}

fn text(v: &Value, key: &str) -> String {
    v.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn has_rules(schema: &Value) -> bool {
    let list = schema.get(RULES).and_then(Value::as_array);
    let properties = schema.get("properties").and_then(Value::as_object);
    list.is_some_and(|l| !l.is_empty())
        || properties.into_iter().flatten().any(|(_, s)| has_rules(s))
        || ["items", "additionalProperties"].iter().any(|k| schema.get(k).is_some_and(has_rules))
}

impl Own {
    fn of(rule: &Value, schema: &Value, shape: &Shape) -> Own {
        Own {
            text: text(rule, "rule").trim().to_owned(),
            message: text(rule, "message").trim().to_owned(),
            reason: text(rule, "reason"),
            field_path: rules::field_path(&text(rule, "fieldPath"), schema).unwrap_or_default(),
            optional_old: rule.get("optionalOldSelf").and_then(Value::as_bool).unwrap_or_default(),
            compiled: rules::compile(rule, shape),
        }
    }

    /// What the rule is called in errors.
    fn called(&self) -> &str {
        if self.message.is_empty() { &self.text } else { &self.message }
    }
}

impl Rules {
    /// The rules in a schema, if there are any.
    pub fn of(schema: &Value) -> Option<Rules> {
        Rules::read(schema, true)
    }

    /// As [`Rules::of`], for the schema of a part.
    pub fn of_part(schema: &Value) -> Option<Rules> {
        Rules::read(schema, false)
    }

    fn read(schema: &Value, root: bool) -> Option<Rules> {
        if !has_rules(schema) {
            return None;
        }
        let embedded =
            |s: &Value| s.get("x-kubernetes-embedded-resource").and_then(Value::as_bool).unwrap_or_default();
        let shape = Shape::of(schema, root || embedded(schema))?;
        let below = |key: &str| {
            let inner = schema.get(key).filter(|s| s.is_object())?;
            Rules::read(inner, false).map(Box::new)
        };
        let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
        let own = schema.get(RULES).and_then(Value::as_array).into_iter().flatten();
        let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
        let keyed = text(schema, "x-kubernetes-list-type") == "map";
        Some(Rules {
            kind: text(schema, "type"),
            own: own.map(|r| Own::of(r, schema, &shape)).collect(),
            properties: properties.filter_map(|(k, s)| Some((k.clone(), Rules::read(s, false)?))).collect(),
            additional: below("additionalProperties"),
            items: below("items"),
            keys: keys
                .filter(|_| keyed)
                .map(|keys| keys.iter().filter_map(|k| k.as_str().map(str::to_owned)).collect()),
            shape,
        })
    }

    /// What the rules say of an object that is well by its schema.
    pub fn check(&self, new: &Value, old: Option<&Value>) -> Findings {
        let mut run = Run { budget: Some(BUDGET), found: Findings::default() };
        let unchanged = old.is_some_and(|old| old == new);
        run.value(self, new, old, unchanged, &Path::default());
        run.found
    }
}

/// What is wrong, and what only does not count because it was so before.
#[derive(Default)]
pub struct Findings {
    pub errors: ErrorList,
    pub ratcheted: ErrorList,
}

/// Errors after which rules are not looked at: they would only confuse.
pub fn blocked(errors: &ErrorList) -> Option<Error> {
    let blocks = |e: &Error| {
        matches!(
            e.kind,
            ErrorType::NotSupported
                | ErrorType::Required
                | ErrorType::TooLong
                | ErrorType::TooMany
                | ErrorType::TypeInvalid
        )
    };
    let text = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
    errors.iter().any(blocks).then(|| named(Error::invalid(&Path::default(), Value::Null, text)))
}

/// The whole object has no path.
fn named(mut error: Error) -> Error {
    if error.field.is_empty() {
        error.field = "<nil>".to_owned();
    }
    error
}

struct Run {
    /// What is left; nothing if it ran out.
    budget: Option<u64>,
    found: Findings,
}

impl Run {
    fn value(&mut self, rules: &Rules, new: &Value, old: Option<&Value>, unchanged: bool, path: &Path) {
        if new.is_null() || self.budget.is_none() {
            return;
        }
        let old = old.filter(|o| !o.is_null());
        for own in &rules.own {
            if self.budget.is_none() {
                return;
            }
            self.rule(rules, own, new, old, unchanged, path);
        }
        match new {
            Value::Object(map) => self.map(rules, map, old.and_then(Value::as_object), unchanged, path),
            Value::Array(items) => self.list(rules, items, old.and_then(Value::as_array), unchanged, path),
            _ => {}
        }
    }

    fn map(
        &mut self,
        rules: &Rules,
        new: &Map<String, Value>,
        old: Option<&Map<String, Value>>,
        unchanged: bool,
        path: &Path,
    ) {
        let mut below = |of: &Rules, key: &str, value: &Value, path: Path| {
            let before = old.and_then(|o| o.get(key));
            let same = before.map_or(unchanged, |b| b == value);
            self.value(of, value, before, same, &path);
        };
        if let Some(of) = &rules.additional {
            new.iter().for_each(|(k, v)| below(of, k, v, path.key(k)));
        }
        for (key, of) in &rules.properties {
            if let Some(v) = new.get(key) {
                below(of, key, v, path.child(key));
            }
        }
    }

    fn list(&mut self, rules: &Rules, new: &[Value], old: Option<&Vec<Value>>, unchanged: bool, path: &Path) {
        let Some(of) = &rules.items else { return };
        for (i, item) in new.iter().enumerate() {
            let same_keys = |o: &&Value| {
                rules.keys.as_ref().is_some_and(|keys| keys.iter().all(|k| o.get(k) == item.get(k)))
            };
            let before = old.and_then(|o| o.iter().find(same_keys));
            let same = before.map_or(unchanged, |b| b == item);
            self.value(of, item, before, same, &path.index(i));
        }
    }

    fn error(&mut self, error: Error) {
        self.found.errors.push(named(error));
    }

    /// Nothing more is looked at.
    fn stop(&mut self, error: Error) {
        self.error(error);
        self.budget = None;
    }

    fn rule<'a>(
        &mut self,
        rules: &'a Rules,
        own: &'a Own,
        new: &'a Value,
        old: Option<&'a Value>,
        unchanged: bool,
        path: &Path,
    ) {
        let kind = || rules.kind.clone();
        let rule = match &own.compiled {
            Ok(rule) => rule,
            Err(why) => {
                return self.error(Error::invalid(path, kind(), format!("rule compile error: {why}")));
            }
        };
        if rule.uses_old && old.is_none() && !own.optional_old {
            return;
        }
        let mut activation = Activation::new();
        activation.set("self", Val::shaped(new, Some(&rules.shape)));
        let before = old.map(|o| Val::shaped(o, Some(&rules.shape)));
        match (own.optional_old, before) {
            (true, before) => activation.set("oldSelf", Val::Optional(before.map(Into::into))),
            (false, Some(before)) => activation.set("oldSelf", before),
            (false, None) => {}
        }
        let (result, cost) = rule.program.evaluate(&activation, PER_CALL_LIMIT);
        let called = own.called();
        match self.budget.and_then(|b| b.checked_sub(cost)) {
            Some(left) => self.budget = Some(left),
            None => {
                let text = "validation failed due to running out of cost budget, no further validation rules will be run";
                return self.stop(Error::invalid(path, kind(), text));
            }
        }
        match result {
            Ok(Val::Bool(true)) => {}
            Ok(_) => {
                let Some(detail) = self.detail(rules, own, rule, &activation, path) else { return };
                let error = refusal(rules, own, new, path, detail);
                if unchanged && !rule.uses_old {
                    self.found.ratcheted.push(named(error));
                } else {
                    self.error(error);
                }
            }
            Err(Fault::Budget) => {
                let text = format!(
                    "'{}': no further validation rules will be run due to call cost exceeds limit for rule: {called}",
                    Fault::Budget
                );
                self.stop(Error::invalid(path, kind(), text));
            }
            Err(why) if why.to_string().starts_with("no such overload") => {
                let text = format!(
                    "'{why}': call arguments did not match a supported operator, function or macro signature for rule: {called}"
                );
                self.error(Error::invalid(path, kind(), text));
            }
            Err(why) => {
                self.error(Error::invalid(path, kind(), format!("{why} evaluating rule: {called}")));
            }
        }
    }

    /// What a user is told: by the message's expression if that says anything sensible. `None` if the budget ran out.
    fn detail<'a>(
        &mut self,
        rules: &'a Rules,
        own: &'a Own,
        rule: &'a Rule,
        activation: &Activation<'a>,
        path: &Path,
    ) -> Option<String> {
        let usual = || match own.message.as_str() {
            "" => format!("failed rule: {}", own.text),
            message => message.to_owned(),
        };
        let Some(Ok((program, _))) = &rule.message else { return Some(usual()) };
        let (said, cost) = program.evaluate(activation, PER_CALL_LIMIT);
        match self.budget.and_then(|b| b.checked_sub(cost)) {
            Some(left) => self.budget = Some(left),
            None => {
                let text = "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run";
                self.stop(Error::invalid(path, rules.kind.clone(), text));
                return None;
            }
        }
        let said = match &said {
            Ok(Val::Str(said)) => said.trim(),
            _ => "",
        };
        let sensible = !said.is_empty() && said.len() <= LONGEST_MESSAGE && !said.contains('\n');
        Some(if sensible { said.to_owned() } else { usual() })
    }
}

fn refusal(rules: &Rules, own: &Own, new: &Value, path: &Path, detail: String) -> Error {
    let at = own.field_path.iter().fold(path.clone(), |at, step| match step {
        Step::Child(name) => at.child(name),
        Step::Key(key) => at.key(key),
    });
    let whole = rules.kind == "object" || rules.kind == "array";
    let mut error = match own.reason.as_str() {
        "FieldValueForbidden" => Error::forbidden(&at, detail),
        "FieldValueRequired" => Error::required(&at, detail),
        "FieldValueDuplicate" => Error::duplicate(&at, new.clone()),
        _ => Error::invalid(&at, new.clone(), detail),
    };
    if whole {
        error.bad_value = None;
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    fn schema() -> Value {
        json!({"type": "object", "properties": {
            "spec": {
                "type": "object",
                "x-kubernetes-validations": [
                    {"rule": "self.min <= self.max", "message": "min is more than max", "fieldPath": ".min"},
                    {"rule": "self.max < 100", "messageExpression": "'max is ' + string(self.max)"},
                    {"rule": "!oldSelf.hasValue() || oldSelf.value().max <= self.max", "optionalOldSelf": true},
                ],
                "properties": {
                    "min": {"type": "integer"},
                    "max": {"type": "integer", "x-kubernetes-validations": [
                        {"rule": "self >= oldSelf", "message": "must not shrink", "reason": "FieldValueForbidden"}]},
                    "ports": {
                        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                        "items": {"type": "object", "required": ["name"],
                            "x-kubernetes-validations": [{"rule": "self.port == oldSelf.port"}],
                            "properties": {"name": {"type": "string"}, "port": {"type": "integer"}}},
                    },
                    "any": {"type": "array", "items": {"type": "string"}, "x-kubernetes-validations": [
                        {"rule": "self.all(a, self.all(b, self.all(c, a + b + c != 'z')))"}]},
                },
            },
        }})
    }

    fn errors(new: Value, old: Option<Value>) -> (Vec<String>, usize) {
        let rules = Rules::of(&schema()).expect("rules");
        let old = old.map(|o| json!({"spec": o}));
        let found = rules.check(&json!({"spec": new}), old.as_ref());
        (found.errors.iter().map(ToString::to_string).collect(), found.ratcheted.len())
    }

    #[test]
    fn objects_are_judged() {
        let port = |p: i64| json!({"min": 1, "max": 2, "ports": [{"name": "a", "port": p}]});
        for (new, old, wanted) in [
            (json!({"min": 1, "max": 2}), None, vec![]),
            (json!({"min": 3, "max": 2}), None, vec!["spec.min: Invalid value: min is more than max"]),
            (json!({"min": 3, "max": 200}), None, vec!["spec: Invalid value: max is 200"]),
            (
                json!({"min": 3}),
                None,
                vec![
                    "spec: Invalid value: \"object\": no such key: max evaluating rule: min is more than max",
                    "spec: Invalid value: \"object\": no such key: max evaluating rule: self.max < 100",
                ],
            ),
            (
                json!({"min": 1, "max": 1}),
                Some(json!({"min": 1, "max": 2})),
                vec![
                    "spec: Invalid value: failed rule: !oldSelf.hasValue() || oldSelf.value().max <= self.max",
                    "spec.max: Forbidden: must not shrink",
                ],
            ),
            (
                port(2),
                Some(port(1)),
                vec!["spec.ports[0]: Invalid value: failed rule: self.port == oldSelf.port"],
            ),
            (port(1), Some(port(1)), vec![]),
        ] {
            assert_eq!(errors(new, old).0, wanted);
        }
    }

    #[test]
    fn what_was_wrong_before_is_let_be() {
        let wrong = json!({"min": 3, "max": 2});
        assert_eq!(errors(wrong.clone(), Some(wrong)), (vec![], 1));
    }

    #[test]
    fn costs_are_limited() {
        let many: Vec<String> = (0..200).map(|i| format!("x{i}")).collect();
        let found = errors(json!({"min": 1, "max": 2, "any": many}), None).0;
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("no further validation rules will be run due to call cost exceeds limit"));
    }
}

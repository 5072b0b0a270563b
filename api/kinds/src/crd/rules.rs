//! The rules in a schema: whether they compile, and what all of them can cost.

use super::structural::named;
use crate::value::Get;
use api::Value;
use api::field::{Error, ErrorList, Path};
use expressions::Shape;
use expressions::rules::{self, RULE_LIMIT, SCHEMA_LIMIT};

const RULES: &str = "x-kubernetes-validations";

/// How often the value of a schema can occur; `None` if nothing bounds it.
type Cardinality = Option<u64>;

struct Total {
    sum: u64,
    most: Vec<(u64, String)>,
}

/// All rules of a schema that is well otherwise.
pub fn check(s: &Value, at: &Path, e: &mut ErrorList) {
    let mut total = Total { sum: 0, most: Vec::new() };
    let place = Place { often: Some(1), root: true, uncorrelatable: None };
    walk(s, &place, at, e, &mut total);
    if total.sum > SCHEMA_LIMIT {
        total.most.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
        let text =
            "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        for (_, path) in total.most.iter().take(4) {
            e.push(Error::forbidden(&Path::new(path), text));
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        e.push(Error::forbidden(at, too_costly(what, total.sum, SCHEMA_LIMIT)));
    }
}

fn too_costly(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

#[derive(Clone)]
struct Place {
    often: Cardinality,
    root: bool,
    /// The list whose items cannot be told apart between versions of an object.
    uncorrelatable: Option<String>,
}

fn walk(s: &Value, place: &Place, at: &Path, e: &mut ErrorList, total: &mut Total) {
    if !s.is_object() {
        return;
    }
    let inside = Place { root: false, ..place.clone() };
    let times = |key: &str| match (place.often, s.at(key).as_u64()) {
        (Some(often), Some(most)) => Some(often.saturating_mul(most)),
        _ => None,
    };
    let additional = s.at("additionalProperties");
    let in_map = Place { often: times("maxProperties"), ..inside.clone() };
    walk(additional, &in_map, &at.child("additionalProperties"), e, total);
    for (key, inner) in named(s, "properties") {
        walk(inner, &inside, &at.child("properties").key(key), e, total);
    }
    let mut in_list = Place { often: times("maxItems"), ..inside };
    if s.text("type") == "array" && s.text("x-kubernetes-list-type") != "map" {
        in_list.uncorrelatable.get_or_insert_with(|| at.to_string());
    }
    walk(s.at("items"), &in_list, &at.child("items"), e, total);
    own(s, place, &at.child(RULES), e, total);
}

/// The rules of this very schema.
fn own(s: &Value, place: &Place, at: &Path, e: &mut ErrorList, total: &mut Total) {
    let all = s.list(RULES);
    if all.is_empty() {
        return;
    }
    let Some(shape) = Shape::of(s, place.root || s.flag("x-kubernetes-embedded-resource")) else {
        let text = "internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations";
        return e.push(Error::internal(at, text));
    };
    let often = place.often.unwrap_or_else(|| rules::most_often(&shape));
    for (i, r) in all.iter().enumerate() {
        let at = at.index(i);
        let rule = match rules::compile(r, &shape) {
            Ok(rule) => rule,
            Err(why) => {
                e.push(Error::invalid_printed(&at.child("rule"), printed(r), why));
                continue;
            }
        };
        let mut cost = |what: &str, cost: u64, key: &str, e: &mut ErrorList| {
            if cost > RULE_LIMIT {
                e.push(Error::forbidden(&at.child(key), too_costly(what, cost, RULE_LIMIT)));
            }
            total.sum = total.sum.saturating_add(cost);
            // What hardly counts is not named.
            if cost >= SCHEMA_LIMIT / 100 {
                total.most.push((cost, at.child(key).to_string()));
            }
        };
        cost("estimated rule cost", rule.cost.saturating_mul(often), "rule", e);
        match &rule.message {
            Some(Ok((_, message))) => {
                cost("estimated messageExpression cost", *message, "messageExpression", e)
            }
            Some(Err(why)) => {
                e.push(Error::invalid_printed(&at.child("messageExpression"), printed(r), why.as_str()));
            }
            None => {}
        }
        if rule.uses_old {
            if let Some(list) = &place.uncorrelatable {
                let text = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {list}"
                );
                e.push(Error::invalid(&at.child("rule"), r.text("rule"), text));
            }
        } else if let Some(set) = r.at("optionalOldSelf").as_bool() {
            let text = "may not be set if oldSelf is not used in rule";
            e.push(Error::invalid(&at.child("optionalOldSelf"), set, text));
        }
    }
}

/// A rule as upstream prints it in errors.
fn printed(r: &Value) -> String {
    let text = |key: &str| Value::from(r.text(key));
    format!(
        r#"{{"Rule":{},"Message":{},"MessageExpression":{},"Reason":{},"FieldPath":{},"OptionalOldSelf":{}}}"#,
        text("rule"),
        text("message"),
        text("messageExpression"),
        r.at("reason"),
        text("fieldPath"),
        r.at("optionalOldSelf"),
    )
    // As Go writes JSON.
    .replace('&', "\\u0026")
    .replace('<', "\\u003c")
    .replace('>', "\\u003e")
}

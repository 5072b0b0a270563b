//! A patched document as the text that a patch makes of it: what was untouched is as it was encoded, what the
//! patch went through has its keys in order.

use super::{Node, plain, sorted, struct_of, tagged};
use api::Value;
use api::schema::{Field, Label, Message};
use std::collections::BTreeMap;

/// The objects and lists that a patch went through.
#[derive(Debug, Default)]
pub struct Touched(BTreeMap<String, Touched>);

impl Touched {
    /// Marks what a path leads through.
    pub fn mark<'a>(&mut self, steps: impl IntoIterator<Item = &'a str>) {
        let mut here = self;
        for step in steps {
            here = here.0.entry(step.to_owned()).or_default();
        }
    }

    /// Marks every object that a merge patch looks into.
    pub fn merged(&mut self, patch: &Value) {
        for (key, value) in patch.as_object().into_iter().flatten().filter(|(_, v)| v.is_object()) {
            self.0.entry(key.clone()).or_default().merged(value);
        }
    }
}

/// The text of a document of that kind.
pub fn patched(kind: &'static Message, document: &Value, touched: &Touched) -> String {
    object(Some(kind), document, touched).compact()
}

fn object(m: Option<&'static Message>, v: &Value, touched: &Touched) -> Node {
    let Value::Object(map) = v else { return plain(v) };
    let mut fields: Vec<(String, Node)> =
        map.iter().map(|(k, v)| (k.clone(), part(m.and_then(|m| m.field(k)), v, touched.0.get(k)))).collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    Node::Fields(fields)
}

fn part(f: Option<&'static Field>, v: &Value, touched: Option<&Touched>) -> Node {
    let message = f.and_then(struct_of);
    match (f.map(|f| f.label), v, touched) {
        (Some(Label::List), Value::Array(list), Some(touched)) => Node::List(
            list.iter()
                .enumerate()
                .map(|(i, v)| match touched.0.get(&i.to_string()) {
                    Some(touched) => object(message, v, touched),
                    None => message.map_or_else(|| plain(v), |m| tagged(m, v)),
                })
                .collect(),
        ),
        (Some(Label::Map), Value::Object(map), _) => sorted(map, plain),
        (_, Value::Object(_), Some(touched)) => object(message, v, touched),
        _ => message.map_or_else(|| plain(v), |m| tagged(m, v)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn touched_objects_are_sorted() {
        let kind = api::schema::message("k8s.io.api.core.v1.ConfigMap").unwrap();
        let v = json!({"kind": "ConfigMap", "bogus": 1, "data": {"b": 1, "a": 2}, "metadata": {"uid": "u", "name": "n", "labels": {}}});
        let mut touched = Touched::default();
        let got = patched(kind, &v, &touched);
        assert_eq!(
            got,
            r#"{"bogus":1,"data":{"a":2,"b":1},"kind":"ConfigMap","metadata":{"name":"n","uid":"u","labels":{}}}"#
        );
        touched.mark(["metadata"]);
        assert!(patched(kind, &v, &touched).contains(r#"{"labels":{},"name":"n","uid":"u"}"#));
    }
}

//! Printer columns: what `kubectl get` shows of a custom object.

use api::resources::Column;
use api::{Value, time};
use jsonpath_rust::parser::model::JpQuery;
use jsonpath_rust::parser::parse_json_path;
use jsonpath_rust::query::js_path_process;

/// The columns of one version, `Name` first.
pub struct Columns {
    paths: Vec<(String, Option<JpQuery>)>,
    described: Vec<Column>,
}

impl Columns {
    /// From `additionalPrinterColumns`; without any, the age is shown.
    pub fn of(version: &Value) -> Columns {
        let age = api::json!([{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]);
        let given =
            version.get("additionalPrinterColumns").and_then(Value::as_array).filter(|c| !c.is_empty());
        let listed = given.or_else(|| age.as_array()).into_iter().flatten();
        let mut out = Columns { paths: Vec::new(), described: vec![name_column()] };
        for c in listed {
            let text = |key: &str| c.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let r#type = text("type");
            out.paths.push((r#type.clone(), parse_json_path(&format!("${}", text("jsonPath"))).ok()));
            out.described.push(Column {
                name: text("name"),
                r#type,
                format: text("format"),
                priority: c
                    .get("priority")
                    .and_then(Value::as_i64)
                    .and_then(|p| p.try_into().ok())
                    .unwrap_or(0),
            });
        }
        out
    }

    /// As the resource table describes them.
    pub fn described(&self) -> Vec<Column> {
        self.described.clone()
    }

    /// The cells of an object.
    pub fn row(&self, object: &Value) -> Vec<Value> {
        let mut out = vec![object["metadata"]["name"].clone()];
        out.extend(self.paths.iter().map(|(r#type, path)| cell(object, r#type, path.as_ref())));
        out
    }
}

fn name_column() -> Column {
    Column { name: "Name".into(), r#type: "string".into(), format: "name".into(), priority: 0 }
}

fn cell(object: &Value, r#type: &str, path: Option<&JpQuery>) -> Value {
    let found = path.and_then(|p| js_path_process(p, object).ok()).unwrap_or_default();
    let mut values = found.into_iter().map(|f| f.val());
    let Some(first) = values.next() else { return Value::Null };
    match (r#type, first) {
        (_, Value::Null) => Value::Null,
        ("integer" | "number" | "boolean", v) if v.is_number() || v.is_boolean() => v.clone(),
        ("date", Value::String(text)) => time::age(Some(text)).into(),
        ("string", Value::String(text)) => {
            // A path that finds several values shows them all.
            let all = std::iter::once(text.as_str()).chain(values.filter_map(Value::as_str));
            all.collect::<Vec<_>>().join(" ").into()
        }
        ("string", v) => v.to_string().into(),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn cells_are_what_the_paths_find() {
        let version = json!({"additionalPrinterColumns": [
            {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
            {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].status"},
            {"name": "Labels", "type": "string", "jsonPath": ".spec.labels"},
            {"name": "Missing", "type": "string", "jsonPath": ".spec.nothing"},
        ]});
        let columns = Columns::of(&version);
        let object = json!({
            "metadata": {"name": "a"},
            "spec": {"replicas": 3, "labels": {"a": "b"}},
            "status": {"conditions": [{"type": "Other", "status": "x"}, {"type": "Ready", "status": "True"}]},
        });
        assert_eq!(Value::from(columns.row(&object)), json!(["a", 3, "True", "{\"a\":\"b\"}", null]));
        let names: Vec<String> = columns.described().into_iter().map(|c| c.name).collect();
        assert_eq!(names, ["Name", "Replicas", "Ready", "Labels", "Missing"]);
        assert_eq!(Columns::of(&json!({})).described()[1].name, "Age");
    }
}

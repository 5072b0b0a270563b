//! Between the versions of a custom resource: only the version's name changes, or a webhook converts
//! (`ConversionReview`, apiextensions.k8s.io/v1).

use admission::webhook::Clients;
use api::registry::Registry;
use api::status::{Result, Status};
use api::{GroupVersionKind, Value, json};
use endpoints::served::Convert;
use std::sync::{Arc, Weak};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(30);

/// A definition's strategy.
#[derive(Clone, Debug, PartialEq)]
pub enum Conversion {
    None,
    /// The webhook's `clientConfig`, and the review versions that it understands.
    Webhook {
        client_config: Value,
        review_versions: Vec<String>,
    },
}

impl Conversion {
    /// From a definition's spec.
    pub fn of(spec: &Value) -> Conversion {
        let webhook = &spec["conversion"]["webhook"];
        if spec["conversion"]["strategy"] != "Webhook" {
            return Conversion::None;
        }
        let versions = webhook["conversionReviewVersions"].as_array().into_iter().flatten();
        Conversion::Webhook {
            client_config: webhook["clientConfig"].clone(),
            review_versions: versions.filter_map(|v| v.as_str().map(str::to_owned)).collect(),
        }
    }
}

/// Calls a definition's webhook.
pub struct Webhook {
    pub client_config: Value,
    pub clients: Arc<Clients>,
    /// Where the webhook's service is looked up. The routes that hold this are held by the registry.
    pub registry: Weak<dyn Registry>,
    pub runtime: tokio::runtime::Handle,
    /// For the texts of errors.
    pub kind: String,
}

impl Convert for Webhook {
    fn convert(&self, value: Value, from: &GroupVersionKind, to: &GroupVersionKind) -> Result<Value> {
        let failed = |why: String| {
            Status::internal(format!(
                "conversion webhook for {from:?}, Kind={} failed: {why}",
                self.kind,
                from = from.api_version()
            ))
        };
        let desired = to.api_version();
        if value["apiVersion"] == desired.as_str() {
            return Ok(value);
        }
        let registry = self.registry.upgrade().ok_or_else(|| failed("the server is stopping".into()))?;
        let uid = uuid::Uuid::new_v4().to_string();
        let review = json!({
            "kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
            "request": {"uid": uid, "desiredAPIVersion": desired, "objects": [value]},
        });
        let call = self.clients.post(&*registry, &self.client_config, TIMEOUT, &review);
        // Conversion stands in the middle of code that computes; this thread's other work moves elsewhere.
        let answer = tokio::task::block_in_place(|| self.runtime.block_on(call)).map_err(failed)?;
        converted(&answer, &uid, &desired, &value).map_err(failed)
    }
}

/// The one object of an answer, which may differ from what was sent in everything but its identity.
fn converted(answer: &Value, uid: &str, desired: &str, sent: &Value) -> std::result::Result<Value, String> {
    let response = &answer["response"];
    if response.is_null() {
        return Err("invalid response: missing response".into());
    }
    if response["uid"] != uid {
        return Err(format!("expected response.uid={uid:?}, got {}", response["uid"]));
    }
    if response["result"]["status"] != "Success" {
        let message = response["result"]["message"].as_str().unwrap_or_default();
        return Err(message.to_owned());
    }
    let objects = response["convertedObjects"].as_array().map(Vec::as_slice).unwrap_or_default();
    let [object] = objects else {
        return Err(format!("expected 1 converted objects, got {}", objects.len()));
    };
    if object["apiVersion"] != desired {
        return Err(format!(
            "expected converted object at index 0 to have apiVersion {desired}, got {}",
            object["apiVersion"]
        ));
    }
    if object["kind"] != sent["kind"] {
        return Err(format!(
            "expected converted object at index 0 to have kind {}, got {}",
            sent["kind"], object["kind"]
        ));
    }
    let same = |field: &str| object["metadata"][field] == sent["metadata"][field];
    if !["name", "namespace", "uid"].into_iter().all(same) {
        return Err("invalid metadata in object at index 0: name, namespace and uid are immutable".into());
    }
    let mut out = object.clone();
    // Of metadata a webhook changes labels and annotations only.
    let mut metadata = sent["metadata"].clone();
    for field in ["labels", "annotations"] {
        match &object["metadata"][field] {
            Value::Null => {
                metadata.as_object_mut().map(|m| m.remove(field));
            }
            changed => metadata[field] = changed.clone(),
        }
    }
    out["metadata"] = metadata;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_may_not_change_whose_it_is() {
        let sent = json!({"apiVersion": "g/v1", "kind": "P", "metadata": {"name": "a", "uid": "u", "generation": 3}});
        let answer = |object: Value| json!({"response": {"uid": "x", "result": {"status": "Success"}, "convertedObjects": [object]}});
        let good = json!({"apiVersion": "g/v2", "kind": "P", "metadata": {"name": "a", "uid": "u", "labels": {"l": "1"}}, "spec": 1});
        let got = converted(&answer(good.clone()), "x", "g/v2", &sent).unwrap();
        assert_eq!(got["metadata"], json!({"name": "a", "uid": "u", "generation": 3, "labels": {"l": "1"}}));
        for (answer, uid) in [
            (answer(good.clone()), "other"),
            (answer(json!({"apiVersion": "g/v1", "kind": "P", "metadata": {"name": "a", "uid": "u"}})), "x"),
            (answer(json!({"apiVersion": "g/v2", "kind": "Q", "metadata": {"name": "a", "uid": "u"}})), "x"),
            (answer(json!({"apiVersion": "g/v2", "kind": "P", "metadata": {"name": "b", "uid": "u"}})), "x"),
            (json!({}), "x"),
            (json!({"response": {"uid": "x", "result": {"status": "Failed", "message": "no"}}}), "x"),
        ] {
            assert!(converted(&answer, uid, "g/v2", &sent).is_err(), "{answer}");
        }
    }
}

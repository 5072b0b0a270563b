//! Custom resources: from a definition to objects that are checked, shown and gone again.

use crate::http::until;
use anyhow::{Context, Result};
use integration::Server;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

const NAME: &str = "crontabs.stable.example.com";

fn definition() -> Result<CustomResourceDefinition> {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["cronSpec"], "properties": {
            "cronSpec": {"type": "string", "pattern": "^[0-9* /]+$"},
            "image": {"type": "string", "default": "busybox"},
            "replicas": {"type": "integer", "minimum": 1, "maximum": 10, "default": 1},
        }},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}},
    }});
    let version = |name: &str, storage: bool| {
        json!({
            "name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
            "selectableFields": [{"jsonPath": ".spec.image"}],
            "additionalPrinterColumns": [{"name": "When", "type": "string", "jsonPath": ".spec.cronSpec"}],
        })
    };
    Ok(serde_json::from_value(json!({
        "metadata": {"name": NAME},
        "spec": {
            "group": "stable.example.com", "scope": "Namespaced", "names": {"plural": "crontabs", "kind": "CronTab"},
            "versions": [version("v1", true), version("v2", false)],
        },
    }))?)
}

fn api(client: &kube::Client, version: &str) -> Api<DynamicObject> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("stable.example.com", version, "CronTab"));
    Api::default_namespaced_with(client.clone(), &kind)
}

fn object(name: &str, spec: Value) -> Result<DynamicObject> {
    let object = json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name}, "spec": spec});
    Ok(serde_json::from_value(object)?)
}

/// Whether a definition is established.
fn established(crd: &CustomResourceDefinition) -> bool {
    let conditions = crd.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "Established" && c.status == "True"))
}

#[tokio::test]
async fn a_definition_and_its_objects() -> Result<()> {
    let server = Server::start().await?;
    let client = server.admin()?;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions.create(&PostParams::default(), &definition()?).await?;
    until("the definition is established", async || Ok(established(&definitions.get(NAME).await?))).await?;
    let v1 = api(&client, "v1");
    let made =
        v1.create(&PostParams::default(), &object("a", json!({"cronSpec": "* * *", "extra": 1}))?).await?;
    assert_eq!(
        made.data["spec"],
        json!({"cronSpec": "* * *", "image": "busybox", "replicas": 1}),
        "pruned and defaulted"
    );
    for (spec, text) in [
        (json!({}), "spec.cronSpec: Required value"),
        (json!({"cronSpec": "x"}), "spec.cronSpec in body should match"),
        (json!({"cronSpec": "*", "replicas": 11}), "should be less than or equal to 10"),
        (json!({"cronSpec": "*", "replicas": "x"}), "must be of type integer: \"string\""),
    ] {
        let refused = v1.create(&PostParams::default(), &object("b", spec)?).await;
        assert!(
            matches!(&refused, Err(kube::Error::Api(s)) if s.code == 422 && s.message.contains(text)),
            "{refused:?}"
        );
    }
    let scale = Patch::Merge(json!({"spec": {"replicas": 3}}));
    assert_eq!(
        v1.patch_scale("a", &PatchParams::default(), &scale).await?.spec.and_then(|s| s.replicas),
        Some(3)
    );
    let status = Patch::Merge(json!({"status": {"replicas": 2}, "spec": {"image": "ignored"}}));
    let after = v1.patch_status("a", &PatchParams::default(), &status).await?;
    assert_eq!(
        (&after.data["status"]["replicas"], &after.data["spec"]["image"]),
        (&json!(2), &json!("busybox"))
    );
    assert_eq!(after.metadata.generation, Some(2), "only the scale changed what is wanted");
    let applied = json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": "c"}, "spec": {"cronSpec": "*", "image": "other"}});
    v1.patch("c", &PatchParams::apply("me"), &Patch::Apply(applied)).await?;
    let others = v1.list(&ListParams::default().fields("spec.image=other")).await?;
    assert_eq!(others.items.len(), 1);
    let v2 = api(&client, "v2").get("a").await?;
    assert_eq!(v2.types.context("a type")?.api_version, "stable.example.com/v2");
    definitions.delete(NAME, &DeleteParams::default()).await?;
    until("the definition is gone", async || Ok(definitions.get_opt(NAME).await?.is_none())).await?;
    until("its resource is gone", async || Ok(v1.list(&ListParams::default()).await.is_err())).await?;
    Ok(())
}

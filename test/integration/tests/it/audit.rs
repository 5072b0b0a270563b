//! What the audit log says of what was done.

use anyhow::Result;
use http::Method;
use integration::{ADMIN, NOBODY, Server};
use serde_json::{Value, json};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: RequestResponse
  verbs: [create]
  omitManagedFields: true
  resources: [{group: '', resources: [configmaps]}]
- level: Metadata
  users: [nobody]
- level: None
";

#[tokio::test]
async fn records_say_who_did_what_and_what_came_of_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (policy, log) = (dir.path().join("policy.yaml"), dir.path().join("audit.log"));
    std::fs::write(&policy, POLICY)?;
    let flags =
        [format!("--audit-policy-file={}", policy.display()), format!("--audit-log-path={}", log.display())];
    let server = Server::start_with(&[&flags[0], &flags[1]]).await?;
    let body =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let made = server
        .request(Some(ADMIN), Method::POST, CONFIG_MAPS, "application/json", body.to_string().into_bytes())
        .await?;
    assert_eq!(made.status, 201);
    server.get(CONFIG_MAPS).await?;
    let refused =
        server.request(Some(NOBODY), Method::GET, &format!("{CONFIG_MAPS}/a"), "", Vec::new()).await?;
    assert_eq!(refused.status, 403);
    let text = std::fs::read_to_string(&log)?;
    let events: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let [created, denied] = events.as_slice() else { anyhow::bail!("{text}") };
    assert!(text.starts_with("{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\",\"level\":\"RequestResponse\",\"auditID\":"), "{text}");
    assert_eq!((&created["verb"], &created["stage"]), (&json!("create"), &json!("ResponseComplete")));
    assert_eq!(created["user"]["username"], "admin");
    assert_eq!(
        created["objectRef"],
        json!({"resource": "configmaps", "namespace": "default", "name": "a", "apiVersion": "v1"})
    );
    assert_eq!((&created["requestObject"], &created["responseStatus"]["code"]), (&body, &json!(201)));
    assert_eq!(created["responseObject"]["data"]["k"], "v");
    assert!(created["responseObject"]["metadata"]["managedFields"].is_null());
    assert_eq!((&denied["level"], &denied["user"]["username"]), (&json!("Metadata"), &json!("nobody")));
    assert_eq!(
        (&denied["responseStatus"]["code"], &denied["responseStatus"]["reason"]),
        (&json!(403), &json!("Forbidden"))
    );
    assert_eq!(denied["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert!(denied["responseObject"].is_null());
    assert!(!text.contains(ADMIN) && !text.contains(NOBODY), "no credentials in logs");
    Ok(())
}

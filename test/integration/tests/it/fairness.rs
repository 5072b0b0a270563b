//! Priority and fairness: requests are told where they belong, and a level that is full refuses.

use crate::http::until;
use anyhow::{Context, Result};
use integration::{ADMIN, NOBODY, Server};
use serde_json::{Value, json};

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

fn schema(level: &str) -> Value {
    json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": "nobodys"},
        "spec": {"matchingPrecedence": 5, "distinguisherMethod": {"type": "ByUser"},
            "priorityLevelConfiguration": {"name": level}, "rules": [{
                "subjects": [{"kind": "User", "user": {"name": "nobody"}}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]}]}})
}

async fn dangling(server: &Server) -> Result<(String, String)> {
    let object = server.get(&format!("{GROUP}/flowschemas/nobodys")).await?.body;
    let condition = &object["status"]["conditions"][0];
    let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
    Ok((text("status"), text("reason")))
}

fn header(head: &str, name: &str) -> String {
    head.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn requests_belong_to_levels() -> Result<()> {
    let server = Server::start().await?;
    let made = server.send("POST", &format!("{GROUP}/flowschemas"), &schema("tiny")).await?;
    assert_eq!(made.status, 201, "{}", made.text);
    let expected = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
    until("it dangles", async || Ok(dangling(&server).await? == expected("True", "NotFound"))).await?;
    let level = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": "tiny"}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 1,
            "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}}});
    let level = server.send("POST", &format!("{GROUP}/prioritylevelconfigurations"), &level).await?.body;
    until("it does not any more", async || Ok(dangling(&server).await? == expected("False", "Found")))
        .await?;
    let uid = level["metadata"]["uid"].as_str().context("uid")?.to_owned();
    until("requests are told", async || {
        let said = server.raw().await?.ask("GET /api", NOBODY, "", b"").await?;
        Ok(header(&said.head, "x-kubernetes-pf-prioritylevel-uid") == uid)
    })
    .await?;
    let said = server.raw().await?.ask("GET /api", ADMIN, "", b"").await?;
    assert_ne!(header(&said.head, "x-kubernetes-pf-prioritylevel-uid"), uid);
    refuses(&server).await?;
    let dump = server.get("/debug/api_priority_and_fairness/dump_priority_levels").await?;
    let row = dump.text.lines().find(|l| l.starts_with("tiny,")).context("in the dump")?;
    assert_ne!(row.split(',').nth(7).map(str::trim), Some("0"), "{row}");
    let metrics = server.get("/metrics").await?.text;
    let counted = "apiserver_flowcontrol_rejected_requests_total{priority_level=\"tiny\",flow_schema=\"nobodys\",reason=\"concurrency-limit\"}";
    assert!(metrics.contains(counted), "{counted}");
    Ok(())
}

/// As many requests as the level has seats hang in reading their bodies; the next one is refused.
async fn refuses(server: &Server) -> Result<()> {
    let rights = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "nobody"}, "subjects": [{"kind": "User", "name": "nobody", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}});
    server.send("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &rights).await?;
    let mut held = Vec::new();
    until("a refusal", async || {
        let mut slow = server.raw().await?;
        let head = format!(
            "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {NOBODY}\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
        );
        slow.send(head.as_bytes()).await?;
        held.push(slow);
        let said = server.raw().await?.ask("GET /api", NOBODY, "", b"").await?;
        if said.status == 429 {
            assert!(said.head.contains("retry-after: 1\r\n"), "{}", said.head);
            assert_eq!(said.text(), "Too many requests, please try again later.\n");
        }
        Ok(said.status == 429)
    })
    .await?;
    assert!(held.len() < 10, "{} requests had seats", held.len());
    drop(held);
    until("seats are free again", async || {
        Ok(server.raw().await?.ask("GET /api", NOBODY, "", b"").await?.status == 200)
    })
    .await
}

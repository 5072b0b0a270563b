//! What a thousand definitions cost while nobody uses them.

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use integration::{LIMIT, Server};
use serde_json::json;
use std::time::Instant;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const COUNT: usize = 1000;

/// The threads of the server, and the watchers that etcd has.
async fn costs(server: &Server) -> Result<(usize, usize)> {
    let pid = server.pid().context("the server runs")?;
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"))?.count();
    let metrics = server.etcd_metrics().await?;
    let line = metrics.lines().find_map(|l| l.strip_prefix("etcd_debugging_mvcc_watcher_total "));
    Ok((threads, line.context("etcd counts its watchers")?.trim().parse::<f64>()? as usize))
}

async fn define(client: kube::Client, i: usize) -> Result<()> {
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("things{i}.idle.example.com")},
        "spec": {"group": "idle.example.com", "scope": "Namespaced",
            "names": {"plural": format!("things{i}"), "kind": format!("Thing{i}")},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]},
    });
    let body = crd.to_string().into_bytes();
    let request = http::Request::post(DEFINITIONS).header("content-type", "application/json").body(body)?;
    client.request_text(request).await?;
    Ok(())
}

#[tokio::test]
async fn a_thousand_definitions_cost_no_threads_and_no_watches() -> Result<()> {
    let server = Server::start().await?;
    let before = costs(&server).await?;
    let client = server.admin()?;
    let all = stream::iter(0..COUNT).map(|i| define(client.clone(), i)).buffer_unordered(8);
    all.try_collect::<Vec<()>>().await?;
    // A thousand documents of types are made meanwhile, which takes an unoptimized server its time.
    let end = Instant::now() + 4 * LIMIT;
    let last = format!("/apis/idle.example.com/v1/namespaces/default/things{}", COUNT - 1);
    while server.get(&last).await?.status != 200 {
        ensure!(Instant::now() < end, "the last definition is never served");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    for i in [0, 1, COUNT / 2] {
        let list = server.get(&format!("/apis/idle.example.com/v1/things{i}")).await?;
        ensure!(list.status == 200 && list.body["items"] == json!([]), "{}", list.text);
    }
    let after = costs(&server).await?;
    // The runtime may start a few threads for files and names; a thread a definition would be a thousand.
    ensure!(
        after.0 <= before.0 + 16 && after.1 <= before.1,
        "threads and watches: {before:?}, then {after:?}"
    );
    Ok(())
}

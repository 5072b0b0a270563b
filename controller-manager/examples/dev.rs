#[path = "../src/controllers.rs"] mod controllers;
#[path = "../src/manager.rs"] mod manager;
use std::sync::Arc;
use controller_kit::*;
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter("info,controllers_cluster=debug").init();
    let config = kube::Config::infer().await?;
    let client = kube::Client::try_from(config)?;
    let shutdown = tokio_util::sync::CancellationToken::new();
    let (b, _t) = events::Broadcaster::start(client.clone(), "".into(), shutdown.clone());
    let mut s = Settings::default();
    s.collect_garbage = true; s.gates.insert("SeparateTaintEvictionController".into(), true);
    s.root_ca = Some("CA".into());
    let ctx = Context { client: client.clone(), informers: Arc::new(informer::Informers::new(client, shutdown.clone())), settings: Arc::new(s), shutdown, broadcaster: b };
    let sel = controllers::Selection::parse(&["*".into()]).map_err(|e| anyhow::anyhow!(e))?;
    manager::run(ctx, &sel).await;
    Ok(())
}

//! What the apiserver does of its own accord once it runs: the objects that every cluster has.

mod api_services;
mod bootstrap;
mod cluster;
mod custom_resources;
mod flow_control;
mod identity;
mod kubernetes_service;
mod repair;

use crate::options::Options;
use component::gates::Gates;
use endpoints::server::Server;
use std::future::Future;
use std::sync::Arc;
use tokio_util::task::TaskTracker;

/// Starts everything; it ends with the server's `stopping` token.
pub fn start(server: &Arc<Server>, options: &Arc<Options>, gates: &Arc<Gates>, tasks: &TaskTracker) {
    let (s, o, g) = (server.clone(), options.clone(), gates.clone());
    until_stopped(server, tasks, async move { bootstrap::run(&s, &o, &g).await });
    let front_proxy = crate::options::path(&options.flags, "proxy-client-cert-file")
        .zip(crate::options::path(&options.flags, "proxy-client-key-file"));
    // Before custom resources come into the table.
    let builtin = server.table.load_full();
    until_stopped(server, tasks, api_services::run(server.clone(), builtin, front_proxy));
    until_stopped(server, tasks, custom_resources::run(server.clone()));
    until_stopped(server, tasks, flow_control::run(server.clone()));
    let s = server.clone();
    until_stopped(server, tasks, async move { repair::run(&s).await });
    let (s, o) = (server.clone(), options.clone());
    until_stopped(server, tasks, async move { identity::run(&s, &o).await });
    let (s, o) = (server.clone(), options.clone());
    tasks.spawn(async move {
        let stop = s.stopping.clone();
        // The namespaces that these live in come first.
        tokio::select! {
            () = cluster::run(&s, &o) => kubernetes_service::run(&s, &o).await,
            () = stop.cancelled() => {}
        }
    });
}

fn until_stopped(server: &Arc<Server>, tasks: &TaskTracker, work: impl Future<Output = ()> + Send + 'static) {
    let stop = server.stopping.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    });
}

/// Logs what did not work; it is tried again with the next round.
fn note(what: &str, done: api::status::Result<()>) {
    if let Err(error) = done {
        tracing::warn!(what, %error, "will be tried again");
    }
}

/// Somebody else was faster: the next change shows what they did.
fn settled<T>(done: api::status::Result<T>) -> api::status::Result<()> {
    match done {
        Err(e) if matches!(e.reason, "AlreadyExists" | "Conflict" | "NotFound") => Ok(()),
        other => other.map(drop),
    }
}

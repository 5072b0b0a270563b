//! What the apiserver does of its own accord once it runs: the objects that every cluster has.

mod bootstrap;
mod cluster;
mod custom_resources;
mod identity;
mod kubernetes_service;
mod local_services;
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
    until_stopped(server, tasks, custom_resources::run(server.clone()));
    let s = server.clone();
    until_stopped(server, tasks, async move { local_services::run(&s).await });
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

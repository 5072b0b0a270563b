//! What the apiserver does of its own accord once it runs: the objects that every cluster has.

mod bootstrap;
mod cluster;
mod kubernetes_service;

use crate::options::Options;
use component::gates::Gates;
use endpoints::server::Server;
use std::sync::Arc;
use tokio_util::task::TaskTracker;

/// Starts everything; it ends with the server's `stopping` token.
pub fn start(server: &Arc<Server>, options: &Arc<Options>, gates: &Arc<Gates>, tasks: &TaskTracker) {
    let (s, o, g) = (server.clone(), options.clone(), gates.clone());
    tasks.spawn(async move {
        let stop = s.stopping.clone();
        tokio::select! {
            () = bootstrap::run(&s, &o, &g) => {}
            () = stop.cancelled() => {}
        }
    });
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

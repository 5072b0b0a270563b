//! What the apiserver does of its own accord once it runs: the objects that every cluster has.

mod bootstrap;

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
}

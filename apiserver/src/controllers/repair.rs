//! Keeps Services and their allocated addresses and node ports in agreement: once at the start, whenever
//! Services or addresses change, and every few minutes.

use endpoints::allocate::Repair;
use endpoints::server::Server;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Between two passes although nothing changes.
const ROUND: Duration = Duration::from_secs(180);
/// Changes gather for this long before they are looked at.
const GATHER: Duration = Duration::from_millis(500);

/// Runs until the server stops.
pub async fn run(server: &Server) {
    server.store.wait_ready().await;
    let changes = |group: &str, resource: &str| -> Option<watch::Receiver<i64>> {
        let routes = server.routes.load();
        Some(routes.storage(group, resource)?.stored.as_ref()?.resource.subscribe())
    };
    let (Some(mut services), Some(mut addresses)) =
        (changes("", "services"), changes("networking.k8s.io", "ipaddresses"))
    else {
        return;
    };
    let mut repair = Repair::default();
    let mut ports_due = Instant::now();
    loop {
        services.mark_unchanged();
        addresses.mark_unchanged();
        let started = Instant::now();
        let again = repair.addresses(server).await;
        if started >= ports_due {
            super::note("repairing the node ports of Services", repair.ports(server).await);
            ports_due = Instant::now() + ROUND;
        }
        // However many Services there are: most of the time goes to others.
        let rest = GATHER.max(started.elapsed() * 20);
        let wait = match again {
            Ok(again) => again.unwrap_or(ROUND).min(ports_due.saturating_duration_since(Instant::now())),
            Err(error) => {
                tracing::warn!(%error, "repairing the addresses of Services will be tried again");
                Duration::from_secs(1)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            changed = services.changed() => if changed.is_err() { return },
            changed = addresses.changed() => if changed.is_err() { return },
        }
        tokio::time::sleep(rest).await;
    }
}

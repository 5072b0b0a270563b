//! The checks behind `/healthz`, `/livez` and `/readyz`, by the names under which monitoring knows them.

use endpoints::server::Server;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use storage::Store;

/// What a hook's name stands for here: how far the server must have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Every resource is in memory.
    Loaded,
    /// The objects that every cluster has are there, and what follows them runs.
    Bootstrapped,
    /// This server's own groups are among the APIServices, and other servers' parts are known.
    Registered,
}

/// In upstream's order.
const HOOKS: [(&str, Stage); 32] = [
    (FOLLOW, Stage::Loaded),
    ("start-apiserver-admission-initializer", Stage::Loaded),
    ("generic-apiserver-start-informers", Stage::Loaded),
    ("priority-and-fairness-config-consumer", Stage::Bootstrapped),
    ("priority-and-fairness-filter", Stage::Bootstrapped),
    ("storage-object-count-tracker-hook", Stage::Loaded),
    ("start-apiextensions-informers", Stage::Loaded),
    ("start-apiextensions-controllers", Stage::Bootstrapped),
    ("crd-informer-synced", Stage::Loaded),
    ("start-system-namespaces-controller", Stage::Bootstrapped),
    ("peer-endpoint-reconciler-controller", Stage::Bootstrapped),
    ("start-cluster-authentication-info-controller", Stage::Bootstrapped),
    ("start-kube-apiserver-identity-lease-controller", Stage::Bootstrapped),
    ("start-kube-apiserver-identity-lease-garbage-collector", Stage::Bootstrapped),
    ("storage-readiness", Stage::Loaded),
    ("start-legacy-token-tracking-controller", Stage::Bootstrapped),
    ("start-service-ip-repair-controllers", Stage::Bootstrapped),
    ("rbac/bootstrap-roles", Stage::Bootstrapped),
    ("scheduling/bootstrap-system-priority-classes", Stage::Bootstrapped),
    ("priority-and-fairness-config-producer", Stage::Bootstrapped),
    ("bootstrap-controller", Stage::Bootstrapped),
    ("start-kubernetes-service-cidr-controller", Stage::Bootstrapped),
    (RELOAD, Stage::Loaded),
    ("start-kube-aggregator-informers", Stage::Loaded),
    ("apiservice-status-local-available-controller", Stage::Registered),
    ("apiservice-status-remote-available-controller", Stage::Registered),
    ("apiservice-registration-controller", Stage::Registered),
    ("apiservice-discovery-controller", Stage::Registered),
    ("kube-apiserver-autoregistration", Stage::Registered),
    (COMPLETE, Stage::Registered),
    ("apiservice-openapi-controller", Stage::Registered),
    ("apiservice-openapiv3-controller", Stage::Registered),
];
/// There only where changes of the encryption configuration are followed.
const FOLLOW: &str = "start-encryption-provider-config-automatic-reload";
/// There only with a certificate for aggregated servers.
const RELOAD: &str = "aggregator-reload-proxy-client-cert";
/// The one among them that is no hook.
const COMPLETE: &str = "autoregister-completion";

/// Registers all checks of this server.
pub fn register(server: &Arc<Server>, store: &Arc<Store>, reloads_proxy_certificate: bool) {
    let checks = &server.health;
    checks.add("log", || async { Ok(()) });
    checks.add_liveness("loopback-serving-certificate", || async { Ok(()) });
    etcd(server, store);
    let loaded = store.clone();
    checks.add_readiness("informer-sync", move || {
        let ready = loaded.ready();
        async move { if ready { Ok(()) } else { Err("not all resources are loaded yet".to_owned()) } }
    });
    let follows = store.encryption().is_some_and(|e| e.reloads());
    for (name, stage) in HOOKS {
        let off = (name.starts_with("priority-and-fairness") && server.fairness.is_none())
            || (name == RELOAD && !reloads_proxy_certificate)
            || (name == FOLLOW && !follows);
        if !off {
            hook(server, name, stage);
        }
    }
    let leaving = Arc::downgrade(server);
    checks.add_readiness("shutdown", move || {
        let leaving = leaving.upgrade().is_none_or(|s| s.leaving.load(Ordering::Acquire));
        async move { if leaving { Err("process is shutting down".to_owned()) } else { Ok(()) } }
    });
}

fn etcd(server: &Arc<Server>, store: &Arc<Store>) {
    let checks = &server.health;
    for index in 0..store.etcd_clusters() {
        let (alive, ready) = (store.clone(), store.clone());
        let (name, readiness) = match index {
            0 => ("etcd".to_owned(), "etcd-readiness".to_owned()),
            i => (format!("etcd-override-{}", i - 1), format!("etcd-override-readiness-{}", i - 1)),
        };
        checks.add(&name, move || {
            let etcd = alive.clone();
            async move { etcd.healthy(index).await.map_err(|e| e.to_string()) }
        });
        checks.add_readiness(&readiness, move || {
            let etcd = ready.clone();
            async move { etcd.etcd_ready(index).await.map_err(|e| e.to_string()) }
        });
    }
    let Some(encryption) = store.encryption() else { return };
    if encryption.reloads() {
        let all = encryption.clone();
        checks.add_but_alive("kms-providers", move || {
            let encryption = all.clone();
            async move { encryption.check().await }
        });
        return;
    }
    for index in 0..encryption.providers() {
        let one = encryption.clone();
        checks.add_but_alive(&format!("kms-provider-{index}"), move || {
            let encryption = one.clone();
            async move { encryption.check_one(index).await }
        });
    }
}

/// A stage once passed stays passed: a probe long after the start is not about starting.
fn hook(server: &Arc<Server>, name: &str, stage: Stage) {
    let (weak, passed) = (Arc::downgrade(server), std::sync::atomic::AtomicBool::new(false));
    let done = move || {
        let now = passed.load(Ordering::Acquire)
            || weak.upgrade().is_some_and(|s| match stage {
                Stage::Loaded => s.store.ready(),
                Stage::Bootstrapped => s.special.bootstrapped.load(Ordering::Acquire),
                Stage::Registered => s.special.registered.load(Ordering::Acquire),
            });
        passed.store(now, Ordering::Release);
        async move { if now { Ok(()) } else { Err("not finished".to_owned()) } }
    };
    match name {
        COMPLETE => server.health.add(name, done),
        _ => server.health.add_start(&format!("poststarthook/{name}"), done),
    }
}

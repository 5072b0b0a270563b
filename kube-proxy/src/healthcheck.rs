//! Health check node ports: for each Service with `externalTrafficPolicy: Local` a small server that tells load
//! balancers how many of its endpoints are on this node.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use component::serve::{Limits, accept};
use http::HeaderValue;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::health::{Health, answer};
use crate::node::NodePorts;

/// Load balancers ask often and briefly; more than this at a time is somebody else.
const LIMITS: Limits = Limits {
    connections: 256,
    handshake: Duration::from_secs(5),
    header: Duration::from_secs(10),
    streams: 16,
    header_bytes: 16 * 1024,
    drain: Duration::from_millis(500),
};

struct Running {
    port: u16,
    count: Arc<AtomicUsize>,
    stop: CancellationToken,
}

/// The servers that run.
pub struct HealthChecks {
    health: Health,
    running: HashMap<String, Running>,
    tasks: JoinSet<()>,
}

impl HealthChecks {
    /// None yet.
    pub fn new(health: Health) -> HealthChecks {
        HealthChecks { health, running: HashMap::new(), tasks: JoinSet::new() }
    }

    /// Starts, stops and updates servers so that they are those of `wanted`: Service to port and local endpoints.
    pub async fn sync(&mut self, wanted: &BTreeMap<String, (u16, usize)>, addresses: &[NodePorts]) {
        self.running.retain(|service, r| {
            let keep = wanted.get(service).is_some_and(|(port, _)| *port == r.port);
            if !keep {
                r.stop.cancel();
            }
            keep
        });
        // A port that changes hands must be free before it is opened again.
        while let Some(Some(_)) = futures::FutureExt::now_or_never(self.tasks.join_next()) {}
        for (service, (port, count)) in wanted {
            if let Some(running) = self.running.get(service) {
                running.count.store(*count, Ordering::Relaxed);
                continue;
            }
            let running = Running {
                port: *port,
                count: Arc::new(AtomicUsize::new(*count)),
                stop: CancellationToken::new(),
            };
            self.start(service, &running, addresses).await;
            self.running.insert(service.clone(), running);
        }
    }

    async fn start(&mut self, service: &str, running: &Running, addresses: &[NodePorts]) {
        let router = Router::new().fallback(handler(service, running.count.clone(), self.health.clone()));
        for ip in listen_ips(addresses) {
            match accept::bind(SocketAddr::new(ip, running.port)).await {
                Ok(listener) => {
                    let serve = accept::serve(listener, None, router.clone(), LIMITS, running.stop.clone());
                    self.tasks.spawn(serve);
                }
                Err(error) => {
                    tracing::error!(
                        service,
                        port = running.port,
                        error = format!("{error:#}"),
                        "Failed to start healthcheck"
                    );
                }
            }
        }
    }
}

/// One wildcard socket answers both families where IPv6 is there.
fn listen_ips(addresses: &[NodePorts]) -> Vec<IpAddr> {
    if addresses.contains(&NodePorts::Everywhere) {
        let v6 = std::path::Path::new("/proc/net/if_inet6").exists();
        return vec![if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }];
    }
    let of = |a: &NodePorts| match a {
        NodePorts::Addresses(ips) => ips.clone(),
        NodePorts::Everywhere => Vec::new(),
    };
    addresses.iter().flat_map(of).collect()
}

fn handler(
    service: &str,
    count: Arc<AtomicUsize>,
    health: Health,
) -> impl Fn() -> std::future::Ready<Response> + Clone + Send + Sync + 'static {
    let (namespace, name) =
        service.split_once('/').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap_or_default();
    move || {
        let (local, healthy) = (count.load(Ordering::Relaxed), health.healthy());
        let body = json!({
            "service": {"namespace": namespace, "name": name},
            "localEndpoints": local, "serviceProxyHealthy": healthy,
        });
        let mut response = answer(local > 0 && healthy, &body);
        if let Ok(weight) = HeaderValue::from_str(&local.to_string()) {
            response.headers_mut().insert("X-Load-Balancing-Endpoint-Weight", weight);
        }
        std::future::ready(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn ask(port: u16) -> Option<String> {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut out = String::new();
        stream.read_to_string(&mut out).await.ok()?;
        Some(out)
    }

    #[tokio::test]
    async fn servers_come_count_and_go() {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let mut checks = HealthChecks::new(Health::new(Duration::from_secs(60)));
        let local = [NodePorts::Addresses(vec!["127.0.0.1".parse().unwrap()])];
        let wanted = |n: usize| BTreeMap::from([("ns/web".to_owned(), (free, n))]);
        checks.sync(&wanted(2), &local).await;
        let up = ask(free).await.unwrap();
        assert!(up.starts_with("HTTP/1.1 200") && up.contains("x-load-balancing-endpoint-weight: 2"), "{up}");
        assert!(up.contains(r#""localEndpoints":2"#) && up.contains(r#""name":"web","namespace":"ns""#));
        checks.sync(&wanted(0), &local).await;
        assert!(ask(free).await.unwrap().starts_with("HTTP/1.1 503"));
        checks.sync(&BTreeMap::new(), &local).await;
        let gone = async {
            while ask(free).await.is_some() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.expect("stops");
    }
}

//! The proxier in a network namespace of its own: real nft, real connections.
//!
//! Needs root; where a namespace cannot be made the test says so and passes.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use k8s_openapi::api::core::v1::Service;
use kube::runtime::watcher;
use serde_json::{Value, json};

use super::*;

/// A namespace with an interface that has the node's and the endpoints' addresses.
struct Netns(String);

impl Netns {
    fn new() -> Option<Netns> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("kproxy-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        if !Command::new("ip").args(["netns", "add", &name]).status().is_ok_and(|s| s.success()) {
            eprintln!("skipped: no network namespace can be made here");
            return None;
        }
        let ns = Netns(name);
        for command in [
            "ip link set lo up",
            "ip link add eth0 type veth peer name peer0",
            "ip addr add 192.0.2.10/24 dev eth0",
            "ip addr add 10.244.0.2/24 dev eth0",
            "ip addr add 10.244.0.3/24 dev eth0",
            "ip link set eth0 up",
            "ip link set peer0 up",
            "ip route add default dev eth0",
        ] {
            assert!(ns.run(command).0, "{command}");
        }
        Some(ns)
    }

    fn run(&self, command: &str) -> (bool, String) {
        let args = ["netns", "exec", &self.0].into_iter().chain(command.split(' '));
        let out = Command::new("ip").args(args).output().unwrap();
        (
            out.status.success(),
            String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr),
        )
    }

    fn nft(&self) -> Nft {
        Nft::with_prefix(&["ip", "netns", "exec", &self.0])
    }

    /// Answers `name` to every connection to an address.
    fn server(&self, ip: &str, port: u16, name: &str) -> Server {
        let script = "import socket,sys\ns=socket.create_server((sys.argv[1],int(sys.argv[2])))\nprint('up',flush=True)\n\
            while True:\n  c,a=s.accept()\n  c.sendall((sys.argv[3]+' '+a[0]).encode())\n  c.close()";
        self.python(script, &[ip, &port.to_string(), name])
    }

    /// Answers `name` to every packet to port 8080 of an address.
    fn udp_server(&self, ip: &str, name: &str) -> Server {
        let script = "import socket,sys\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.bind((sys.argv[1],8080))\nprint('up',flush=True)\n\
            while True:\n  d,a=s.recvfrom(99)\n  s.sendto(sys.argv[2].encode(),a)";
        self.python(script, &[ip, name])
    }

    /// What a packet from a port of the node's is answered.
    fn udp_ask(&self, ip: &str, port: u16, from: u16) -> String {
        let script = "import socket,sys\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.settimeout(2)\n\
            s.bind(('192.0.2.10',int(sys.argv[3])))\ntry:\n  s.sendto(b'x',(sys.argv[1],int(sys.argv[2])))\n  print(s.recv(99).decode())\n\
            except Exception as e:\n  print(type(e).__name__)";
        let out = Command::new("ip")
            .args([
                "netns",
                "exec",
                &self.0,
                "python3",
                "-c",
                script,
                ip,
                &port.to_string(),
                &from.to_string(),
            ])
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    /// A script that prints a line of three bytes when it is ready.
    fn python(&self, script: &str, args: &[&str]) -> Server {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.0, "python3", "-c", script])
            .args(args)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 3];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        Server(child)
    }

    /// What a connection gets: the server's name and the client's address as it saw it, or the error.
    fn ask(&self, ip: &str, port: u16, from: &str) -> String {
        let script = "import socket,sys\ntry:\n  c=socket.create_connection((sys.argv[1],int(sys.argv[2])),2,(sys.argv[3],0))\n  \
            print(c.recv(99).decode())\nexcept Exception as e:\n  print(type(e).__name__)";
        let out = Command::new("ip")
            .args(["netns", "exec", &self.0, "python3", "-c", script, ip, &port.to_string(), from])
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

struct Server(std::process::Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The stores of informers over an API server that is made of these objects; changes are sent while it runs.
struct World {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    changes: Changes,
    feed: Feed,
    stop: CancellationToken,
}

type Sender = tokio::sync::broadcast::Sender<(&'static str, String)>;

#[derive(Clone)]
struct Feed(Sender);

impl Feed {
    /// A client whose watches begin empty and then get what is sent.
    fn client(&self) -> kube::Client {
        let sender = self.0.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let collection =
                if request.uri().path().contains("endpointslices") { "slice" } else { "service" };
            let receiver = sender.subscribe();
            let bookmark = json!({"type": "BOOKMARK", "object": {"apiVersion": "v1", "kind": "X", "metadata": {
                "resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}}});
            let first = futures::stream::once(std::future::ready(format!("{bookmark}\n")));
            let live = futures::stream::unfold(receiver, move |mut r| async move {
                loop {
                    let (to, text) = r.recv().await.ok()?;
                    if to == collection {
                        return Some((text, r));
                    }
                }
            });
            let frames = futures::StreamExt::map(futures::StreamExt::chain(first, live), |t| {
                Ok::<_, std::convert::Infallible>(http_body::Frame::data(bytes::Bytes::from(t)))
            });
            let body = http_body_util::StreamBody::new(Box::pin(frames));
            std::future::ready(Ok::<_, tower::BoxError>(http::Response::new(body)))
        });
        kube::Client::new(service, "default")
    }
}

impl World {
    async fn start() -> World {
        let feed = Feed(tokio::sync::broadcast::channel(100_000).0);
        let client = feed.client();
        let services = Informer::new(kube::Api::all(client.clone()), watcher::Config::default());
        let slices = Informer::new(kube::Api::all(client), watcher::Config::default())
            .index(BY_SERVICE, |s: &EndpointSlice| service_of(s).into_iter().collect());
        let (changes, stop) = (Changes::default(), CancellationToken::new());
        changes.listen(&services, &slices);
        tokio::spawn(services.clone().run(stop.clone()));
        tokio::spawn(slices.clone().run(stop.clone()));
        services.synced().await;
        slices.synced().await;
        World { services, slices, changes, feed, stop }
    }

    fn proxier(&self, nft: Nft) -> Proxier {
        let sync = Sync {
            masquerade_bit: 14,
            masquerade_all: false,
            sync_period: Duration::from_secs(30),
            min_sync_period: Duration::from_millis(1),
        };
        let settings = Settings {
            node_name: "me".into(),
            families: vec![Family::V4, Family::V6],
            sync,
            node_port_addresses: vec!["primary".into()],
        };
        let facts = NodeFacts {
            ips: vec![IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10))],
            local: LocalDetector::Cidrs(vec!["10.244.0.0/16".parse().unwrap()]),
            service_cidrs: vec!["10.96.0.0/16".into()],
            ..NodeFacts::default()
        };
        let health = Health::new(Duration::from_secs(60));
        let facts = Arc::new(Mutex::new(facts));
        Proxier::new(
            settings,
            nft,
            self.services.store(),
            self.slices.store(),
            self.changes.clone(),
            facts,
            health,
        )
    }

    /// Sends an object and waits until the stores have it.
    async fn put(&self, kind: &'static str, event: &str, mut object: Value) {
        static VERSION: AtomicU32 = AtomicU32::new(10);
        let version = VERSION.fetch_add(1, Ordering::SeqCst).to_string();
        object["metadata"]["resourceVersion"] = version.clone().into();
        let key = Key::new("ns", object["metadata"]["name"].as_str().unwrap());
        self.feed.0.send((kind, format!("{}\n", json!({"type": event, "object": object})))).unwrap();
        let there = || {
            let found = match kind {
                "slice" => self.slices.store().get(&key).and_then(|o| o.metadata.resource_version.clone()),
                _ => self.services.store().get(&key).and_then(|o| o.metadata.resource_version.clone()),
            };
            if event == "DELETED" { found.is_none() } else { found.as_ref() == Some(&version) }
        };
        within("the stores have what was sent", async || there()).await;
    }

    async fn service(&self, name: &str, spec: Value) {
        let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "ns", "name": name}, "spec": spec});
        self.put("service", "ADDED", object).await;
    }

    /// A slice of a Service with these addresses and port 8080; they are of this node.
    async fn endpoints(&self, service: &str, addresses: &[&str]) {
        self.slice(service, addresses, "TCP").await;
    }

    async fn udp_endpoints(&self, service: &str, addresses: &[&str]) {
        self.slice(service, addresses, "UDP").await;
    }

    async fn slice(&self, service: &str, addresses: &[&str], protocol: &str) {
        let list: Vec<Value> = addresses
            .iter()
            .map(|a| json!({"addresses": [a], "nodeName": "me", "conditions": {"ready": true}}))
            .collect();
        let object = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "ns", "name": format!("{service}-x"), "labels": {(SERVICE_NAME): service}},
            "addressType": "IPv4", "endpoints": list, "ports": [{"name": "", "port": 8080, "protocol": protocol}]});
        self.put("slice", "MODIFIED", object).await;
    }
}

/// Asks again and again until it is so; fails after ten seconds.
async fn within(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !so().await {
        assert!(std::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn spec(ip: &str) -> Value {
    json!({"clusterIP": ip, "clusterIPs": [ip], "type": "NodePort", "externalIPs": ["198.51.100.7"],
        "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]})
}

const NODE: &str = "192.0.2.10";

#[tokio::test(flavor = "multi_thread")]
async fn connections_find_their_endpoints() {
    let Some(ns) = Netns::new() else { return };
    let world = World::start().await;
    let mut proxier = world.proxier(ns.nft());
    world.service("web", spec("10.96.0.5")).await;
    proxier.sync().await;
    assert_eq!(
        ns.ask("10.96.0.5", 80, NODE),
        "ConnectionRefusedError",
        "rejected while there are no endpoints"
    );

    let (_a, _b) = (ns.server("10.244.0.2", 8080, "a"), ns.server("10.244.0.3", 8080, "b"));
    world.endpoints("web", &["10.244.0.2", "10.244.0.3"]).await;
    proxier.sync().await;
    let answers: HashSet<String> = (0..30).map(|_| ns.ask("10.96.0.5", 80, NODE)).collect();
    assert_eq!(answers.len(), 2, "both endpoints are used: {answers:?}");
    for (ip, port) in [(NODE, 30080), ("198.51.100.7", 80)] {
        let got = ns.ask(ip, port, NODE);
        assert!(got.starts_with("a ") || got.starts_with("b "), "{ip}:{port} got {got}");
    }
    assert_eq!(ns.ask("10.96.0.5", 81, NODE), "ConnectionRefusedError", "another port of a used address");
    assert_ne!(ns.ask("10.96.0.99", 80, NODE), "ConnectionRefusedError", "an unused address is dropped");

    world.endpoints("web", &["10.244.0.3"]).await;
    proxier.sync().await;
    let hairpin = ns.ask("10.96.0.5", 80, "10.244.0.3");
    assert!(
        hairpin.starts_with("b ") && hairpin != "b 10.244.0.3",
        "an endpoint sees itself as another: {hairpin}"
    );

    let mut sticky = spec("10.96.0.5");
    sticky["sessionAffinity"] = "ClientIP".into();
    world.service("web", sticky).await;
    world.endpoints("web", &["10.244.0.2", "10.244.0.3"]).await;
    proxier.sync().await;
    let first = ns.ask("10.96.0.5", 80, NODE);
    assert!((0..10).all(|_| ns.ask("10.96.0.5", 80, NODE) == first), "a client stays with its endpoint");
    // As after a restart: everything is written anew by somebody who remembers nothing.
    let mut restarted = world.proxier(ns.nft());
    world.changes.everything();
    restarted.sync().await;
    assert!((0..10).all(|_| ns.ask("10.96.0.5", 80, NODE) == first), "even over a restart");

    let gone = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "ns", "name": "web"}, "spec": {}});
    world.put("service", "DELETED", gone).await;
    // Chains that were in use go with a later sync, once nothing refers to them.
    within("nothing is left of a Service", async || {
        restarted.sync().await;
        !ns.run("nft list table ip kube-proxy").1.contains("ns/web")
    })
    .await;
    crate::cleanup::nftables(&ns.nft()).await.unwrap();
    assert_eq!(ns.run("nft list tables").1.trim(), "");
    world.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn udp_flows_move_when_their_endpoint_goes() {
    let Some(ns) = Netns::new() else { return };
    if !ns.nft().tool("conntrack").arg("-V").status().await.is_ok_and(|s| s.success()) {
        eprintln!("skipped: no conntrack here");
        return;
    }
    let world = World::start().await;
    let mut proxier = world.proxier(ns.nft());
    let mut spec = spec("10.96.0.53");
    spec["ports"] = json!([{"port": 53, "protocol": "UDP"}]);
    world.service("dns", spec).await;
    let (_a, _b) = (ns.udp_server("10.244.0.2", "a"), ns.udp_server("10.244.0.3", "b"));
    world.udp_endpoints("dns", &["10.244.0.2"]).await;
    proxier.sync().await;
    let ask = || ns.udp_ask("10.96.0.53", 53, 40_053);
    assert_eq!(ask(), "a");
    world.udp_endpoints("dns", &["10.244.0.3"]).await;
    proxier.sync().await;
    assert_eq!(ask(), "b", "the same client port, another endpoint");
    world.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_somebody_broke_is_made_anew() {
    let Some(ns) = Netns::new() else { return };
    let world = World::start().await;
    let mut proxier = world.proxier(ns.nft());
    world.service("web", spec("10.96.0.5")).await;
    world.endpoints("web", &["10.244.0.2"]).await;
    proxier.sync().await;
    assert!(ns.run("nft delete table ip kube-proxy").0);
    world.endpoints("web", &["10.244.0.3"]).await;
    proxier.sync().await;
    proxier.sync().await;
    assert!(ns.run("nft list table ip kube-proxy").1.contains("10.244.0.3 . 8080"));
    world.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_costs_the_same_among_many_services() {
    let Some(ns) = Netns::new() else { return };
    let world = World::start().await;
    let mut proxier = world.proxier(ns.nft());
    for i in 0..2000 {
        let mut spec = spec(&format!("10.96.{}.{}", i / 200, i % 200 + 1));
        spec["type"] = "ClusterIP".into();
        spec["externalIPs"] = json!([]);
        world.service(&format!("s{i}"), spec).await;
        world.endpoints(&format!("s{i}"), &["10.244.0.2"]).await;
    }
    let begin = std::time::Instant::now();
    proxier.sync().await;
    let full = begin.elapsed();
    world.endpoints("s7", &["10.244.0.3"]).await;
    let begin = std::time::Instant::now();
    proxier.sync().await;
    let one = begin.elapsed();
    eprintln!("2000 Services: full {full:?}, one change {one:?}");
    assert!(one * 3 < full, "full {full:?}, one change {one:?}");
    world.stop.cancel();
}

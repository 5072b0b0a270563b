//! How fast the store is by itself: `cargo run --release -p storage --features testing --example load`.
//!
//! Starts its own etcd (set `TMPDIR` to memory to leave the disk out), and prints one line per step.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use storage::testing::Etcd;
use storage::{
    Attributes, Config, IndexHint, ListOptions, ReadVersion, Resource, Spec, Store, WatchOptions, WatchStart,
};

const PODS: usize = 10_000;
const SIZE: usize = 1300;

fn spec() -> Spec {
    let attributes = |key: &str, bytes: &[u8]| {
        let node = format!("node-{}", bytes.first().copied().unwrap_or_default() % 100);
        let name = key.rsplit('/').next().unwrap_or_default();
        Attributes::new(
            [("app", "web"), ("pod-template-hash", "5d4f8c7b9d"), ("tier", "front")],
            [("metadata.name", name), ("spec.nodeName", &node), ("status.phase", "Running")],
        )
    };
    Spec::new("/registry/pods/", Arc::new(attributes)).indexed("spec.nodeName")
}

fn key(i: usize) -> String {
    format!("/registry/pods/ns-{}/web-5d4f8c7b9d-{i:05}", i % 20)
}

async fn parallel<F, Fut>(what: &str, n: usize, workers: usize, f: F)
where
    F: Fn(usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send,
{
    let f = Arc::new(f);
    let started = Instant::now();
    let tasks: Vec<_> = (0..workers)
        .map(|w| {
            let f = f.clone();
            tokio::spawn(async move {
                let mut times = Vec::with_capacity(n / workers + 1);
                for i in (w..n).step_by(workers) {
                    let t = Instant::now();
                    f(i).await;
                    times.push(t.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::with_capacity(n);
    for task in tasks {
        times.extend(task.await.expect("a worker"));
    }
    let took = started.elapsed();
    times.sort_unstable();
    let at = |p: usize| times[(times.len() - 1) * p / 100];
    println!(
        "{what:34} {:9.0}/s  p50 {:?}  p99 {:?}  (own cpu {:.2}s, rss {} MB)",
        n as f64 / took.as_secs_f64(),
        at(50),
        at(99),
        cpu(),
        rss()
    );
}

fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|t| t.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / 100.0
}

fn rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|k| k.parse::<u64>().ok()).unwrap_or_default() / 1024
}

async fn open(etcd: &Etcd) -> (Arc<Store>, Arc<Resource>) {
    let started = Instant::now();
    let store = Store::open(Config::new([etcd.url()])).await.expect("a store");
    let pods = store.resource(spec());
    store.wait_ready().await;
    println!(
        "{:34} {:?} for {} pods, rss {} MB",
        "open to ready",
        started.elapsed(),
        pods.snapshot().len(),
        rss()
    );
    (store, pods)
}

#[tokio::main]
async fn main() {
    let etcd = Etcd::start().await;
    let (_store, pods) = open(&etcd).await;
    let value = |i: usize| Bytes::from(vec![(i % 256) as u8; SIZE]);
    let p = pods.clone();
    parallel("create, 64 at a time", PODS, 64, move |i| {
        let p = p.clone();
        async move { drop(p.create(&key(i), value(i), None).await.expect("create")) }
    })
    .await;
    for (what, version) in [("get, consistent", ReadVersion::Consistent), ("get, any", ReadVersion::Any)] {
        for workers in [16, 64] {
            let p = pods.clone();
            parallel(&format!("{what}, {workers} at a time"), 100_000, workers, move |i| {
                let p = p.clone();
                async move { drop(p.get(&key(i % PODS), version).await.expect("get").expect("a pod")) }
            })
            .await;
        }
    }
    let p = pods.clone();
    parallel("list all, consistent", 200, 4, move |_| {
        let p = p.clone();
        async move {
            assert_eq!(
                p.list("/registry/pods/", ListOptions::default()).await.expect("list").items.len(),
                PODS
            )
        }
    })
    .await;
    let p = pods.clone();
    parallel("list of a node by index", 20_000, 16, move |i| {
        let p = p.clone();
        let index = Some(IndexHint { field: "spec.nodeName".into(), value: format!("node-{}", i % 100) });
        async move {
            drop(p.list("/registry/pods/", ListOptions { index, ..Default::default() }).await.expect("list"))
        }
    })
    .await;
    fan_out(&pods, 1000, 2000).await;
    let p = pods.clone();
    parallel("update, 64 at a time", PODS, 64, move |i| {
        let p = p.clone();
        async move {
            let o = p.get(&key(i), ReadVersion::Any).await.expect("get").expect("a pod");
            drop(p.update(&o.key, o.revision, value(i + 1), None).await.expect("update"))
        }
    })
    .await;
    let (_second, again) = open(&etcd).await;
    let p = again.clone();
    parallel("delete, 64 at a time", PODS, 64, move |i| {
        let p = p.clone();
        async move {
            let o = p.get(&key(i), ReadVersion::Any).await.expect("get").expect("a pod");
            p.delete(&o.key, o.revision).await.expect("delete");
        }
    })
    .await;
}

/// `watchers` watch everything while `events` updates happen, one after another.
async fn fan_out(pods: &Arc<Resource>, watchers: usize, events: usize) {
    let start = pods.revision();
    let mut tasks = Vec::new();
    for _ in 0..watchers {
        let options = WatchOptions { start: WatchStart::After(start), ..WatchOptions::default() };
        let mut watcher = pods.watch(pods.prefix(), options).await.expect("watch");
        tasks.push(tokio::spawn(async move {
            for _ in 0..events {
                watcher.next().await.expect("an event");
            }
        }));
    }
    let before = cpu();
    let started = Instant::now();
    for i in 0..events {
        let o = pods.get(&key(i % PODS), ReadVersion::Any).await.expect("get").expect("a pod");
        pods.update(&o.key, o.revision, Bytes::from(vec![1; SIZE]), None).await.expect("update");
    }
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(60), task).await.expect("in time").expect("a watcher");
    }
    let took = started.elapsed();
    let rate = (watchers * events) as f64 / took.as_secs_f64();
    println!(
        "{:34} {rate:9.0} deliveries/s, {took:?}, own cpu {:.2}s",
        "1,000 watchers, 2,000 updates",
        cpu() - before
    );
}

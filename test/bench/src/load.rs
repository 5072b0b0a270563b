//! The steps that are made of many alike requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bytes::Bytes;
use http::Request;

use crate::args::{Encoding, GetArgs, ListArgs, LoadArgs, PatchArgs, PatchType, Selector, SelectorArgs};
use crate::http::{Body, Connection, get, with_body};
use crate::objects::Pods;
use crate::report::{Outcome, Report};
use crate::target::Target;

/// How long one request may take before it counts as failed.
const REQUEST: Duration = Duration::from_secs(60);

/// A target with load to put on it.
pub struct Bench {
    pub target: Target,
    pub args: LoadArgs,
    pub pods: Arc<Pods>,
}

type Make = dyn Fn(usize) -> Result<Request<Body>> + Send + Sync;

impl Bench {
    pub async fn new(target: Target, args: &LoadArgs) -> Result<Bench> {
        Ok(Bench { target, args: args.clone(), pods: Arc::new(Pods::new(args.clone())) })
    }

    /// Makes the namespaces, and their service accounts in case no controller does.
    pub async fn prepare(&self) -> Result<()> {
        let mut connection = Connection::open(&self.target, self.args.http2).await?;
        for i in 0..self.args.namespaces.max(1) {
            let name = self.pods.namespace(i);
            let namespace =
                format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{name}"}}}}"#);
            create(&mut connection, "/api/v1/namespaces", namespace).await?;
            let account =
                r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}"#.to_owned();
            create(&mut connection, &format!("/api/v1/namespaces/{name}/serviceaccounts"), account).await?;
        }
        Ok(())
    }

    pub async fn create(&self, report: &mut Report) -> Result<()> {
        let pods = self.pods.clone();
        let make = move |i| with_body("POST", &pods.collection(i), "application/json", pods.body(i));
        // The warm-up pods come after the counted ones, and the delete step removes both.
        self.run(report, "create", self.args.objects, self.workers(), true, Arc::new(make)).await
    }

    pub async fn get(&self, report: &mut Report, options: &GetArgs) -> Result<()> {
        let (pods, n, o) = (self.pods.clone(), self.args.objects.max(1), options.clone());
        let query = if o.any_version { "?resourceVersion=0" } else { "" };
        // A stride that is coprime to most counts visits the pods in no order that a cache likes.
        let make = move |i: usize| {
            get(&format!("{}{query}", pods.path(i.wrapping_mul(7919) % n)), o.encoding.accept())
        };
        let name = format!("get {} {}", options.encoding.name(), version(options.any_version));
        self.run(report, &name, options.gets, self.workers(), true, Arc::new(make)).await
    }

    pub async fn list(&self, report: &mut Report, options: &ListArgs) -> Result<()> {
        let name = match options.limit {
            0 => format!("list {} {}", options.encoding.name(), version(options.any_version)),
            n => format!("list {} in pages of {n}", options.encoding.name()),
        };
        if options.limit > 0 {
            return self.list_pages(report, &name, options).await;
        }
        let path = if options.any_version { "/api/v1/pods?resourceVersion=0" } else { "/api/v1/pods" };
        let encoding = options.encoding;
        let make = move |_| get(path, encoding.accept());
        self.run_warm(report, &name, options.lists, options.parallel, 1, Arc::new(make)).await
    }

    async fn list_pages(&self, report: &mut Report, name: &str, options: &ListArgs) -> Result<()> {
        let mut connection = Connection::open(&self.target, self.args.http2).await?;
        let step = report.begin(name);
        let mut outcome = Outcome::default();
        for _ in 0..options.lists {
            let started = Instant::now();
            let mut token = String::new();
            loop {
                let path = format!("/api/v1/pods?limit={}&continue={token}", options.limit);
                let page = connection.ok(get(&path, Encoding::Json.accept())?).await?;
                outcome.bytes += page.len();
                token = continue_token(&page)?;
                if token.is_empty() {
                    break;
                }
            }
            outcome.times.push(started.elapsed());
        }
        report.end(step, outcome);
        Ok(())
    }

    pub async fn list_selector(&self, report: &mut Report, options: &SelectorArgs) -> Result<()> {
        let (by, nodes) = (options.by, self.args.nodes);
        if by == Selector::Node && nodes == 0 {
            return Ok(());
        }
        let more = if options.any_version { "&resourceVersion=0" } else { "" };
        let make = move |i: usize| {
            let query = match by {
                Selector::Label => format!("labelSelector=app%3D{}", Pods::app(i)),
                Selector::Node => format!("fieldSelector=spec.nodeName%3D{}", Pods::node(i * 7, nodes)),
            };
            get(&format!("/api/v1/pods?{query}{more}"), Encoding::Json.accept())
        };
        let by = if by == Selector::Label { "label" } else { "node" };
        let name = format!("list by {by} {}", version(options.any_version));
        self.run_warm(report, &name, options.lists, options.parallel, 5, Arc::new(make)).await
    }

    pub async fn patch(&self, report: &mut Report, options: &PatchArgs) -> Result<()> {
        let (pods, n, kind) = (self.pods.clone(), self.args.objects.max(1), options.patch_type);
        let make = move |i: usize| {
            // Neighbours in time are different pods: this measures patches, not conflicts.
            let pod = i.wrapping_mul(7919) % n;
            let path = pods.path(pod);
            let merge = format!(r#"{{"metadata":{{"annotations":{{"bench/patched":"{i}"}}}}}}"#);
            match kind {
                PatchType::Merge => with_body("PATCH", &path, "application/merge-patch+json", merge),
                PatchType::Strategic => {
                    with_body("PATCH", &path, "application/strategic-merge-patch+json", merge)
                }
                PatchType::Json => {
                    let patch = format!(
                        r#"[{{"op":"add","path":"/metadata/annotations/bench~1patched","value":"{i}"}}]"#
                    );
                    with_body("PATCH", &path, "application/json-patch+json", patch)
                }
                PatchType::Apply => {
                    let name = pods.name(pod);
                    let apply = format!(
                        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","annotations":{{"bench/applied":"{i}"}}}}}}"#
                    );
                    let path = format!("{path}?fieldManager=bench&force=true");
                    with_body("PATCH", &path, "application/apply-patch+yaml", apply)
                }
            }
        };
        let name = match kind {
            PatchType::Merge => "patch merge",
            PatchType::Strategic => "patch strategic",
            PatchType::Json => "patch json",
            PatchType::Apply => "patch apply (server-side)",
        };
        self.run(report, name, options.patches, self.workers(), true, Arc::new(make)).await
    }

    pub async fn delete(&self, report: &mut Report) -> Result<()> {
        let pods = self.pods.clone();
        let make = move |i: usize| {
            let path = format!("{}?gracePeriodSeconds=0", pods.path(i));
            Ok(Request::delete(path).header("accept", "application/json").body(Body::default())?)
        };
        let make: Arc<Make> = Arc::new(make);
        self.run(report, "delete", self.args.objects, self.workers(), false, make.clone()).await?;
        // The warm-up's pods, where there are any.
        let extra = self.args.warmup;
        let rest = move |i: usize| make(i);
        let first = self.args.objects;
        self.requests(first..first + extra, self.workers(), Arc::new(rest)).await?;
        Ok(())
    }

    fn workers(&self) -> usize {
        self.args.connections.max(1) * if self.args.http2 { self.args.streams.max(1) } else { 1 }
    }

    async fn run(
        &self,
        report: &mut Report,
        name: &str,
        n: usize,
        workers: usize,
        warm: bool,
        make: Arc<Make>,
    ) -> Result<()> {
        let warmup = if warm { self.args.warmup } else { 0 };
        self.run_warm(report, name, n, workers, warmup, make).await
    }

    async fn run_warm(
        &self,
        report: &mut Report,
        name: &str,
        n: usize,
        workers: usize,
        warmup: usize,
        make: Arc<Make>,
    ) -> Result<()> {
        let warm = self.requests(n..n + warmup, workers, make.clone()).await?;
        if warmup > 0 && warm.errors == warmup {
            bail!("{name}: nothing works: {}", warm.error.unwrap_or_default());
        }
        let step = report.begin(name);
        let outcome = self.requests(0..n, workers, make).await?;
        report.end(step, outcome);
        Ok(())
    }

    /// Sends the requests of a range, as many at a time as there are workers.
    async fn requests(
        &self,
        range: std::ops::Range<usize>,
        workers: usize,
        make: Arc<Make>,
    ) -> Result<Outcome> {
        let workers = workers.min(range.len());
        let mut connections = Vec::with_capacity(workers);
        while connections.len() < workers {
            let connection = Connection::open(&self.target, self.args.http2).await?;
            let shared = if self.args.http2 { self.args.streams.max(1) - 1 } else { 0 };
            connections.extend((0..shared).filter_map(|_| connection.share()));
            connections.push(connection);
        }
        connections.truncate(workers);
        let next = Arc::new(AtomicUsize::new(range.start));
        let started = Instant::now();
        let tasks: Vec<_> = connections
            .into_iter()
            .map(|connection| {
                let (next, make, target) = (next.clone(), make.clone(), self.target.clone());
                tokio::spawn(worker(connection, target, self.args.http2, next, range.end, make))
            })
            .collect();
        let mut all = Outcome::default();
        for task in tasks {
            all.merge(task.await?);
        }
        all.took = Some(started.elapsed());
        Ok(all)
    }
}

async fn worker(
    mut connection: Connection,
    target: Target,
    http2: bool,
    next: Arc<AtomicUsize>,
    end: usize,
    make: Arc<Make>,
) -> Outcome {
    let mut outcome = Outcome::default();
    loop {
        let i = next.fetch_add(1, Ordering::Relaxed);
        if i >= end {
            return outcome;
        }
        let answer = match make(i) {
            Ok(request) => tokio::time::timeout(REQUEST, connection.exchange(request, false))
                .await
                .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in {REQUEST:?}"))),
            Err(e) => Err(e),
        };
        match answer {
            Ok(a) if a.status < 400 => {
                outcome.times.push(a.took);
                outcome.bytes += a.bytes;
            }
            Ok(a) => failed(&mut outcome, format!("{} {}", a.status, String::from_utf8_lossy(&a.text))),
            Err(e) => {
                failed(&mut outcome, format!("{e:#}"));
                match Connection::open(&target, http2).await {
                    Ok(fresh) => connection = fresh,
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        }
    }
}

fn failed(outcome: &mut Outcome, text: String) {
    outcome.errors += 1;
    outcome.error.get_or_insert(text);
}

fn version(any: bool) -> &'static str {
    if any { "rv=0" } else { "latest" }
}

/// Creates; what exists already is fine.
async fn create(connection: &mut Connection, path: &str, body: String) -> Result<()> {
    let answer =
        connection.exchange(with_body("POST", path, "application/json", Bytes::from(body))?, false).await?;
    if answer.status >= 400 && answer.status != 409 {
        bail!("POST {path}: {} {}", answer.status, String::from_utf8_lossy(&answer.text));
    }
    Ok(())
}

/// The list metadata comes before the items, so there is no need to parse them.
fn continue_token(page: &[u8]) -> Result<String> {
    const NAME: &[u8] = br#""continue":""#;
    let items = find(page, br#""items":"#).unwrap_or(page.len());
    let tail = page.len().saturating_sub(2048).max(items);
    for part in [&page[..items], &page[tail..]] {
        if let Some(at) = find(part, NAME) {
            let rest = &part[at + NAME.len()..];
            let end = rest.iter().position(|b| *b == b'"').unwrap_or(0);
            return Ok(std::str::from_utf8(&rest[..end])?.to_owned());
        }
    }
    Ok(String::new())
}

pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_continue_token() {
        for (page, want) in [
            (r#"{"kind":"PodList","metadata":{"resourceVersion":"7","continue":"abc"},"items":[]}"#, "abc"),
            (r#"{"items":[{"x":1}],"kind":"PodList","metadata":{"continue":"def"}}"#, "def"),
            (r#"{"metadata":{"resourceVersion":"7"},"items":[]}"#, ""),
        ] {
            assert_eq!(continue_token(page.as_bytes()).unwrap(), want);
        }
    }
}

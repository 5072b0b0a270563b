//! Pods on a real node: from creation to running and ready, from deletion to gone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http::Request;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::PodsArgs;
use crate::http::{Body, Connection, get, with_body};
use crate::report::{Outcome, Report};
use crate::target::Target;

mod replicas;

const LABEL: &str = "bench-pod-start";

pub async fn run(target: &Target, options: &PodsArgs, report: &mut Report) -> Result<()> {
    if options.count > 0 {
        let mut session = Session::open(target, options).await?;
        let result = unless_stopped(session.single_pods(report)).await;
        session.clear().await;
        result?;
    }
    if options.replicas > 0 {
        replicas::run(target, options, report, options.replicas, false).await?;
    }
    if options.idle > 0 {
        idle(options, report, "idle").await;
    }
    if options.hold > 0 {
        replicas::run(target, options, report, options.hold, true).await?;
    }
    Ok(())
}

/// A benchmark that is stopped still takes away what it made.
async fn unless_stopped(work: impl Future<Output = Result<()>>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = work => result,
        _ = terminate.recv() => bail!("stopped"),
        _ = tokio::signal::ctrl_c() => bail!("stopped"),
    }
}

/// Leaves everything alone for a while: the report tells what the processes used meanwhile.
async fn idle(options: &PodsArgs, report: &mut Report, name: &str) {
    // What came before has its echoes.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let step = report.begin(name);
    tokio::time::sleep(Duration::from_secs(options.idle)).await;
    report.end(step, Outcome::default());
}

struct Session<'a> {
    options: &'a PodsArgs,
    writer: Connection,
    events: Events,
    collection: String,
    run: String,
    started: BTreeMap<String, Instant>,
}

/// What has been seen of each pod.
#[derive(Default)]
struct Seen {
    running: BTreeMap<String, Instant>,
    ready: BTreeMap<String, Instant>,
    gone: BTreeMap<String, Instant>,
}

impl<'a> Session<'a> {
    async fn open(target: &Target, options: &'a PodsArgs) -> Result<Session<'a>> {
        let run = format!("{:08x}", rand::random::<u32>());
        let collection = format!("/api/v1/namespaces/{}/pods", options.namespace);
        let writer = Connection::open(target, false).await?;
        let mut reader = Connection::open(target, false).await?;
        let path = format!("{collection}?watch=true&labelSelector={LABEL}%3D{run}");
        let response = reader.send(get(&path, "application/json")?).await?;
        if response.status() != 200 {
            bail!("watch: {}", response.status());
        }
        let events = Events { body: response.into_body(), rest: Vec::new(), _connection: reader };
        Ok(Session { options, writer, events, collection, run, started: BTreeMap::new() })
    }

    async fn single_pods(&mut self, report: &mut Report) -> Result<()> {
        let names: Vec<String> = (0..self.options.count).map(|i| format!("bench-{}-{i}", self.run)).collect();
        let batches: Vec<&[String]> =
            if self.options.together { vec![&names] } else { names.chunks(1).collect() };
        let mut seen = Seen::default();
        let step = report.begin("pods created to running");
        for batch in &batches {
            for name in *batch {
                let body = self.pod(name).to_string();
                self.started.insert(name.clone(), Instant::now());
                self.writer.ok(with_body("POST", &self.collection, "application/json", body)?).await?;
            }
            self.until(&mut seen, |s| batch.iter().all(|n| s.ready.contains_key(n))).await?;
        }
        report.end(step, self.outcome(&seen.running));
        let step = report.begin("pods created to ready");
        report.end(step, self.outcome(&seen.ready));

        let step = report.begin("pods deleted to gone");
        for batch in &batches {
            for name in *batch {
                let request = Request::delete(format!("{}/{name}", self.collection)).body(Body::default())?;
                self.started.insert(name.clone(), Instant::now());
                self.writer.ok(request).await?;
            }
            self.until(&mut seen, |s| batch.iter().all(|n| s.gone.contains_key(n))).await?;
        }
        report.end(step, self.outcome(&seen.gone));
        Ok(())
    }

    /// Whatever happened, nothing stays behind.
    async fn clear(&mut self) {
        let path = format!("{}?labelSelector={LABEL}%3D{}", self.collection, self.run);
        if let Ok(request) = Request::delete(path).body(Body::default()) {
            let _ = self.writer.exchange(request, false).await;
        }
    }

    fn outcome(&self, at: &BTreeMap<String, Instant>) -> Outcome {
        let since = |name: &String| self.started.get(name).copied();
        let times: Vec<Duration> =
            at.iter().filter_map(|(n, t)| since(n).map(|s| t.saturating_duration_since(s))).collect();
        let first = self.started.values().min();
        let took = first.and_then(|f| at.values().max().map(|l| l.saturating_duration_since(*f)));
        Outcome { times, took, ..Outcome::default() }
    }

    async fn until(&mut self, seen: &mut Seen, done: impl Fn(&Seen) -> bool) -> Result<()> {
        let deadline = self.options.deadline();
        let wait = async {
            while !done(seen) {
                let event = self.events.next().await?;
                note(seen, &event);
            }
            Ok(())
        };
        tokio::time::timeout(deadline, wait).await.with_context(|| format!("not done after {deadline:?}"))?
    }

    fn pod(&self, name: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {LABEL: self.run}},
            "spec": self.pod_spec("Never"),
        })
    }

    fn pod_spec(&self, restart_policy: &str) -> Value {
        let mut spec = json!({
            "restartPolicy": restart_policy,
            "containers": [{
                "name": "main",
                "image": self.options.image,
                "imagePullPolicy": "IfNotPresent",
            }],
        });
        if !self.options.command.is_empty() {
            spec["containers"][0]["command"] = json!(self.options.command);
        }
        if let Some(node) = &self.options.node {
            spec["nodeName"] = node.as_str().into();
        }
        spec
    }
}

fn note(seen: &mut Seen, event: &Value) {
    let now = Instant::now();
    let pod = &event["object"];
    let Some(name) = pod["metadata"]["name"].as_str() else { return };
    if event["type"] == "DELETED" {
        seen.gone.entry(name.to_owned()).or_insert(now);
        return;
    }
    if pod["status"]["phase"] == "Running" {
        seen.running.entry(name.to_owned()).or_insert(now);
    }
    let ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
    if pod["status"]["conditions"].as_array().is_some_and(|c| c.iter().any(ready)) {
        seen.ready.entry(name.to_owned()).or_insert(now);
    }
}

/// Watch events, parsed line by line.
struct Events {
    body: Incoming,
    rest: Vec<u8>,
    _connection: Connection,
}

impl Events {
    async fn next(&mut self) -> Result<Value> {
        loop {
            if let Some(at) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=at).collect();
                let event: Value = serde_json::from_slice(&line)?;
                if event["type"] == "ERROR" {
                    bail!("watch: {}", event["object"]);
                }
                return Ok(event);
            }
            let frame = self.body.frame().await.context("the watch ended")??;
            if let Some(data) = frame.data_ref() {
                self.rest.extend_from_slice(data);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_the_first_time_of_each_state() {
        let mut seen = Seen::default();
        let event = |kind: &str, status: Value| json!({"type": kind, "object": {"metadata": {"name": "a"}, "status": status}});
        note(&mut seen, &event("ADDED", json!({"phase": "Pending"})));
        assert!(seen.running.is_empty());
        let running = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        note(&mut seen, &event("MODIFIED", running.clone()));
        let first = seen.running["a"];
        note(&mut seen, &event("MODIFIED", running));
        assert_eq!((seen.running["a"], seen.ready.len(), seen.gone.len()), (first, 1, 0));
        note(&mut seen, &event("DELETED", json!({})));
        assert_eq!(seen.gone.len(), 1);
    }
}

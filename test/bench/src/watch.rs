//! Fan-out: many watchers of a few changing objects, and how late each event arrives.
//!
//! The objects are pods, or ConfigMaps where only the number of deliveries is to be measured. Every
//! change carries the time at which its request was sent; watchers look for it in the raw bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;

use crate::args::{WatchArgs, Watched};
use crate::http::{Connection, get, with_body};
use crate::load::{Bench, find};
use crate::report::{Outcome, Report};

/// Objects that change in turn.
const OBJECTS: usize = 20;
/// After the last change the watchers may take this long to see it.
const GRACE: Duration = Duration::from_secs(10);
const MARK: &[u8] = br#""sent":"t"#;

pub async fn run(bench: &Bench, report: &mut Report, options: &WatchArgs) -> Result<()> {
    let resource = options.of.resource();
    let collection = format!("/api/v1/namespaces/{}/{resource}", bench.pods.namespace(0));
    let mut writer = Connection::open(&bench.target, false).await?;
    for i in 0..OBJECTS {
        let name = format!("watched-{i}");
        let body = match options.of {
            Watched::Pods => bench.pods.named(&name),
            Watched::Configmaps => {
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}).to_string()
            }
        };
        let request = with_body("POST", &collection, "application/json", body)?;
        let answer = writer.exchange(request, false).await?;
        if answer.status >= 400 && answer.status != 409 {
            bail!("POST {collection}: {} {}", answer.status, String::from_utf8_lossy(&answer.text));
        }
    }
    let list = writer.ok(get(&format!("{collection}?limit=1"), "application/json")?).await?;
    let list: serde_json::Value = serde_json::from_slice(&list).context("the list")?;
    let version = list["metadata"]["resourceVersion"].as_str().context("no resourceVersion")?;

    let events = options.rate * usize::try_from(options.seconds).unwrap_or(1);
    let shared = Arc::new(Shared {
        epoch: Instant::now(),
        events,
        done: AtomicBool::new(false),
        open: AtomicUsize::new(0),
    });
    let path = format!("{collection}?watch=true&resourceVersion={version}");
    let tasks = open(bench, options, &path, &shared).await?;
    let step = report.begin(format!("watch {resource} {} x {}/s", options.watchers, options.rate));
    let started = Instant::now();
    let failed = change(&mut writer, &collection, options.rate, &shared).await?;
    let deadline = Instant::now() + GRACE;
    while shared.open.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    shared.done.store(true, Ordering::Relaxed);
    let took = started.elapsed();
    let mut all = Outcome { errors: failed, ..Outcome::default() };
    for task in tasks {
        match tokio::time::timeout(GRACE, task).await {
            Ok(outcome) => all.merge(outcome?),
            Err(_) => all.errors += 1,
        }
    }
    let missing = (options.watchers * events).saturating_sub(all.times.len());
    if missing > 0 {
        all.errors += missing;
        all.error.get_or_insert(format!("{missing} of {} events did not arrive", options.watchers * events));
    }
    all.took = Some(took);
    report.end(step, all);
    for i in 0..OBJECTS {
        let request = http::Request::delete(format!("{collection}/watched-{i}?gracePeriodSeconds=0"))
            .body(crate::http::Body::default())?;
        let _ = writer.exchange(request, false).await?;
    }
    Ok(())
}

struct Shared {
    epoch: Instant,
    events: usize,
    done: AtomicBool,
    /// Watchers that have not seen all yet.
    open: AtomicUsize,
}

async fn open(
    bench: &Bench,
    options: &WatchArgs,
    path: &str,
    shared: &Arc<Shared>,
) -> Result<Vec<tokio::task::JoinHandle<Outcome>>> {
    let http2 = options.per_connection > 1 && bench.target.tls.is_some();
    let mut tasks = Vec::with_capacity(options.watchers);
    let mut connection: Option<Connection> = None;
    for i in 0..options.watchers {
        let fresh = i % options.per_connection.max(1) == 0 || !http2;
        let mut handle = match connection.as_ref().filter(|_| !fresh).and_then(Connection::share) {
            Some(handle) => handle,
            None => {
                let opened = Connection::open(&bench.target, http2).await?;
                let shared = opened.share();
                connection = shared;
                opened
            }
        };
        let response = handle.send(get(path, "application/json")?).await?;
        if response.status() != 200 {
            bail!("watch: {}", response.status());
        }
        shared.open.fetch_add(1, Ordering::Relaxed);
        let shared = shared.clone();
        tasks.push(tokio::spawn(async move {
            let outcome = read(response.into_body(), &shared).await;
            drop(handle);
            outcome
        }));
    }
    Ok(tasks)
}

/// Changes the objects at the rate; answers how many changes failed.
async fn change(writer: &mut Connection, collection: &str, rate: usize, shared: &Shared) -> Result<usize> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(rate.max(1)).unwrap_or(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut failed = 0;
    for i in 0..shared.events {
        ticks.tick().await;
        let path = format!("{collection}/watched-{}", i % OBJECTS);
        let sent = shared.epoch.elapsed().as_micros();
        let patch = format!(r#"{{"metadata":{{"annotations":{{"sent":"t{sent}"}}}}}}"#);
        let answer =
            writer.exchange(with_body("PATCH", &path, "application/merge-patch+json", patch)?, false).await?;
        failed += usize::from(answer.status >= 400);
    }
    Ok(failed)
}

async fn read(mut body: Incoming, shared: &Shared) -> Outcome {
    let mut outcome = Outcome::default();
    let mut rest: Vec<u8> = Vec::new();
    while outcome.times.len() < shared.events && !shared.done.load(Ordering::Relaxed) {
        let frame = match tokio::time::timeout(Duration::from_secs(1), body.frame()).await {
            Err(_) => continue,
            Ok(None) => break,
            Ok(Some(frame)) => frame,
        };
        let data = match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) => data,
            Ok(Err(_)) => continue,
            Err(e) => {
                outcome.errors += 1;
                outcome.error = Some(e.to_string());
                break;
            }
        };
        outcome.bytes += data.len();
        let now = shared.epoch.elapsed();
        rest.extend_from_slice(&data);
        let complete = rest.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        for line in rest[..complete].split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            if let Some(sent) = sent_at(line) {
                outcome.times.push(now.saturating_sub(sent));
            }
        }
        rest.drain(..complete);
    }
    shared.open.fetch_sub(1, Ordering::Relaxed);
    outcome
}

fn sent_at(line: &[u8]) -> Option<Duration> {
    let at = find(line, MARK)? + MARK.len();
    let digits = line[at..].iter().take_while(|b| b.is_ascii_digit()).count();
    let micros: u64 = std::str::from_utf8(&line[at..at + digits]).ok()?.parse().ok()?;
    Some(Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_time_of_an_event() {
        let line = br#"{"type":"MODIFIED","object":{"data":{"sent":"t1234"}}}"#;
        assert_eq!(sent_at(line), Some(Duration::from_micros(1234)));
        assert_eq!(sent_at(br#"{"type":"BOOKMARK"}"#), None);
    }
}

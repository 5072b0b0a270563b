//! What was measured, as a table or as JSON.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use crate::process::{self, Usage};

/// Collects and prints the steps.
pub struct Report {
    json: bool,
    pids: Vec<(String, u32)>,
    header: bool,
    failed: usize,
}

/// The state at the begin of a step.
pub struct Step {
    name: String,
    started: Instant,
    before: Vec<Usage>,
    own: Usage,
}

/// The result of a step.
#[derive(Default)]
pub struct Outcome {
    /// Latency of each request.
    pub times: Vec<Duration>,
    pub bytes: usize,
    pub errors: usize,
    /// The first failure's text.
    pub error: Option<String>,
    /// Time for all; the time since the step began if none is given.
    pub took: Option<Duration>,
}

impl Outcome {
    pub fn merge(&mut self, other: Outcome) {
        self.times.extend(other.times);
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.error = self.error.take().or(other.error);
    }
}

impl Report {
    pub fn new(json: bool, pids: Vec<(String, u32)>) -> Report {
        Report { json, pids, header: false, failed: 0 }
    }

    pub fn begin(&self, name: impl Into<String>) -> Step {
        let before = self.pids.iter().map(|(_, id)| process::usage(*id).unwrap_or_default()).collect();
        Step { name: name.into(), own: process::own(), before, started: Instant::now() }
    }

    pub fn end(&mut self, step: Step, mut outcome: Outcome) {
        let took = outcome.took.unwrap_or_else(|| step.started.elapsed()).as_secs_f64();
        outcome.times.sort_unstable();
        let count = outcome.times.len();
        let at = |p: f64| percentile(&outcome.times, p);
        self.failed += outcome.errors;
        let own = process::own().cpu - step.own.cpu;
        let used: Vec<(&str, f64, Usage)> = self
            .pids
            .iter()
            .zip(&step.before)
            .map(|((name, id), before)| {
                let now = process::usage(*id).unwrap_or_default();
                (name.as_str(), now.cpu - before.cpu, now)
            })
            .collect();
        if self.json {
            let processes: Map<String, Value> = used
                .iter()
                .map(|(name, cpu, u)| {
                    ((*name).to_owned(), json!({"cpu": cpu, "rssKiB": u.rss, "peakKiB": u.peak}))
                })
                .collect();
            let line = json!({
                "step": step.name, "count": count, "seconds": took, "perSecond": count as f64 / took,
                "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1.0),
                "bytes": outcome.bytes, "bytesPerSecond": outcome.bytes as f64 / took,
                "errors": outcome.errors, "error": outcome.error, "clientCpu": own, "processes": processes,
            });
            println!("{line}");
            return;
        }
        if !self.header {
            self.header = true;
            println!(
                "{:<34} {:>8} {:>8} {:>10} {:>9} {:>9} {:>9} {:>9} {:>8}  cpu of client and servers, memory now/peak",
                "step", "count", "seconds", "per s", "p50", "p90", "p99", "max", "MB/s"
            );
        }
        print!(
            "{:<34} {count:>8} {took:>8.2} {:>10.1} {:>9} {:>9} {:>9} {:>9} {:>8.1}  client {own:.2}s",
            step.name,
            count as f64 / took,
            millis(at(0.5)),
            millis(at(0.9)),
            millis(at(0.99)),
            millis(at(1.0)),
            outcome.bytes as f64 / took / 1e6,
        );
        for (name, cpu, usage) in used {
            print!(", {name} {cpu:.2}s {}/{} MB", usage.rss / 1024, usage.peak / 1024);
        }
        println!();
        if outcome.errors > 0 {
            println!("    {} failed; the first: {}", outcome.errors, outcome.error.unwrap_or_default());
        }
    }

    /// One line of other facts.
    pub fn say(&self, facts: Value) {
        if self.json {
            println!("{facts}");
        } else if let Value::Object(facts) = facts {
            let text: Vec<String> = facts.iter().map(|(k, v)| format!("{k} {}", plain(v))).collect();
            println!("{}", text.join(", "));
        }
    }

    /// Remembers a step that could not be run.
    pub fn note(&mut self, done: Result<()>) {
        if let Err(e) = done {
            self.failed += 1;
            self.say(json!({"step failed": format!("{e:#}")}));
        }
    }

    pub fn finish(self) -> Result<()> {
        if self.failed > 0 {
            bail!("{} requests or steps failed", self.failed);
        }
        Ok(())
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// In seconds.
fn percentile(sorted: &[Duration], p: f64) -> f64 {
    match sorted.len() {
        0 => 0.0,
        n => sorted[(((n as f64) * p).ceil() as usize).clamp(1, n) - 1].as_secs_f64(),
    }
}

fn millis(seconds: f64) -> String {
    let ms = seconds * 1e3;
    let digits = if ms < 10.0 { 2 } else { 1 };
    format!("{ms:.digits$}ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let times: Vec<_> = (1..=100).map(Duration::from_secs).collect();
        for (p, want) in [(0.0, 1.0), (0.5, 50.0), (0.9, 90.0), (0.99, 99.0), (1.0, 100.0)] {
            assert_eq!(percentile(&times, p), want);
        }
        assert_eq!(percentile(&[], 0.5), 0.0);
        assert_eq!(millis(0.00123), "1.23ms");
    }
}

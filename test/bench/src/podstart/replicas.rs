//! The pods of a ReplicaSet: all ready, perhaps held for a while, all gone.

use anyhow::{Result, bail};
use http::Request;
use serde_json::{Value, json};

use super::{LABEL, Seen, Session, idle, note, unless_stopped};
use crate::args::PodsArgs;
use crate::http::{Body, with_body};
use crate::report::{Outcome, Report};
use crate::target::Target;

pub async fn run(
    target: &Target,
    options: &PodsArgs,
    report: &mut Report,
    count: usize,
    hold: bool,
) -> Result<()> {
    let mut session = Session::open(target, options).await?;
    let sets = format!("/apis/apps/v1/namespaces/{}/replicasets", options.namespace);
    let path = format!("{sets}/bench-{}", session.run);
    let result = unless_stopped(session.measure_set(report, &sets, &path, count, hold)).await;
    if result.is_err() {
        // Whatever happened, nothing stays behind.
        if let Ok(request) = Request::delete(&path).body(Body::default()) {
            let _ = session.writer.exchange(request, false).await;
        }
        session.clear().await;
    }
    result
}

impl Session<'_> {
    async fn measure_set(
        &mut self,
        report: &mut Report,
        sets: &str,
        path: &str,
        count: usize,
        hold: bool,
    ) -> Result<()> {
        let mut seen = Seen::default();
        let step = report.begin(format!("ReplicaSet of {count} to ready"));
        let body = self.replica_set(count).to_string();
        self.writer.ok(with_body("POST", sets, "application/json", body)?).await?;
        self.until(&mut seen, |s| s.ready.len() >= count).await?;
        report.end(step, Outcome::default());
        if hold && self.options.idle > 0 {
            idle(self.options, report, &format!("{count} pods held")).await;
            self.all_still_ready(count).await?;
        }
        let step = report.begin(format!("ReplicaSet of {count} to gone"));
        let request = Request::delete(format!("{path}?propagationPolicy=Background")).body(Body::default())?;
        self.writer.ok(request).await?;
        self.until(&mut seen, |s| s.gone.len() >= count).await?;
        report.end(step, Outcome::default());
        Ok(())
    }

    async fn all_still_ready(&mut self, count: usize) -> Result<()> {
        let path = format!("{}?labelSelector={LABEL}%3D{}", self.collection, self.run);
        let answer = self.writer.exchange(Request::get(path).body(Body::default())?, true).await?;
        let list: Value = serde_json::from_slice(&answer.text)?;
        let mut now = Seen::default();
        for pod in list["items"].as_array().into_iter().flatten() {
            note(&mut now, &json!({"type": "ADDED", "object": pod}));
        }
        if now.ready.len() != count {
            bail!("{} of {count} pods are ready after a while", now.ready.len());
        }
        Ok(())
    }

    fn replica_set(&self, count: usize) -> Value {
        let labels = json!({LABEL: self.run});
        json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {"name": format!("bench-{}", self.run)},
            "spec": {
                "replicas": count,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": self.pod_spec("Always")},
            },
        })
    }
}

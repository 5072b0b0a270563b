//! How long admission takes: each step, each plugin, each webhook.
//!
//! Plugins are a closed set and webhooks are named by administrators: no label is a client's to choose.

use crate::attributes::Operation;
use component::metrics::{CounterVec, HistogramVec, counter_vec, histogram_vec};
use prometheus_client::metrics::histogram::Histogram;
use std::sync::{LazyLock, OnceLock};
use std::time::Instant;

const BUCKETS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5];
const WEBHOOK_BUCKETS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];

static STEPS: LazyLock<HistogramVec> = LazyLock::new(|| {
    histogram_vec(
        "apiserver_admission_step_admission_duration_seconds",
        "Time of a whole step of admission.",
        &["operation", "rejected", "type"],
        BUCKETS,
    )
});
static PLUGINS: LazyLock<HistogramVec> = LazyLock::new(|| {
    histogram_vec(
        "apiserver_admission_controller_admission_duration_seconds",
        "Time of one admission plugin.",
        &["name", "operation", "rejected", "type"],
        BUCKETS,
    )
});
static WEBHOOKS: LazyLock<HistogramVec> = LazyLock::new(|| {
    histogram_vec(
        "apiserver_admission_webhook_admission_duration_seconds",
        "Time of one admission webhook.",
        &["name", "operation", "rejected", "type"],
        WEBHOOK_BUCKETS,
    )
});
static REQUESTS: LazyLock<CounterVec> = LazyLock::new(|| {
    counter_vec(
        "apiserver_admission_webhook_request_total",
        "Calls of admission webhooks by outcome.",
        &["code", "name", "operation", "rejected", "type"],
    )
});

/// What a step does with the object.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Admit,
    Validate,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Step::Admit => "admit",
            Step::Validate => "validate",
        }
    }
}

/// The series of one plugin or of the steps; those of requests that pass are kept at hand.
#[derive(Default)]
pub struct Meter {
    plugin: Option<&'static str>,
    passed: [OnceLock<Histogram>; 8],
}

impl Meter {
    /// Of the steps.
    pub fn steps() -> Meter {
        Meter::default()
    }

    pub fn of(plugin: &'static str) -> Meter {
        Meter { plugin: Some(plugin), ..Default::default() }
    }

    fn series(&self, step: Step, operation: Operation, rejected: &str) -> Histogram {
        match self.plugin {
            Some(name) => PLUGINS.with(&[name, operation.as_str(), rejected, step.name()]),
            None => STEPS.with(&[operation.as_str(), rejected, step.name()]),
        }
    }

    /// Notes a step that began at `since`.
    pub fn observe(&self, step: Step, operation: Operation, since: Instant, passed: bool) {
        let seconds = since.elapsed().as_secs_f64();
        if !passed {
            return self.series(step, operation, "true").observe(seconds);
        }
        let slot = operation as usize * 2 + usize::from(step == Step::Validate);
        self.passed[slot].get_or_init(|| self.series(step, operation, "false")).observe(seconds);
    }
}

/// Notes a call of a webhook; `code` is that of its refusal, or 200.
pub fn webhook(name: &str, step: Step, operation: Operation, since: Instant, code: u16) {
    let rejected = if code == 200 { "false" } else { "true" };
    // The validating side has a name of its own here.
    let kind = if step == Step::Validate { "validating" } else { step.name() };
    WEBHOOKS.with(&[name, operation.as_str(), rejected, kind]).observe(since.elapsed().as_secs_f64());
    REQUESTS.with(&[&code.to_string(), name, operation.as_str(), rejected, kind]).inc();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_apart() {
        let meter = Meter::of("Test");
        let now = Instant::now();
        meter.observe(Step::Admit, Operation::Create, now, true);
        meter.observe(Step::Validate, Operation::Connect, now, true);
        meter.observe(Step::Admit, Operation::Create, now, false);
        webhook("w.example.com", Step::Validate, Operation::Delete, now, 403);
        let text = component::metrics::registry().render();
        for line in [
            "admission_duration_seconds_count{name=\"Test\",operation=\"CREATE\",rejected=\"false\",type=\"admit\"} 1",
            "admission_duration_seconds_count{name=\"Test\",operation=\"CREATE\",rejected=\"true\",type=\"admit\"} 1",
            "admission_duration_seconds_count{name=\"Test\",operation=\"CONNECT\",rejected=\"false\",type=\"validate\"} 1",
            "webhook_request_total{code=\"403\",name=\"w.example.com\",operation=\"DELETE\",rejected=\"true\",type=\"validating\"} 1",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}

//! `apiserver_flowcontrol_*`.

use crate::level::Demand;
use crate::limits::Bounds;
use component::metrics::{CounterVec, GaugeVec, HistogramVec, counter_vec, gauge, gauge_vec, histogram_vec};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const SECONDS: &[f64] = &[0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
const SEATS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0];

type Real = Gauge<f64, AtomicU64>;

/// All of them.
pub struct Metrics {
    dispatched: CounterVec,
    rejected: CounterVec,
    waiting: GaugeVec,
    waiting_seats: GaugeVec,
    executing: GaugeVec,
    executing_seats: GaugeVec,
    waited: HistogramVec,
    worked: HistogramVec,
    seats: HistogramVec,
    nominal: GaugeVec,
    lower: GaugeVec,
    upper: GaugeVec,
    current: GaugeVec,
    target: GaugeVec,
    high: GaugeVec,
    average: GaugeVec,
    deviation: GaugeVec,
    smoothed: GaugeVec,
    pub fair_fraction: Real,
}

impl Metrics {
    /// Registered once a process.
    pub fn shared() -> Arc<Metrics> {
        static SHARED: OnceLock<Arc<Metrics>> = OnceLock::new();
        SHARED.get_or_init(|| Arc::new(Metrics::new())).clone()
    }

    fn new() -> Metrics {
        const FLOW: &[&str] = &["priority_level", "flow_schema"];
        const LEVEL: &[&str] = &["priority_level"];
        let of = |name: &str| format!("apiserver_flowcontrol_{name}");
        let level = |name: &str, help: &str| gauge_vec(&of(name), help, LEVEL);
        let flow = |name: &str, help: &str| gauge_vec(&of(name), help, FLOW);
        Metrics {
            dispatched: counter_vec(&of("dispatched_requests_total"), "Requests that got seats.", FLOW),
            rejected: counter_vec(
                &of("rejected_requests_total"),
                "Requests that got none, by reason.",
                &["priority_level", "flow_schema", "reason"],
            ),
            waiting: flow("current_inqueue_requests", "Requests that wait for seats."),
            waiting_seats: flow("current_inqueue_seats", "Seats that are waited for."),
            executing: flow("current_executing_requests", "Requests that are being worked on."),
            executing_seats: flow("current_executing_seats", "Seats that are taken."),
            waited: histogram_vec(
                &of("request_wait_duration_seconds"),
                "Time that requests waited for seats.",
                &["priority_level", "flow_schema", "execute"],
                SECONDS,
            ),
            worked: histogram_vec(
                &of("request_execution_seconds"),
                "Time that requests kept their seats.",
                &["priority_level", "flow_schema", "type"],
                SECONDS,
            ),
            seats: histogram_vec(&of("work_estimated_seats"), "Seats that requests took.", FLOW, SEATS),
            nominal: level("nominal_limit_seats", "Seats of a level by its shares."),
            lower: level("lower_limit_seats", "Seats that a level does not lend."),
            upper: level("upper_limit_seats", "Seats up to which a level may borrow."),
            current: level("current_limit_seats", "Seats of a level now, with those lent and borrowed."),
            target: level("target_seats", "Seats that a level should have had."),
            high: level("demand_seats_high_watermark", "Most seats that a level wanted in the last period."),
            average: level(
                "demand_seats_average",
                "Average of the seats that a level wanted in the last period.",
            ),
            deviation: level(
                "demand_seats_stdev",
                "Deviation of the seats that a level wanted in the last period.",
            ),
            smoothed: level("demand_seats_smoothed", "Smoothed demand of a level."),
            fair_fraction: gauge(&of("seat_fair_frac"), "Part of their targets that levels got."),
        }
    }
}

/// Those of one level.
pub struct LevelMetrics {
    all: Arc<Metrics>,
    level: String,
}

impl LevelMetrics {
    pub fn new(all: Arc<Metrics>, level: &str) -> LevelMetrics {
        LevelMetrics { all, level: level.to_owned() }
    }

    fn set(&self, gauge: &GaugeVec, value: f64) {
        gauge.with(&[&self.level]).set(value);
    }

    pub fn bounds(&self, bounds: &Bounds, limit: usize) {
        self.set(&self.all.nominal, bounds.nominal as f64);
        self.set(&self.all.lower, bounds.lower as f64);
        self.set(&self.all.upper, bounds.upper as f64);
        self.set(&self.all.current, limit as f64);
    }

    pub fn limit(&self, limit: usize, target: f64) {
        self.set(&self.all.current, limit as f64);
        self.set(&self.all.target, target);
    }

    pub fn demand(&self, demand: &Demand) {
        self.set(&self.all.high, demand.high);
        self.set(&self.all.average, demand.average);
        self.set(&self.all.deviation, demand.deviation);
        self.set(&self.all.smoothed, demand.smoothed);
    }

    pub fn handles(&self, schema: &str) -> Handles {
        let (all, of) = (&self.all, [self.level.as_str(), schema]);
        Handles {
            dispatched: all.dispatched.with(&of),
            waiting: all.waiting.with(&of),
            waiting_seats: all.waiting_seats.with(&of),
            executing: all.executing.with(&of),
            executing_seats: all.executing_seats.with(&of),
            waited: ["true", "false"].map(|e| all.waited.with(&[of[0], of[1], e])),
            worked: all.worked.with(&[of[0], of[1], "regular"]),
            seats: all.seats.with(&of),
            all: all.clone(),
            of: of.map(str::to_owned),
        }
    }

    pub fn forget(&self, schemas: &[String]) {
        let all = &self.all;
        for gauge in [
            &all.nominal,
            &all.lower,
            &all.upper,
            &all.current,
            &all.target,
            &all.high,
            &all.average,
            &all.deviation,
            &all.smoothed,
        ] {
            gauge.remove(&[&self.level]);
        }
        for schema in schemas {
            for gauge in [&all.waiting, &all.waiting_seats, &all.executing, &all.executing_seats] {
                gauge.remove(&[&self.level, schema]);
            }
        }
    }
}

/// Those of one schema in one level.
pub struct Handles {
    all: Arc<Metrics>,
    of: [String; 2],
    dispatched: Counter,
    waiting: Real,
    waiting_seats: Real,
    executing: Real,
    executing_seats: Real,
    waited: [Histogram; 2],
    worked: Histogram,
    seats: Histogram,
}

impl Handles {
    pub fn rejected(&self, reason: &str) -> Counter {
        self.all.rejected.with(&[&self.of[0], &self.of[1], reason])
    }

    pub fn queued(&self, seats: usize) {
        self.waiting.inc();
        self.waiting_seats.inc_by(seats as f64);
    }

    pub fn unqueued(&self, seats: usize) {
        self.waiting.dec();
        self.waiting_seats.dec_by(seats as f64);
    }

    pub fn waited(&self, time: Duration, executed: bool) {
        self.waited[usize::from(!executed)].observe(time.as_secs_f64());
    }

    pub fn dispatched(&self, seats: usize) {
        self.dispatched.inc();
        self.executing.inc();
        self.executing_seats.inc_by(seats as f64);
        self.seats.observe(seats as f64);
    }

    pub fn finished(&self, seats: usize, time: Duration) {
        self.executing.dec();
        self.executing_seats.dec_by(seats as f64);
        self.worked.observe(time.as_secs_f64());
    }
}

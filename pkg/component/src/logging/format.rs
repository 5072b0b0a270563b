//! The bytes of a log line.

use std::fmt::{Debug, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// A field's value, already rendered the way klog or JSON wants it.
enum Value {
    Text(String),
    Raw(String),
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: Vec<(&'static str, Value)>,
}

impl Fields {
    fn of(event: &Event<'_>) -> Fields {
        let mut fields = Fields::default();
        event.record(&mut fields);
        fields
    }

    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::Text(t) | Value::Raw(t)) => self.message = t,
            // klog's and zap's name for an error.
            ("error", v) => self.rest.push(("err", v)),
            (name, v) => self.rest.push((name, v)),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::Text(value.to_owned()));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::Raw(value.to_string()));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::Raw(value.to_string()));
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        let rendered =
            if value.is_finite() { Value::Raw(value.to_string()) } else { Value::Text(value.to_string()) };
        self.put(field, rendered);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::Raw(value.to_string()));
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(inner) = source {
            let _ = write!(text, ": {inner}");
            source = inner.source();
        }
        self.put(field, Value::Text(text));
    }
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, Value::Text(format!("{value:?}")));
    }
}

/// `I1121 04:10:11.123456   12345 file.rs:12] "message" key="value"`
pub(super) fn text(event: &Event<'_>) -> String {
    let meta = event.metadata();
    let fields = Fields::of(event);
    let letter = match *meta.level() {
        Level::ERROR => 'E',
        Level::WARN => 'W',
        _ => 'I',
    };
    let now = jiff::Zoned::now();
    let mut out = format!(
        "{letter}{} {:>7} {}:{}] {:?}",
        now.strftime("%m%d %H:%M:%S.%6f"),
        std::process::id(),
        file(meta.file()),
        meta.line().unwrap_or(0),
        fields.message,
    );
    for (name, value) in &fields.rest {
        let _ = match value {
            Value::Text(t) => write!(out, " {name}={t:?}"),
            Value::Raw(r) => write!(out, " {name}={r}"),
        };
    }
    out.push('\n');
    out
}

/// `{"ts":1700000000000.123,"caller":"file.rs:12","msg":"message","v":0,"key":"value"}`
pub(super) fn json(event: &Event<'_>) -> String {
    let meta = event.metadata();
    let fields = Fields::of(event);
    let micros = jiff::Timestamp::now().as_microsecond();
    let mut out = format!(
        "{{\"ts\":{}.{:03},\"caller\":{},\"msg\":{}",
        micros / 1000,
        micros % 1000,
        quoted(&format!("{}:{}", file(meta.file()), meta.line().unwrap_or(0))),
        quoted(&fields.message),
    );
    // As upstream, errors carry no verbosity.
    if *meta.level() != Level::ERROR {
        let _ = write!(out, ",\"v\":{}", super::v_of(meta.level()));
    }
    for (name, value) in &fields.rest {
        let _ = match value {
            Value::Text(t) => write!(out, ",{}:{}", quoted(name), quoted(t)),
            Value::Raw(r) => write!(out, ",{}:{r}", quoted(name)),
        };
    }
    out.push_str("}\n");
    out
}

fn quoted(s: &str) -> String {
    serde_json::Value::from(s).to_string()
}

fn file(path: Option<&str>) -> &str {
    path.and_then(|p| p.rsplit('/').next()).unwrap_or("?")
}

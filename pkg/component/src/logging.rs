//! Logging in klog's text format, or as JSON lines, to stderr.
//!
//! Verbosity maps on tracing's levels: `-v=0..3` is info, `4..5` debug, `6` and up trace. Libraries below us log only
//! warnings whatever the verbosity, because some of them print headers, and a header may be a credential.

mod format;

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};

use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

use crate::Flags;

static VERBOSITY: AtomicU32 = AtomicU32::new(0);

/// Crates whose debugging output may carry what we must not log, or drowns ours.
const FOREIGN: [&str; 16] = [
    "h2",
    "hyper",
    "hyper_util",
    "rustls",
    "tokio_rustls",
    "hyper_rustls",
    "tower",
    "tower_http",
    "tonic",
    "kube_client",
    "kube_runtime",
    "mio",
    "tungstenite",
    "tokio_tungstenite",
    "opentelemetry",
    "opentelemetry_sdk",
];

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// klog's.
    Text,
    /// A JSON object a line.
    Json,
}

/// Starts logging as `-v` and `--logging-format` say.
pub fn init(flags: &Flags) -> anyhow::Result<()> {
    let verbosity = if flags.has("v") { flags.int("v") } else { 0 };
    let format = match if flags.has("logging-format") { flags.str("logging-format") } else { "text" } {
        "text" | "" => Format::Text,
        "json" => Format::Json,
        other => anyhow::bail!("[format: Invalid value: {other:?}: Unsupported log format]"),
    };
    start(u32::try_from(verbosity).unwrap_or(0), format);
    Ok(())
}

/// Starts logging; a second call only changes the verbosity.
pub fn start(verbosity: u32, format: Format) {
    set_verbosity(verbosity);
    let subscriber = tracing_subscriber::registry().with(Klog { format });
    // Fails only if logging was started before, which tests do.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Changes the verbosity while running (`PUT /debug/flags/v`).
pub fn set_verbosity(verbosity: u32) {
    VERBOSITY.store(verbosity, Ordering::Relaxed);
    tracing::callsite::rebuild_interest_cache();
}

/// The current verbosity.
pub fn verbosity() -> u32 {
    VERBOSITY.load(Ordering::Relaxed)
}

fn level() -> LevelFilter {
    match verbosity() {
        0..=3 => LevelFilter::INFO,
        4..=5 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    }
}

struct Klog {
    format: Format,
}

impl<S: Subscriber> Layer<S> for Klog {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let root = metadata.target().split("::").next().unwrap_or_default();
        let limit = if FOREIGN.contains(&root) { LevelFilter::WARN } else { level() };
        *metadata.level() <= limit
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(level())
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = match self.format {
            Format::Text => format::text(event),
            Format::Json => format::json(event),
        };
        // One write a line, so that lines of several threads never mix; nobody can be told if stderr is gone.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
}

/// klog's verbosity of a tracing level.
fn v_of(level: &Level) -> u32 {
    match *level {
        Level::DEBUG => 4,
        Level::TRACE => 6,
        _ => 0,
    }
}

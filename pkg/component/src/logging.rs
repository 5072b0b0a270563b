//! Logging in klog's text format, or as JSON lines, to stderr (or, where it is asked for, only errors there).
//!
//! Verbosity maps on tracing's levels: `-v=0..3` is info, `4..5` debug, `6` and up trace. Libraries below us log only
//! warnings whatever the verbosity, because some of them print headers, and a header may be a credential.

mod format;

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::RwLock;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

use crate::Flags;
use crate::gates::Gates;

/// Lines are JSON.
static JSON: AtomicBool = AtomicBool::new(false);
/// Only errors go to stderr.
static SPLIT: AtomicBool = AtomicBool::new(false);
static VERBOSITY: AtomicU32 = AtomicU32::new(0);
static VMODULE: RwLock<Vec<(String, u32)>> = RwLock::new(Vec::new());

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
    if flags.has("vmodule") {
        set_vmodule(&flags.list("vmodule"))?;
    }
    install(u32::try_from(verbosity).unwrap_or(0), format, split(flags, format)?);
    Ok(())
}

/// Whether what is no error goes to stdout.
fn split(flags: &Flags, format: Format) -> anyhow::Result<bool> {
    let name = match format {
        Format::Text => "log-text-split-stream",
        Format::Json => "log-json-split-stream",
    };
    let split = flags.has(name) && flags.bool(name);
    if split && !Gates::from_flags(flags)?.enabled("LoggingAlphaOptions") {
        anyhow::bail!("--{name}: Forbidden: Feature LoggingAlphaOptions is disabled");
    }
    Ok(split)
}

/// Starts logging; a second call only changes the verbosity.
pub fn start(verbosity: u32, format: Format) {
    install(verbosity, format, false);
}

/// How to log, as a configuration file says it.
#[derive(Clone, Debug)]
pub struct Rules {
    /// How lines look.
    pub format: Format,
    /// Whether what is no error goes to stdout.
    pub split: bool,
    /// How much is logged.
    pub verbosity: u32,
    /// How much by file.
    pub vmodule: Vec<(String, u32)>,
}

/// Logs from now on by these rules.
pub fn configure(rules: &Rules) {
    JSON.store(rules.format == Format::Json, Ordering::Relaxed);
    SPLIT.store(rules.split, Ordering::Relaxed);
    rules.vmodule.clone_into(&mut VMODULE.write());
    set_verbosity(rules.verbosity);
}

fn install(verbosity: u32, format: Format, split: bool) {
    JSON.store(format == Format::Json, Ordering::Relaxed);
    SPLIT.store(split, Ordering::Relaxed);
    set_verbosity(verbosity);
    let subscriber = tracing_subscriber::registry().with(Klog);
    // Fails only if logging was started before, which tests do.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Sets the verbosity of single source files: `pattern=N`, where a pattern may end in `*` and names no `.rs`.
pub fn set_vmodule(rules: &[String]) -> anyhow::Result<()> {
    let mut parsed = Vec::new();
    for rule in rules.iter().filter(|r| !r.is_empty()) {
        let pair = rule.split_once('=').and_then(|(p, n)| Some((p.to_owned(), n.parse::<u32>().ok()?)));
        let Some(pair) = pair else {
            anyhow::bail!(
                "invalid argument {rule:?} for \"--vmodule\" flag: syntax error: expect comma-separated list of filename=N"
            );
        };
        parsed.push(pair);
    }
    *VMODULE.write() = parsed;
    tracing::callsite::rebuild_interest_cache();
    Ok(())
}

/// The verbosity of a source file.
fn verbosity_of(file: Option<&str>) -> u32 {
    let rules = VMODULE.read();
    let stem = || file.and_then(|f| f.rsplit('/').next()).unwrap_or_default().trim_end_matches(".rs");
    let fits = |pattern: &str| match pattern.strip_suffix('*') {
        Some(prefix) => stem().starts_with(prefix),
        None => stem() == pattern,
    };
    rules.iter().find(|(p, _)| fits(p)).map_or_else(verbosity, |(_, n)| *n)
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

fn level(verbosity: u32) -> LevelFilter {
    match verbosity {
        0..=3 => LevelFilter::INFO,
        4..=5 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    }
}

struct Klog;

impl<S: Subscriber> Layer<S> for Klog {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let root = metadata.target().split("::").next().unwrap_or_default();
        if FOREIGN.contains(&root) {
            return *metadata.level() <= LevelFilter::WARN;
        }
        *metadata.level() <= level(verbosity_of(metadata.file()))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let most = VMODULE.read().iter().map(|(_, n)| *n).max().unwrap_or(0);
        Some(level(verbosity().max(most)))
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = match JSON.load(Ordering::Relaxed) {
            false => format::text(event),
            true => format::json(event),
        };
        // One write a line, so that lines of several threads never mix; nobody can be told if the stream is gone.
        let _ = match SPLIT.load(Ordering::Relaxed) && *event.metadata().level() != Level::ERROR {
            true => std::io::stdout().lock().write_all(line.as_bytes()),
            false => std::io::stderr().lock().write_all(line.as_bytes()),
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vmodule_is_by_file() {
        set_vmodule(&["leader=7".into(), "que*=5".into()]).unwrap();
        let of = |f: &str| verbosity_of(Some(f));
        assert_eq!((of("pkg/client/src/leader.rs"), of("queue.rs"), of("other.rs")), (7, 5, verbosity()));
        assert!(set_vmodule(&["x".into()]).is_err());
        set_vmodule(&[]).unwrap();
    }
}

//! The `logging` part of the configuration: what it may say, and how it becomes the rules of the log.

use anyhow::bail;
use component::Flags;
use component::gates::Gates;
use component::logging::{Format, Rules};
use serde_json::Value;

use super::types::Logging;

/// Refuses what cannot be.
pub fn check(logging: &Logging, gates: &Gates) -> anyhow::Result<()> {
    let mut errors = Vec::new();
    let mut wrong = |field: &str, why: String| errors.push(format!("logging.{field}: {why}"));
    if flush(&logging.flush_frequency).is_none_or(|nanos| nanos <= 0) {
        let said = &logging.flush_frequency;
        wrong("flushFrequency", format!("Invalid value: {said}: Must be greater than zero"));
    }
    if !matches!(logging.format.as_str(), "" | "text" | "json") {
        wrong("format", format!("Invalid value: {:?}: Unsupported log format", logging.format));
    }
    if i32::try_from(logging.verbosity).is_err() {
        let verbosity = logging.verbosity;
        wrong("verbosity", format!("Invalid value: {verbosity}: Must be <= 2147483647"));
    }
    if !logging.vmodule.is_empty() && !matches!(logging.format.as_str(), "" | "text") {
        wrong("vmodule", "Forbidden: Only supported for text log format".into());
    }
    for (index, rule) in logging.vmodule.iter().enumerate() {
        let pattern = &rule.file_pattern;
        if pattern.is_empty() {
            wrong(&format!("vmodule[{index}]"), "Required value: File pattern must not be empty".into());
        }
        if pattern.contains(['=', ',']) {
            let why = "File pattern must not contain equal sign or comma";
            wrong(&format!("vmodule[{index}]"), format!("Invalid value: {pattern:?}: {why}"));
        }
    }
    for format in ["text", "json"] {
        let options = &logging.options[format];
        for (field, used) in [
            ("splitStream", options["splitStream"] == true),
            ("infoBufferSize", options["infoBufferSize"].as_str().is_some_and(|size| size != "0")),
        ] {
            if used && !gates.enabled("LoggingAlphaOptions") {
                let why = "Forbidden: Feature LoggingAlphaOptions is disabled";
                wrong(&format!("options.{format}.{field}"), why.into());
            }
        }
    }
    match errors.as_slice() {
        [] => Ok(()),
        [one] => bail!("initialize logging: {one}"),
        many => bail!("initialize logging: [{}]", many.join(", ")),
    }
}

/// Nanoseconds of a duration or, as in old files, of a number.
fn flush(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| component::duration::parse_nanos(value.as_str()?))
}

/// The rules that follow.
pub fn rules(logging: &Logging, flags: &Flags) -> anyhow::Result<Rules> {
    let format = if logging.format == "json" { Format::Json } else { Format::Text };
    let name = if format == Format::Json { "json" } else { "text" };
    let flag = if format == Format::Json { "log-json-split-stream" } else { "log-text-split-stream" };
    Ok(Rules {
        format,
        split: logging.options[name]["splitStream"] == true || (flags.has(flag) && flags.bool(flag)),
        verbosity: logging.verbosity,
        vmodule: logging.vmodule.iter().map(|r| (r.file_pattern.clone(), r.verbosity)).collect(),
    })
}

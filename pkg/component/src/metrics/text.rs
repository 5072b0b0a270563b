//! OpenMetrics text to Prometheus' older text format, which is what upstream serves by default.

use std::collections::HashSet;

/// The difference is small: counters are declared by their full name, unknown is untyped, and there is no end mark.
/// Metrics of `disabled` are left out; counters of `bare` go without the `_total` that OpenMetrics gives them.
pub(super) fn to_prometheus(raw: &str, disabled: &HashSet<String>, bare: &HashSet<String>) -> String {
    let mut out = String::with_capacity(raw.len() + 256);
    let mut skip = false;
    let mut stripped: Option<&str> = None;
    let mut help: Option<(&str, &str)> = None;
    for line in raw.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        if let Some((name, text)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            help = Some((name, text));
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            let is_bare = kind == "counter" && bare.contains(name);
            stripped = is_bare.then_some(name);
            let suffix = if kind == "counter" && !is_bare { "_total" } else { "" };
            let kind = if kind == "unknown" { "untyped" } else { kind };
            skip = disabled.contains(&format!("{name}{suffix}"));
            if skip {
                continue;
            }
            if let Some((_, text)) = help.take() {
                out.push_str(&format!("# HELP {name}{suffix} {text}\n"));
            }
            out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !skip {
            match stripped.and_then(|name| Some((name, line.strip_prefix(name)?.strip_prefix("_total")?))) {
                Some((name, rest)) => {
                    out.push_str(name);
                    out.push_str(rest);
                }
                None => out.push_str(line),
            }
            out.push('\n');
        }
    }
    out
}

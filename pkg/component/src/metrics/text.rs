//! OpenMetrics text to Prometheus' older text format, which is what upstream serves by default.

use std::collections::HashSet;

/// The difference is small: counters are declared by their full name, unknown is untyped, and there is no end mark.
/// Metrics of `disabled` are left out; counters of `bare` go without the `_total` that OpenMetrics gives them.
/// Help of `open_ended` loses the stop that the encoder adds.
pub(super) fn to_prometheus(
    raw: &str,
    disabled: &HashSet<String>,
    bare: &HashSet<String>,
    open_ended: &HashSet<String>,
) -> String {
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
                let text = text.strip_suffix('.').filter(|_| open_ended.contains(name)).unwrap_or(text);
                out.push_str(&format!("# HELP {name}{suffix} {text}\n"));
            }
            out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !skip {
            match stripped.and_then(|name| Some((name, line.strip_prefix(name)?.strip_prefix("_total")?))) {
                Some((name, rest)) => {
                    out.push_str(name);
                    out.push_str(rest);
                }
                None => sample(&mut out, line),
            }
            out.push('\n');
        }
    }
    out
}

/// A sample with its numbers as upstream writes them: whole ones without a point, large ones with an exponent.
fn sample(out: &mut String, line: &str) {
    let line = line.strip_suffix(".0").unwrap_or(line);
    let bound = line.find("le=\"").and_then(|at| {
        let from = at + 4;
        let to = from + line[from..].find('"')?;
        Some((from, to, line[from..to].parse::<f64>().ok()?))
    });
    match bound {
        Some((from, to, bound)) if bound.is_finite() => {
            out.push_str(&line[..from]);
            out.push_str(&number(bound));
            out.push_str(&line[to..]);
        }
        _ => out.push_str(line),
    }
}

/// A bound of a bucket: from a million on with an exponent of two digits.
fn number(n: f64) -> String {
    if n.abs() < 1e6 {
        return format!("{n}");
    }
    let text = format!("{n:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if exponent.len() < 2 => format!("{digits}e+0{exponent}"),
        Some((digits, exponent)) => format!("{digits}e+{exponent}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_upstream_does() {
        for (raw, want) in [
            ("a 1.0", "a 1"),
            ("a 1.5", "a 1.5"),
            ("a_bucket{le=\"1.0\"} 3", "a_bucket{le=\"1\"} 3"),
            ("a_bucket{le=\"0.005\",x=\"y\"} 3", "a_bucket{le=\"0.005\",x=\"y\"} 3"),
            ("a_bucket{le=\"1050000.0\"} 3", "a_bucket{le=\"1.05e+06\"} 3"),
            ("a_bucket{le=\"1000000000.0\"} 3", "a_bucket{le=\"1e+09\"} 3"),
            ("a_bucket{le=\"+Inf\"} 3", "a_bucket{le=\"+Inf\"} 3"),
        ] {
            let mut out = String::new();
            sample(&mut out, raw);
            assert_eq!(out, want);
        }
    }
}

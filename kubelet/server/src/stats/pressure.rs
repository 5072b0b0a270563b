//! How long tasks of a cgroup had to wait for CPU, memory and disks, where the kernel tells (version 2).

use std::path::Path;

use serde_json::{Value, json};

const ROOT: &str = "/sys/fs/cgroup";

/// The pressure of one resource (`cpu`, `memory`, `io`); all zero where nothing is told.
pub fn read(cgroup: Option<&Path>, resource: &str) -> Value {
    let file = cgroup.map(|c| {
        let relative = c.strip_prefix("/").unwrap_or(c);
        Path::new(ROOT).join(relative).join(format!("{resource}.pressure"))
    });
    parse(&file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default())
}

fn parse(text: &str) -> Value {
    let of = |kind: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(kind)?.strip_prefix(' ')).unwrap_or_default();
        let value = |key: &str| line.split(' ').find_map(|w| w.strip_prefix(key)?.strip_prefix('='));
        let average = |key| value(key).and_then(|v| v.parse::<f64>().ok()).unwrap_or(0.0);
        // The kernel counts microseconds.
        let total = value("total").and_then(|v| v.parse::<u64>().ok()).unwrap_or(0) * 1000;
        json!({"total": total, "avg10": average("avg10"), "avg60": average("avg60"), "avg300": average("avg300")})
    };
    json!({"full": of("full"), "some": of("some")})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel() {
        let got = parse(
            "some avg10=1.50 avg60=0.00 avg300=0.00 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.25 total=3\n",
        );
        assert_eq!((got["some"]["avg10"].as_f64(), got["some"]["total"].as_u64()), (Some(1.5), Some(7000)));
        assert_eq!(got["full"]["avg300"], 0.25);
        assert_eq!(parse("")["full"]["total"], 0);
    }
}

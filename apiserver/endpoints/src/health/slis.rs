//! What became of health checks, as service level indicators: the last result of each and how many there were.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Results by the check's name and the endpoint that asked.
#[derive(Default)]
pub struct Slis {
    results: Mutex<BTreeMap<(String, &'static str), Results>>,
}

#[derive(Default)]
struct Results {
    last: bool,
    failed: u64,
    passed: u64,
}

impl Slis {
    pub fn observe(&self, endpoint: &'static str, name: &str, passed: bool) {
        let mut results = self.results.lock();
        let result = results.entry((name.to_owned(), endpoint)).or_default();
        result.last = passed;
        if passed {
            result.passed += 1;
        } else {
            result.failed += 1;
        }
    }

    /// In Prometheus' text format.
    pub fn render(&self) -> String {
        let results = self.results.lock();
        let mut out = String::new();
        if results.is_empty() {
            return out;
        }
        head(&mut out, "kubernetes_healthcheck", "gauge", "the result of a single healthcheck");
        for ((name, endpoint), r) in &*results {
            let _ = writeln!(
                out,
                "kubernetes_healthcheck{{name={name:?},type={endpoint:?}}} {}",
                u8::from(r.last)
            );
        }
        head(&mut out, "kubernetes_healthchecks_total", "counter", "the results of all healthcheck");
        for ((name, endpoint), r) in &*results {
            for (status, count) in [("error", r.failed), ("success", r.passed)] {
                if count > 0 {
                    let _ = writeln!(
                        out,
                        "kubernetes_healthchecks_total{{name={name:?},status={status:?},type={endpoint:?}}} {count}"
                    );
                }
            }
        }
        out
    }
}

fn head(out: &mut String, name: &str, kind: &str, what: &str) {
    let _ = writeln!(out, "# HELP {name} [STABLE] This metric records {what}.\n# TYPE {name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_result_and_all_of_them_are_told() {
        let slis = Slis::default();
        assert_eq!(slis.render(), "");
        for passed in [true, true, false] {
            slis.observe("livez", "etcd", passed);
        }
        slis.observe("readyz", "etcd", true);
        let text = slis.render();
        for line in [
            "# TYPE kubernetes_healthcheck gauge",
            "kubernetes_healthcheck{name=\"etcd\",type=\"livez\"} 0",
            "kubernetes_healthcheck{name=\"etcd\",type=\"readyz\"} 1",
            "kubernetes_healthchecks_total{name=\"etcd\",status=\"error\",type=\"livez\"} 1",
            "kubernetes_healthchecks_total{name=\"etcd\",status=\"success\",type=\"livez\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}

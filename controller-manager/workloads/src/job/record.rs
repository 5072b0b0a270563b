//! How long a job waits before it replaces a failed pod.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::view::{FAILURES, IGNORED, failure_count, finish_time};

const FIRST: u64 = 10;
const LAST: u64 = 600;

/// Failures in a row since the last success.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Record {
    failures: u32,
    last: Option<jiff::Timestamp>,
}

impl Record {
    /// The record after these pods ended.
    pub fn with(self, succeeded: &[Arc<Pod>], failed: &[Arc<Pod>]) -> Record {
        let last_success = succeeded.iter().map(|p| finish_time(p)).max();
        let mut record = if last_success.is_some() { Record::default() } else { self };
        for time in failed.iter().map(|p| finish_time(p)) {
            if last_success.is_none_or(|success| time >= success) {
                record.failures += 1;
                record.last = record.last.max(Some(time));
            }
        }
        record
    }

    /// How long to wait still.
    pub fn remaining(self, now: jiff::Timestamp) -> Option<Duration> {
        remaining(self.failures, self.last?, now)
    }
}

/// How long the index of a failed pod waits still.
pub(super) fn of_index(pod: &Pod, now: jiff::Timestamp) -> Option<Duration> {
    let failures = failure_count(pod, FAILURES) + failure_count(pod, IGNORED) + 1;
    remaining(u32::try_from(failures).unwrap_or(1), finish_time(pod), now)
}

fn remaining(failures: u32, last: jiff::Timestamp, now: jiff::Timestamp) -> Option<Duration> {
    if failures == 0 {
        return None;
    }
    let delay = FIRST.saturating_mul(1 << (failures - 1).min(16)).min(LAST);
    let passed = u64::try_from(now.duration_since(last).as_secs()).unwrap_or(0);
    (passed < delay).then(|| Duration::from_secs(delay - passed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn delays_double_until_a_success() {
        let pod = |at: &str| {
            Arc::new(serde_json::from_value::<Pod>(json!({"metadata": {"creationTimestamp": at}})).unwrap())
        };
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let one = Record::default().with(&[], &[pod("2026-01-01T00:00:00Z")]);
        assert_eq!(one.remaining(now), Some(Duration::from_secs(10)));
        let two = one.with(&[], &[pod("2025-12-31T23:59:55Z")]);
        assert_eq!(two.remaining(now), Some(Duration::from_secs(20)));
        assert_eq!(two.with(&[pod("2026-01-01T00:00:00Z")], &[]).remaining(now), None);
    }
}

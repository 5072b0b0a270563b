//! EventRateLimit: events are a courtesy; nobody floods the store with them.

use crate::attributes::{Attributes, Operation};
use crate::chain::Plugin;
use crate::objects::{aggregate, at, items, text};
use anyhow::bail;
use api::Value;
use api::status::{Result, Status};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Instant;

const DEFAULT_CACHE_SIZE: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Sort {
    Server,
    Namespace,
    User,
    SourceAndObject,
}

/// What is left of a burst, and when it was counted.
struct Bucket {
    tokens: f64,
    counted: Instant,
}

struct Limit {
    sort: Sort,
    qps: f64,
    burst: f64,
    size: usize,
    buckets: Mutex<HashMap<String, Bucket>>,
}

impl Limit {
    fn read(v: &Value) -> anyhow::Result<Self> {
        let sort = match text(v, &["type"]) {
            "Server" => Sort::Server,
            "Namespace" => Sort::Namespace,
            "User" => Sort::User,
            "SourceAndObject" => Sort::SourceAndObject,
            other => bail!("unknown event rate limit type: {other}"),
        };
        let number = |key: &str| at(v, &[key]).as_u64().filter(|n| *n > 0 && *n <= i32::MAX as u64);
        let (Some(qps), Some(burst)) = (number("qps"), number("burst")) else {
            bail!("qps and burst of an event rate limit must be positive");
        };
        let size = number("cacheSize").and_then(|n| usize::try_from(n).ok()).unwrap_or(DEFAULT_CACHE_SIZE);
        Ok(Limit { sort, qps: qps as f64, burst: burst as f64, size, buckets: Mutex::default() })
    }

    fn key(&self, a: &Attributes) -> String {
        match self.sort {
            Sort::Server => String::new(),
            Sort::Namespace => a.namespace.clone(),
            Sort::User => a.user.name.clone(),
            Sort::SourceAndObject => a.object.as_ref().map(source_and_object).unwrap_or_default(),
        }
    }

    fn accept(&self, key: &str, now: Instant) -> bool {
        let mut buckets = self.buckets.lock();
        if buckets.len() >= self.size && !buckets.contains_key(key) {
            // A full bucket is as good as none; if none is full, all start anew.
            let refilled = |b: &Bucket| b.tokens + (now - b.counted).as_secs_f64() * self.qps >= self.burst;
            buckets.retain(|_, b| !refilled(b));
            if buckets.len() >= self.size {
                buckets.clear();
            }
        }
        let bucket = buckets.entry(key.to_owned()).or_insert(Bucket { tokens: self.burst, counted: now });
        let gained = (now - bucket.counted).as_secs_f64() * self.qps;
        bucket.tokens = (bucket.tokens + gained).min(self.burst);
        bucket.counted = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

fn source_and_object(event: &Value) -> String {
    let object = |field: &str| text(event, &["involvedObject", field]);
    [
        text(event, &["source", "component"]),
        text(event, &["source", "host"]),
        object("kind"),
        object("namespace"),
        object("name"),
        object("uid"),
        object("apiVersion"),
    ]
    .concat()
}

pub struct EventRateLimit {
    limits: Vec<Limit>,
}

impl EventRateLimit {
    /// `config` is an eventratelimit.admission.k8s.io Configuration.
    pub fn new(config: Option<&Value>) -> anyhow::Result<Self> {
        let limits = config.map_or(&[][..], |c| items(c, &["limits"]));
        if limits.is_empty() {
            bail!("limits: Required value");
        }
        Ok(EventRateLimit { limits: limits.iter().map(Limit::read).collect::<anyhow::Result<_>>()? })
    }
}

#[async_trait::async_trait]
impl Plugin for EventRateLimit {
    fn name(&self) -> &'static str {
        "EventRateLimit"
    }
    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }
    async fn validate(&self, a: &mut Attributes) -> Result<()> {
        if a.kind.kind != "Event" || a.dry_run {
            return Ok(());
        }
        let now = Instant::now();
        let refused = |limit: &Limit| {
            let key = limit.key(a);
            (!limit.accept(&key, now))
                .then(|| format!("limit reached on type {:?} for key {key}", limit.sort))
        };
        match aggregate(self.limits.iter().filter_map(refused).collect()) {
            None => Ok(()),
            Some(why) => Err(Status::too_many_requests(why, 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::create;
    use api::json;

    #[tokio::test]
    async fn each_namespace_has_its_own_burst() {
        let config = json!({"limits": [{"type": "Namespace", "qps": 1, "burst": 2}]});
        let plugin = EventRateLimit::new(Some(&config)).unwrap();
        let ask = async |namespace: &str| {
            let mut a = create(("", "events"), "Event", json!({"metadata": {"name": "e"}}));
            a.namespace = namespace.into();
            plugin.validate(&mut a).await
        };
        assert_eq!((ask("a").await, ask("a").await), (Ok(()), Ok(())));
        let error = ask("a").await.unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (429, "limit reached on type Namespace for key a"));
        assert_eq!(ask("b").await, Ok(()));
        assert!(EventRateLimit::new(None).is_err());
    }
}

//! Audit records to another server, as lists: requests never wait for it. Records that it cannot take in time are
//! dropped and counted.

use anyhow::{Context, bail};
use api::{Value, json};
use auth::webhook::Backend;
use component::Flags;
use parking_lot::Mutex;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Time for one list with all its attempts.
const LIMIT: Duration = Duration::from_secs(120);
/// Time that the last lists have when the server ends.
const LAST: Duration = Duration::from_secs(4);

/// The sending end.
pub struct Webhook {
    records: mpsc::Sender<Value>,
    posting: Mutex<Option<Posting>>,
}

/// The other end, until it runs.
struct Posting {
    records: mpsc::Receiver<Value>,
    backend: Backend,
    batch: Batch,
}

/// `--audit-webhook-batch-*`
#[derive(Clone, Copy, Debug)]
struct Batch {
    most: usize,
    wait: Duration,
    /// Least time between two lists, and how many may go at once after a pause.
    throttle: Option<(Duration, f64)>,
}

impl Webhook {
    /// The backend of the `--audit-webhook-*` flags; `None` if no file is given.
    pub fn from_flags(flags: &Flags) -> anyhow::Result<Option<Webhook>> {
        let Some(file) = flags.opt("audit-webhook-config-file") else { return Ok(None) };
        match flags.str("audit-webhook-mode") {
            "batch" => {}
            mode @ ("blocking" | "blocking-strict") => {
                bail!("audit webhook mode {mode} is not supported by this server, use \"batch\"")
            }
            other => bail!(
                "invalid audit webhook mode {other}, allowed modes are \"batch,blocking,blocking-strict\""
            ),
        }
        let pause = flags.duration("audit-webhook-initial-backoff");
        let backend = Backend::open(Path::new(file)).context("initializing audit webhook")?.pausing(pause);
        let number = |name: &str| -> anyhow::Result<usize> {
            let n = usize::try_from(flags.int(name)).ok().filter(|n| *n > 0);
            n.with_context(|| format!("invalid audit batch webhook --{name}, must be a positive number"))
        };
        let rate: f64 = flags.str("audit-webhook-batch-throttle-qps").parse().unwrap_or(10.0);
        let throttled = flags.bool("audit-webhook-batch-throttle-enable") && rate > 0.0;
        let batch = Batch {
            most: number("audit-webhook-batch-max-size")?,
            wait: flags.duration("audit-webhook-batch-max-wait"),
            throttle: match throttled {
                false => None,
                true => {
                    let burst = number("audit-webhook-batch-throttle-burst")? as f64;
                    Some((Duration::from_secs_f64(1.0 / rate), burst))
                }
            },
        };
        let waiting = number("audit-webhook-batch-buffer-size")?;
        Ok(Some(Webhook::new(backend, batch, waiting)))
    }

    fn new(backend: Backend, batch: Batch, waiting: usize) -> Webhook {
        let (sender, records) = mpsc::channel(waiting);
        Webhook { records: sender, posting: Mutex::new(Some(Posting { records, backend, batch })) }
    }

    /// Posts from now on; what is left when the server ends gets a little time.
    pub fn start(&self, tasks: &TaskTracker, stopping: CancellationToken) {
        if let Some(posting) = self.posting.lock().take() {
            tasks.spawn(posting.run(stopping));
        }
    }

    /// Takes a record, or drops it if too many wait.
    pub fn write(&self, record: Value) {
        if self.records.try_send(record).is_err() {
            tracing::error!("audit webhook queue blocked: a record is lost");
        }
    }
}

impl Posting {
    async fn run(mut self, stopping: CancellationToken) {
        let mut bucket = self.batch.throttle.map(|(every, burst)| Bucket::new(every, burst));
        let mut ended = false;
        while !ended {
            let mut list = Vec::new();
            tokio::select! {
                () = self.gather(&mut list) => ended = list.is_empty(),
                () = stopping.cancelled() => ended = true,
            }
            if ended {
                self.records.close();
                while let Some(record) = self.records.recv().await {
                    list.push(record);
                }
            } else if let Some(bucket) = &mut bucket {
                tokio::select! {
                    () = bucket.take() => {}
                    () = stopping.cancelled() => {}
                }
            }
            let limit = if ended { LAST } else { LIMIT };
            for part in list.chunks(self.batch.most) {
                self.post(part, limit).await;
            }
        }
    }

    /// Waits for a record, then for as many as make a list, but not for long. Records are in the list as soon as they
    /// are taken, so that giving this up loses none.
    async fn gather(&mut self, list: &mut Vec<Value>) {
        list.extend(self.records.recv().await);
        let end = Instant::now() + self.batch.wait;
        while !list.is_empty() && list.len() < self.batch.most {
            match tokio::time::timeout_at(end, self.records.recv()).await {
                Ok(Some(record)) => list.push(record),
                Ok(None) | Err(_) => return,
            }
        }
    }

    async fn post(&self, records: &[Value], limit: Duration) {
        let list = json!({
            "kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": records,
        });
        if let Err(error) = self.backend.send(&list, limit).await {
            tracing::error!(error, lost = records.len(), "Unable to send audit records to the webhook");
        }
    }
}

/// A bucket of tokens that fills at a steady rate.
struct Bucket {
    every: Duration,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn new(every: Duration, burst: f64) -> Bucket {
        Bucket { every, burst, tokens: burst, at: Instant::now() }
    }

    async fn take(&mut self) {
        let now = Instant::now();
        let filled = now.duration_since(self.at).as_secs_f64() / self.every.as_secs_f64();
        self.tokens = (self.tokens + filled).min(self.burst) - 1.0;
        self.at = now;
        if self.tokens < 0.0 {
            tokio::time::sleep(self.every.mul_f64(-self.tokens)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers every post with 200 and keeps the bodies.
    async fn server() -> (Backend, Arc<Mutex<Vec<Value>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::fs::write(file.path(), format!("clusters: [{{name: a, cluster: {{server: '{url}'}}}}]"))
            .unwrap();
        let backend = Backend::open(file.path()).unwrap();
        let told = Arc::<Mutex<Vec<Value>>>::default();
        let keep = told.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut read, mut piece) = (Vec::new(), [0; 4096]);
                loop {
                    let n = stream.read(&mut piece).await.unwrap_or(0);
                    read.extend_from_slice(&piece[..n]);
                    let text = String::from_utf8_lossy(&read).into_owned();
                    let body = text.split_once("\r\n\r\n").and_then(|(_, b)| serde_json::from_str(b).ok());
                    if let Some(body) = body {
                        keep.lock().push(body);
                        break;
                    }
                    if n == 0 {
                        break;
                    }
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(answer).await;
            }
        });
        (backend, told)
    }

    #[tokio::test]
    async fn records_go_in_lists_and_none_is_lost_at_the_end() {
        let (backend, told) = server().await;
        let batch = Batch { most: 2, wait: Duration::from_secs(3600), throttle: None };
        let webhook = Webhook::new(backend, batch, 100);
        for i in 0..5 {
            webhook.write(json!({"n": i}));
        }
        let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
        webhook.start(&tasks, stopping.clone());
        // Two full lists; the fifth waits for a sixth until the server ends.
        let both = async {
            while told.lock().len() < 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
        stopping.cancel();
        tasks.close();
        tokio::time::timeout(Duration::from_secs(20), tasks.wait()).await.unwrap();
        let told = told.lock();
        let lists: Vec<usize> = told.iter().map(|l| l["items"].as_array().unwrap().len()).collect();
        assert_eq!(lists, [2, 2, 1]);
        assert_eq!((&told[2]["kind"], &told[2]["items"][0]["n"]), (&json!("EventList"), &json!(4)));
    }

    #[tokio::test]
    async fn lists_are_throttled() {
        let every = Duration::from_millis(5);
        let mut bucket = Bucket::new(every, 2.0);
        let begun = Instant::now();
        for _ in 0..5 {
            bucket.take().await;
        }
        // Two at once, the other three one after the other.
        assert!(begun.elapsed() >= every * 3, "{:?}", begun.elapsed());
    }
}

//! Static pods from a URL, asked for again and again.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Source;
use super::manifest::{self, Origin};
use crate::pods::Update;
use crate::web::{self, Target};

/// More than this is no list of pods for one node.
const MAX_BYTES: usize = 10 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where to ask and how.
pub struct Url {
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub node: String,
    pub interval: Duration,
}

/// Asks until the shutdown. An answer that is none, or cannot be read, leaves the pods as they are.
pub async fn run(url: Url, updates: mpsc::Sender<Update>, shutdown: CancellationToken) {
    let mut last: Option<String> = None;
    let mut failures = 0u32;
    loop {
        match ask(&url, &mut last).await {
            Ok(pods) => {
                failures = 0;
                if let Some(pods) = pods
                    && updates.send(Update::Static(Source::Http, pods)).await.is_err()
                {
                    return;
                }
            }
            Err(error) => {
                failures += 1;
                // Once a minute for ever helps nobody.
                if failures <= 3 {
                    tracing::warn!(url = url.url, error, "Failed to read pods from URL");
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(url.interval) => {}
        }
    }
}

/// The pods, if the answer is another than the last.
async fn ask(url: &Url, last: &mut Option<String>) -> Result<Option<Vec<Pod>>, String> {
    let target = Target::of_url(&url.url, url.headers.clone())?;
    let answer = web::get_up_to(&target, TIMEOUT, "kubelet", MAX_BYTES).await?;
    if answer.status != 200 {
        return Err(format!("{}: {}", url.url, answer.status));
    }
    if answer.body.is_empty() {
        // An empty answer says as much as that there are none.
        return match last.replace(String::new()) {
            Some(old) if old.is_empty() => Err(format!("zero-length data received from {}", url.url)),
            _ => Ok(Some(Vec::new())),
        };
    }
    if last.as_ref() == Some(&answer.body) {
        return Ok(None);
    }
    let origin = Origin { source: Source::Http, place: &url.url, node: &url.node };
    let pods = manifest::parse_all(&answer.body, origin)?;
    *last = Some(answer.body);
    Ok(Some(pods))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers each connection with the next of `answers`, the last again and again.
    async fn serve(answers: Vec<(u16, &'static str)>) -> (String, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/pods", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            for turn in 0.. {
                let Ok((mut stream, _)) = listener.accept().await else { return };
                let mut request = vec![0; 4096];
                let n = stream.read(&mut request).await.unwrap_or(0);
                assert!(String::from_utf8_lossy(&request[..n]).contains("x-token: secret"));
                let (status, body) = answers[answers.len().min(turn + 1) - 1];
                let text = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(text.as_bytes()).await;
            }
        });
        (url, task)
    }

    #[tokio::test]
    async fn bad_answers_change_nothing() {
        const POD: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}"#;
        let (url, task) = serve(vec![(500, ""), (200, "{"), (200, POD), (200, POD), (200, "")]).await;
        let headers = vec![("X-Token".to_string(), "secret".to_string())];
        let url = Url { url, headers, node: "n".into(), interval: Duration::ZERO };
        let mut last = None;
        assert!(ask(&url, &mut last).await.is_err());
        assert!(ask(&url, &mut last).await.is_err());
        assert_eq!(ask(&url, &mut last).await.unwrap().unwrap().len(), 1);
        assert!(ask(&url, &mut last).await.unwrap().is_none());
        assert!(ask(&url, &mut last).await.unwrap().unwrap().is_empty());
        assert!(ask(&url, &mut last).await.is_err());
        task.abort();
    }
}

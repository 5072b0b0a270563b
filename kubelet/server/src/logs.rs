//! `/containerLogs`: what a container has written, from the files that the runtime keeps.

mod options;
mod read;

use crate::query::Query;
use crate::routes::{Shared, bare_id, container_statuses};
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::StatusCode;
use http::header::{CONTENT_TYPE, TRANSFER_ENCODING};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use options::{Options, Wrong};
use std::path::PathBuf;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

type Failure = (StatusCode, String);

/// Pieces that may wait for a slow client; the reader waits then.
const WAITING: usize = 8;

pub async fn container(
    State(s): State<Shared>,
    Path((namespace, pod, name)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    match open(&s, &namespace, &pod, &name, query.as_deref()).await {
        Ok((log, options)) => stream(&s, log, options),
        Err(failure) => failure.into_response(),
    }
}

/// A container's log and how to learn that nothing more will come.
struct Log {
    path: PathBuf,
    container_id: String,
}

async fn open(
    s: &Shared,
    ns: &str,
    pod: &str,
    name: &str,
    query: Option<&str>,
) -> Result<(Log, Options), Failure> {
    let bad = |text: String| (StatusCode::BAD_REQUEST, text);
    let options = Options::parse(&Query::parse(query)).map_err(|wrong| {
        tracing::debug!(?wrong, pod, "Options of a log that cannot be");
        match wrong {
            Wrong::Form(_) => bad(r#"{"message": "Unable to decode query."}"#.into()),
            Wrong::Sense(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, r#"{"message": "Invalid request."}"#.to_owned())
            }
        }
    })?;
    let found =
        s.host.pod(ns, pod, None).ok_or((StatusCode::NOT_FOUND, format!("pod {pod:?} does not exist")))?;
    if !has_container(&found, name) {
        let text = format!("container {name:?} not found in pod {pod:?}");
        return Err((StatusCode::NOT_FOUND, text));
    }
    let status = container_statuses(&found).find(|c| c.name == name);
    let id = container_id(pod, name, status, options.previous).map_err(bad)?;
    let status = s.host.runtime().container_status(&id, false).await;
    let gone = |e: &dyn std::fmt::Display| bad(format!("unable to retrieve container logs for {id}: {e}"));
    let status = status.map_err(|e| gone(&e))?.status.ok_or_else(|| gone(&"no status"))?;
    let path = PathBuf::from(status.log_path);
    let root = s.host.pod_logs_dir();
    // The runtime is trusted with the name, not with a way out of the folder of logs.
    let real = path.parent().and_then(|p| p.canonicalize().ok()).zip(root.canonicalize().ok());
    if !real.is_some_and(|(parent, root)| parent.starts_with(root)) {
        return Err((
            StatusCode::INTERNAL_SERVER_ERROR,
            "the log lies outside the folder of pod logs".to_owned(),
        ));
    }
    Ok((Log { path, container_id: id }, options))
}

fn has_container(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    spec.containers.iter().any(|c| c.name == name)
        || spec.init_containers.iter().flatten().any(|c| c.name == name)
        || spec.ephemeral_containers.iter().flatten().any(|c| c.name == name)
}

/// Which of the container's runs is meant, or why there is none.
fn container_id(
    pod: &str,
    name: &str,
    status: Option<&ContainerStatus>,
    previous: bool,
) -> Result<String, String> {
    let Some(status) = status else {
        return Err(format!("container {name:?} in pod {pod:?} is not available"));
    };
    let terminated_id = |s: &Option<k8s_openapi::api::core::v1::ContainerState>| {
        s.as_ref()
            .and_then(|s| s.terminated.as_ref())
            .and_then(|t| t.container_id.as_deref())
            .and_then(bare_id)
    };
    if previous {
        return terminated_id(&status.last_state)
            .ok_or_else(|| format!("previous terminated container {name:?} in pod {pod:?} not found"));
    }
    let state = status.state.as_ref();
    if state.is_some_and(|s| s.running.is_some())
        && let Some(id) = status.container_id.as_deref().and_then(bare_id)
    {
        return Ok(id);
    }
    let last = terminated_id(&status.state).or_else(|| terminated_id(&status.last_state));
    let waiting = state.and_then(|s| s.waiting.as_ref()).and_then(|w| w.reason.as_deref());
    match (last, waiting) {
        (Some(id), _) => Ok(id),
        (None, Some("ErrImagePull")) => {
            Err(format!("container {name:?} in pod {pod:?} is waiting to start: image can't be pulled"))
        }
        (None, Some("ImagePullBackOff")) => Err(format!(
            "container {name:?} in pod {pod:?} is waiting to start: trying and failing to pull image"
        )),
        (None, Some(reason)) => {
            Err(format!("container {name:?} in pod {pod:?} is waiting to start: {reason}"))
        }
        (None, None) => Err(format!("container {name:?} in pod {pod:?} is terminated")),
    }
}

fn stream(s: &Shared, log: Log, options: Options) -> Response {
    let (sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(WAITING);
    let host = s.host.clone();
    s.tasks.spawn(async move {
        let running = || -> BoxFuture<'static, bool> {
            let (host, id) = (host.clone(), log.container_id.clone());
            Box::pin(async move {
                let status = host.runtime().container_status(&id, false).await;
                let state = status.ok().and_then(|r| r.status).map(|s| s.state);
                state == Some(cri::v1::ContainerState::ContainerRunning as i32)
            })
        };
        tokio::select! {
            result = read::copy(&log.path, &options, running, &sender) => if let Err(e) = result {
                tracing::error!(path = %log.path.display(), "reading a log: {e}");
                // A client that has gone does not need to know.
                let _ = sender.send(Err(e)).await;
            },
            () = sender.closed() => {}
        }
    });
    let mut response = Response::new(Body::from_stream(ReceiverStream::new(receiver)));
    // The apiserver says what it is; without its help a client has to know.
    response.headers_mut().remove(CONTENT_TYPE);
    response.headers_mut().remove(TRANSFER_ENCODING);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn id(status: Value, previous: bool) -> Result<String, String> {
        let mut status = status;
        for (key, value) in [("name", json!("c")), ("image", json!("")), ("imageID", json!(""))] {
            status[key] = value;
        }
        for (key, value) in [("ready", json!(false)), ("restartCount", json!(0))] {
            status[key] = value;
        }
        let status: ContainerStatus = serde_json::from_value(status).expect("a status");
        container_id("p", "c", Some(&status), previous)
    }

    #[test]
    fn the_run_is_chosen_by_the_state() {
        let running = json!({"state": {"running": {}}, "containerID": "containerd://b",
            "lastState": {"terminated": {"exitCode": 1, "containerID": "containerd://a"}}});
        assert_eq!(id(running.clone(), false), Ok("b".into()));
        assert_eq!(id(running, true), Ok("a".into()));
        let crashed = json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1, "containerID": "containerd://a"}}});
        assert_eq!(id(crashed, false), Ok("a".into()));
        let creating = json!({"state": {"waiting": {"reason": "ContainerCreating"}}});
        let text = "container \"c\" in pod \"p\" is waiting to start: ContainerCreating";
        assert_eq!(id(creating.clone(), false), Err(text.into()));
        assert_eq!(
            id(creating, true),
            Err("previous terminated container \"c\" in pod \"p\" not found".into())
        );
    }
}

//! Which path leads where.

use crate::authz::{self, Guard};
use crate::stats::{self, summary};
use crate::{Host, cadvisor, exec, logs, metrics, node_logs, shape};
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post, put};
use axum::{Json, Router, middleware};
use component::delegated::Auth;
use http::StatusCode;
use http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use std::sync::Arc;
use tokio_util::task::TaskTracker;

/// What the server is made with.
pub struct Options {
    /// Asks the apiserver who is calling and what they may do; without it only a trusted network may reach the server.
    pub auth: Option<Arc<Auth>>,
    /// Serve exec, attach, port-forward, run, container logs and what else is for looking into the node.
    pub debugging_handlers: bool,
    /// Serve `/debug/flags/v`.
    pub flags_handler: bool,
    /// Serve `/debug/pprof`.
    pub profiling_handler: bool,
    /// Serve `/logs`.
    pub system_log_handler: bool,
    /// Serve `/checkpoint`.
    pub checkpoint: bool,
    /// `/statusz` and `/flagz`, as far as they are served.
    pub zpages: Router,
    /// Answer queries for the logs of the node's services.
    pub system_log_query: bool,
    /// Owns the streams under way, so that the kubelet can wait for them at its end.
    pub tasks: TaskTracker,
}

/// What handlers share.
#[derive(Clone)]
pub struct Shared {
    pub host: Arc<dyn Host>,
    pub tasks: TaskTracker,
    pub volumes: Arc<stats::Known>,
}

/// What anybody may read on a network that is trusted: no secrets, no way to change anything.
pub fn read_only(host: Arc<dyn Host>) -> Router {
    let shared = Shared { host, tasks: TaskTracker::new(), volumes: Arc::default() };
    let counted = |request, next| crate::requests::count("readonly", request, next);
    let router = public().with_state(shared).layer(middleware::from_fn(shape::inner));
    router.layer(middleware::from_fn(shape::outer)).layer(middleware::from_fn(counted))
}

fn public() -> Router<Shared> {
    Router::new()
        .route("/healthz", any(healthz))
        .route("/healthz/{check}", any(healthz))
        .route("/pods", get(pods))
        .route("/pods/", get(pods))
        .route("/stats/summary", get(summary::serve).post(summary::serve))
        .route("/stats/summary/", get(summary::serve).post(summary::serve))
        .route("/metrics", any(metrics::own))
        .route("/metrics/cadvisor", any(cadvisor::serve))
        .route("/metrics/resource", any(metrics::resource))
        .route("/metrics/probes", any(metrics::probes))
        .route("/metrics/slis", any(metrics::slis))
}

/// The kubelet's API.
pub fn router(host: Arc<dyn Host>, options: Options) -> Router {
    let node_name: Arc<str> = host.node_name().into();
    let shared = Shared { host, tasks: options.tasks.clone(), volumes: Arc::default() };
    let mut router = public();
    if options.debugging_handlers {
        router = debugging(router, &options);
    } else {
        let refused = || any(async || refusal("Debug endpoints are disabled."));
        for path in
            ["run", "exec", "attach", "portForward", "containerLogs", "runningpods", "debug/pprof", "logs"]
        {
            router =
                router.route(&format!("/{path}/"), refused()).route(&format!("/{path}/{{*rest}}"), refused());
        }
    }
    let router = router.with_state(shared);
    let router = if options.debugging_handlers { router.merge(options.zpages) } else { router };
    let router = router.layer(middleware::from_fn(shape::inner));
    let router = match options.auth {
        Some(auth) => router.layer(middleware::from_fn_with_state(Guard { auth, node_name }, authz::guard)),
        None => router,
    };
    let router = router.layer(middleware::from_fn(shape::outer));
    let counted = |request, next| crate::requests::count("readwrite", request, next);
    router.layer(middleware::from_fn(counted))
}

fn refusal(why: &'static str) -> Response {
    (StatusCode::METHOD_NOT_ALLOWED, format!("{why}\n")).into_response()
}

/// What is for looking into the node and its pods.
fn debugging(router: Router<Shared>, options: &Options) -> Router<Shared> {
    let mut router = router.route("/configz", any(configz));
    if options.checkpoint {
        router = router.route("/checkpoint/{namespace}/{pod}/{container}", post(checkpoint));
    }
    router = router
        .route("/runningpods/", get(running_pods))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs::container))
        .route("/exec/{namespace}/{pod}/{container}", any(exec::exec))
        .route("/exec/{namespace}/{pod}/{uid}/{container}", any(exec::exec))
        .route("/attach/{namespace}/{pod}/{container}", any(exec::attach))
        .route("/attach/{namespace}/{pod}/{uid}/{container}", any(exec::attach))
        .route("/portForward/{namespace}/{pod}", any(exec::port_forward))
        .route("/portForward/{namespace}/{pod}/{uid}", any(exec::port_forward))
        .route("/run/{namespace}/{pod}/{container}", post(exec::run))
        .route("/run/{namespace}/{pod}/{uid}/{container}", post(exec::run));
    router = match options.system_log_handler {
        true => {
            let query = options.system_log_query;
            let root = move |raw: RawQuery| node_logs::root(raw, query);
            router.route("/logs/", get(root)).route("/logs/{*path}", get(node_logs::file))
        }
        false => router.route("/logs/", any(async || refusal("logs endpoint is disabled."))),
    };
    router = match options.flags_handler {
        true => router.route("/debug/flags/v", put(component::serve::set_verbosity).fallback(only_put)),
        false => router.route("/debug/flags/v", any(async || refusal("flags endpoint is disabled."))),
    };
    match options.profiling_handler {
        true => router.route("/debug/pprof/{*profile}", get(profile)),
        false => {
            let refused = || any(async || refusal("profiling endpoint is disabled."));
            router.route("/debug/pprof/", refused()).route("/debug/pprof/{*profile}", refused())
        }
    }
}

async fn only_put() -> Response {
    let headers = [(CONTENT_TYPE, "text/plain"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (StatusCode::NOT_ACCEPTABLE, headers, "unsupported http method\n").into_response()
}

/// What can be told of this process without a Go runtime: its command line, and that it has no symbols to look up.
async fn profile(Path(name): Path<String>) -> Response {
    let headers = [(CONTENT_TYPE, "text/plain; charset=utf-8"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    match name.as_str() {
        "cmdline" => {
            let words: Vec<String> = std::env::args().collect();
            (headers, words.join("\0")).into_response()
        }
        "symbol" => (headers, "num_symbols: 0\n").into_response(),
        _ => (StatusCode::NOT_FOUND, headers, "Unknown profile\n").into_response(),
    }
}

async fn healthz(State(s): State<Shared>, check: Option<Path<String>>) -> Response {
    let failing = s.host.health();
    metrics::check(&failing);
    let relevant: Vec<_> = match &check {
        None => failing,
        Some(Path(name)) if matches!(name.as_str(), "ping" | "log" | "syncloop") => {
            failing.into_iter().filter(|(n, _)| *n == name.as_str()).collect()
        }
        Some(_) => return (StatusCode::NOT_FOUND, "404 page not found\n").into_response(),
    };
    if relevant.is_empty() {
        return (StatusCode::OK, "ok").into_response();
    }
    let mut text = String::new();
    for (name, why) in relevant {
        tracing::warn!(check = name, why, "Health check failed");
        text += &format!("[-]{name} failed: reason withheld\n");
    }
    (StatusCode::INTERNAL_SERVER_ERROR, text + "healthz check failed\n").into_response()
}

fn pod_list(pods: impl Iterator<Item = serde_json::Value>) -> Response {
    let items: Vec<_> = pods.collect();
    Json(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})).into_response()
}

async fn pods(State(s): State<Shared>) -> Response {
    pod_list(s.host.pods().iter().filter_map(|p| serde_json::to_value(&**p).ok()).map(without_type))
}

/// Items of a typed list do not repeat their type.
fn without_type(mut pod: serde_json::Value) -> serde_json::Value {
    if let Some(map) = pod.as_object_mut() {
        map.remove("kind");
        map.remove("apiVersion");
    }
    pod
}

/// What the runtime runs, with no more than the runtime knows.
async fn running_pods(State(s): State<Shared>) -> Response {
    let containers = match s.host.runtime().list_containers(None).await {
        Ok(list) => list,
        Err(e) => return (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    };
    let mut by_pod: std::collections::BTreeMap<(String, String, String), Vec<serde_json::Value>> =
        Default::default();
    for c in containers.iter().filter(|c| c.state == cri::v1::ContainerState::ContainerRunning as i32) {
        let label = |key: &str| c.labels.get(key).cloned().unwrap_or_default();
        let key = (
            label("io.kubernetes.pod.namespace"),
            label("io.kubernetes.pod.name"),
            label("io.kubernetes.pod.uid"),
        );
        let container = json!({
            "name": label("io.kubernetes.container.name"), "image": c.image.as_ref().map(|i| &i.image), "resources": {},
        });
        by_pod.entry(key).or_default().push(container);
    }
    pod_list(by_pod.into_iter().map(|((namespace, name, uid), containers)| {
        json!({"metadata": {"name": name, "namespace": namespace, "uid": uid}, "spec": {"containers": containers},
            "status": {}})
    }))
}

async fn configz(State(s): State<Shared>) -> Response {
    Json(json!({"kubeletconfig": s.host.config()})).into_response()
}

async fn checkpoint(
    State(s): State<Shared>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    let Some(found) = s.host.pod(&namespace, &pod, None) else {
        return (StatusCode::NOT_FOUND, "pod does not exist").into_response();
    };
    if !has_container(&found, &container) {
        let text = format!("container {container} does not exist");
        return (StatusCode::NOT_FOUND, text).into_response();
    }
    // Zero leaves it to the runtime.
    let query = crate::query::Query::parse(query.as_deref());
    let Ok(timeout) = query.number::<u64>("timeout") else {
        return (StatusCode::NOT_FOUND, "cannot parse value of timeout parameter").into_response();
    };
    let timeout = std::time::Duration::from_secs(timeout.unwrap_or(0));
    match write_checkpoint(&s, &found, &container, timeout).await {
        Ok(location) => Json(json!({"items": [location]})).into_response(),
        Err(error) => {
            let text = format!("checkpointing of {namespace}/{pod}/{container} failed ({error})");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

/// Writes a checkpoint of a container below the kubelet's folder; returns where it is.
async fn write_checkpoint(
    s: &Shared,
    pod: &Pod,
    container: &str,
    timeout: std::time::Duration,
) -> Result<String, String> {
    let id = running_container(pod, container).ok_or_else(|| format!("container {container} not found"))?;
    let dir = s.host.root_dir().join("checkpoints");
    std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
    let of = |name: &Option<String>| name.clone().unwrap_or_default();
    let (name, namespace) = (of(&pod.metadata.name), of(&pod.metadata.namespace));
    let now = api::time::now();
    let file = dir.join(format!("checkpoint-{name}_{namespace}-{container}-{now}.tar"));
    let location = file.to_string_lossy().into_owned();
    let done = s.host.runtime().checkpoint_container(&id, &location, timeout).await;
    done.map(|()| location).map_err(|e| e.to_string())
}

/// Whether the pod has a container of any kind by this name.
fn has_container(pod: &Pod, name: &str) -> bool {
    pod.spec.as_ref().is_some_and(|spec| {
        let plain = spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|c| &c.name);
        plain.chain(spec.ephemeral_containers.iter().flatten().map(|c| &c.name)).any(|n| n == name)
    })
}

/// The runtime's id of a container that runs, by the pod's status.
pub fn running_container(pod: &Pod, name: &str) -> Option<String> {
    let status = container_statuses(pod).find(|c| c.name == name)?;
    status.state.as_ref()?.running.as_ref()?;
    bare_id(status.container_id.as_deref()?)
}

/// Statuses of all kinds of containers.
pub fn container_statuses(pod: &Pod) -> impl Iterator<Item = &k8s_openapi::api::core::v1::ContainerStatus> {
    pod.status.iter().flat_map(|s| {
        let lists = [&s.container_statuses, &s.init_container_statuses, &s.ephemeral_container_statuses];
        lists.into_iter().flatten().flatten()
    })
}

/// `containerd://ID` without the runtime's name.
pub fn bare_id(id: &str) -> Option<String> {
    id.split_once("://").map(|(_, id)| id.to_owned()).filter(|id| !id.is_empty())
}

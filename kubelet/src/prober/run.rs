//! One attempt of a probe.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};

use crate::hooks::port_number;
use crate::web::{self, Target};

/// The most of a command's output that an event carries.
const MAX_OUTPUT: usize = 10 << 10;

/// What an attempt found.
#[derive(Debug)]
pub enum Outcome {
    Success,
    /// A success with something to say.
    Warning(String),
    Failure(String),
    /// It could not be found out.
    Error(String),
}

/// Runs a probe once.
pub async fn probe(
    runtime: &cri::Runtime,
    probe: &Probe,
    container: &Container,
    id: &str,
    ip: Option<&str>,
) -> Outcome {
    let timeout =
        Duration::from_secs(probe.timeout_seconds.and_then(|t| u64::try_from(t).ok()).unwrap_or(1).max(1));
    if let Some(exec) = &probe.exec {
        return run_exec(runtime, exec.command.clone().unwrap_or_default(), container, id, timeout).await;
    }
    let Some(ip) = ip else { return Outcome::Error("the pod has no address".into()) };
    if let Some(action) = &probe.http_get {
        return match port_number(&action.port, container) {
            Ok(port) => run_http(&Target::new(action, ip, port), timeout).await,
            Err(error) => Outcome::Error(error),
        };
    }
    if let Some(action) = &probe.tcp_socket {
        let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(ip);
        return match port_number(&action.port, container) {
            Ok(port) => run_tcp(host, port, timeout).await,
            Err(error) => Outcome::Error(error),
        };
    }
    if let Some(action) = &probe.grpc {
        return match u16::try_from(action.port) {
            Ok(port) => run_grpc(ip, port, action.service.as_deref().unwrap_or_default(), timeout).await,
            Err(_) => Outcome::Error(format!("invalid port number: {}", action.port)),
        };
    }
    Outcome::Error("missing probe handler".into())
}

async fn run_exec(
    runtime: &cri::Runtime,
    command: Vec<String>,
    container: &Container,
    id: &str,
    timeout: Duration,
) -> Outcome {
    // References to the environment are those of the spec itself.
    let env: Vec<(String, String)> =
        container.env.iter().flatten().filter_map(|e| Some((e.name.clone(), e.value.clone()?))).collect();
    let command = crate::env::expand_list(Some(&command), &env);
    let shown = command.join(" ");
    match runtime.exec_sync(id, command, timeout).await {
        Ok(reply) if reply.exit_code == 0 => Outcome::Success,
        Ok(reply) => {
            let mut output = String::from_utf8_lossy(&[reply.stdout, reply.stderr].concat()).into_owned();
            let end =
                (0..=MAX_OUTPUT.min(output.len())).rev().find(|at| output.is_char_boundary(*at)).unwrap_or(0);
            output.truncate(end);
            Outcome::Failure(output)
        }
        Err(error) if error.is_timeout() => {
            Outcome::Failure(format!("command timed out: {shown:?} timed out after {}s", timeout.as_secs()))
        }
        Err(error) => Outcome::Error(error.to_string()),
    }
}

async fn run_http(target: &Target, timeout: Duration) -> Outcome {
    match web::get(target, timeout, "kube-probe/1.36").await {
        Ok(answer) if answer.foreign_redirect => {
            Outcome::Warning(format!("Probe terminated redirects, Response body: {}", answer.body))
        }
        Ok(answer) if (200..400).contains(&answer.status) => Outcome::Success,
        Ok(answer) => Outcome::Failure(format!("HTTP probe failed with statuscode: {}", answer.status)),
        Err(error) => Outcome::Failure(error),
    }
}

async fn run_tcp(host: &str, port: u16, timeout: Duration) -> Outcome {
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    match tokio::time::timeout(timeout, tokio::net::TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(error)) => Outcome::Failure(format!("dial tcp {address}: connect: {}", web::reason(&error))),
        Err(_) => Outcome::Failure(format!("dial tcp {address}: i/o timeout")),
    }
}

async fn run_grpc(host: &str, port: u16, service: &str, timeout: Duration) -> Outcome {
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let failed = |text: String| Outcome::Failure(text);
    match tokio::time::timeout(timeout, cri::health::check(&address, service)).await {
        Err(_) => failed(format!("timeout: failed to connect service {address:?} within {}s: context deadline exceeded", timeout.as_secs())),
        Ok(Ok(cri::health::Status::Serving)) => Outcome::Success,
        Ok(Ok(status)) => failed(format!("service unhealthy (responded with {:?})", status.name())),
        Ok(Err(error)) if error.is_unimplemented() => failed(
            "this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown service grpc.health.v1.Health".into(),
        ),
        Ok(Err(error)) => failed(format!("failed to connect service {address:?}: {error}")),
    }
}

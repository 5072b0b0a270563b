//! Lifecycle hooks: postStart and preStop.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pod::PodExt;
use crate::web::{self, Target};

/// How long an HTTP hook may take when nothing else bounds it.
const HTTP_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs a hook to its end. The error is the message for status and log; `tell` takes a warning's reason and message.
pub async fn run(
    runtime: &cri::Runtime,
    pod: &Pod,
    container: &Container,
    container_id: &str,
    pod_ip: Option<&str>,
    hook: &LifecycleHandler,
    tell: &(dyn Fn(&str, &str) + Sync),
) -> Result<(), String> {
    let (name, pod_name) = (&container.name, pod.formatted());
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let failed = |error: String, output: &[u8]| {
            let output = String::from_utf8_lossy(output);
            format!(
                "Exec lifecycle hook ([{}]) for Container {name:?} in Pod {pod_name:?} failed - error: {error}, message: {output:?}",
                command.join(" ")
            )
        };
        return match runtime.exec_sync(container_id, command.clone(), Duration::ZERO).await {
            Ok(reply) if reply.exit_code == 0 => Ok(()),
            Ok(reply) => {
                let output = [reply.stdout, reply.stderr].concat();
                Err(failed(
                    format!(
                        "command '{}' exited with {}: {}",
                        command.join(" "),
                        reply.exit_code,
                        String::from_utf8_lossy(&output)
                    ),
                    &output,
                ))
            }
            Err(error) => Err(failed(error.to_string(), &[])),
        };
    }
    if let Some(action) = &hook.http_get {
        let failed = |error: String| {
            let path = action.path.as_deref().unwrap_or_default();
            format!(
                "HTTP lifecycle hook ({path}) for Container {name:?} in Pod {pod_name:?} failed - error: {error}"
            )
        };
        let port = port_number(&action.port, container).map_err(failed)?;
        let host = pod_ip.ok_or_else(|| failed("failed to find networking container".into()))?;
        let target = Target::new(action, host, port);
        // Whatever is answered, the hook was heard.
        let Err(error) = web::get(&target, HTTP_TIMEOUT, "kube-lifecycle/1.36").await else { return Ok(()) };
        if target.tls && error.ends_with(web::HTTP_ANSWER) {
            let plain = target.in_the_clear();
            web::get(&plain, HTTP_TIMEOUT, "kube-lifecycle/1.36").await.map_err(failed)?;
            crate::metrics::pods::http_fallback();
            let message = format!(
                "request to HTTPS lifecycle hook {} got HTTP response, retry with HTTP succeeded",
                target.authority()
            );
            tell("LifecycleHTTPFallback", &message);
            return Ok(());
        }
        return Err(failed(error));
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("Cannot run handler: invalid handler".into())
}

/// The number of a port that may be given by name.
pub fn port_number(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            named.map(|p| p.container_port).or_else(|| name.parse().ok())
        }
    };
    let valid = number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
    valid.ok_or_else(|| match port {
        IntOrString::Int(number) => format!("invalid port number: {number}"),
        IntOrString::String(name) => format!("couldn't find port: {name:?}"),
    })
}

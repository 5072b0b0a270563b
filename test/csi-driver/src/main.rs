//! A CSI driver for tests: its volumes are folders below `--data`, and it notes every call in `--data/calls`.
//!
//! It registers with the kubelet by itself, and with `--kubeconfig` it also attaches: a VolumeAttachment that names it
//! is marked as attached, so that the whole way of a volume can be gone without anything else.
//!
//! Volume attributes that change what it does: `fail-publish=TEXT` refuses to publish.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Arg, ArgMatches, Command};
use csi::v1::identity_server::IdentityServer;
use csi::v1::node_server::NodeServer;
use kubelet_plugins::registration::registration_server::{Registration, RegistrationServer};
use kubelet_plugins::registration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

mod attacher;
mod node;

struct Registrar {
    name: String,
    endpoint: PathBuf,
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".into(),
            name: self.name.clone(),
            endpoint: self.endpoint.to_string_lossy().into_owned(),
            supported_versions: vec!["1.0.0".into()],
        }))
    }

    async fn notify_registration_status(
        &self,
        status: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = status.into_inner();
        tracing::info!(
            registered = status.plugin_registered,
            error = status.error,
            "The kubelet has answered"
        );
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

fn arguments() -> ArgMatches {
    let text = |name: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name).long(name).default_value(default).help(help)
    };
    Command::new("csi-driver")
        .about("A CSI driver for tests")
        .arg(text("name", "test.csi.binnacle.dev", "the driver's name"))
        .arg(text("kubelet-dir", "/var/lib/kubelet", "the kubelet's folder"))
        .arg(text("data", "/var/lib/csi-test", "where volumes are kept"))
        .arg(text("node-id", "", "what the driver calls the node; its host name by default"))
        .arg(text("max-volumes", "0", "how many volumes fit on the node; 0 for any number"))
        .arg(text("topology", "", "key=value of the node's place"))
        .arg(text("kubeconfig", "", "also attach volumes, as this user"))
        .get_matches()
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let given = arguments();
    let get = |name: &str| given.get_one::<String>(name).cloned().unwrap_or_default();
    let name = get("name");
    let kubelet = PathBuf::from(get("kubelet-dir"));
    let endpoint = kubelet.join("plugins").join(&name).join("csi.sock");
    let registration = kubelet.join("plugins_registry").join(format!("{name}-reg.sock"));
    let hostname = nix::unistd::gethostname().ok().and_then(|n| n.into_string().ok()).unwrap_or_default();
    let driver = node::Driver {
        name: name.clone(),
        data: get("data").into(),
        node_id: Some(get("node-id")).filter(|id| !id.is_empty()).unwrap_or(hostname),
        max_volumes: get("max-volumes").parse().context("--max-volumes")?,
        topology: get("topology").split_once('=').map(|(key, value)| (key.to_string(), value.to_string())),
    };
    std::fs::create_dir_all(&driver.data)?;
    let serve = Server::builder()
        .add_service(IdentityServer::new(driver.clone()))
        .add_service(NodeServer::new(driver))
        .serve_with_incoming(listen(&endpoint)?);
    let registrar = Registrar { name: name.clone(), endpoint };
    let register = Server::builder()
        .add_service(RegistrationServer::new(registrar))
        .serve_with_incoming(listen(&registration)?);
    let attach = async {
        match get("kubeconfig").as_str() {
            "" => std::future::pending().await,
            path => attacher::run(path, &name).await,
        }
    };
    let mut ended = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let result = tokio::select! {
        result = serve => result.context("serving CSI"),
        result = register => result.context("serving registration"),
        result = attach => result,
        _ = ended.recv() => Ok(()),
    };
    let _ = std::fs::remove_file(&registration);
    result
}

fn listen(socket: &PathBuf) -> anyhow::Result<UnixListenerStream> {
    if let Some(dir) = socket.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let _ = std::fs::remove_file(socket);
    let listener =
        UnixListener::bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    Ok(UnixListenerStream::new(listener))
}

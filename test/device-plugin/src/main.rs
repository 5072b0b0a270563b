//! What a node's plugins do, for tests: devices, dynamic resources, and who has which.
//!
//! - `device-plugin devices`: a device plugin. Its devices are the files of `--data/devices`, a device is healthy while
//!   its file says so (`Healthy`, or `Healthy 1` for one near NUMA node 1). When the kubelet starts anew it registers
//!   again.
//! - `device-plugin claims`: a driver of dynamic resources, which registers through the plugin folder.
//! - `device-plugin resources`: prints what the pod resources API says, as JSON.
//!
//! The first two note every call in `--data/calls`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Arg, ArgMatches, Command};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;

mod claims;
mod devices;
mod resources;

/// Where a plugin notes what it is asked.
#[derive(Debug, Clone)]
pub struct Data(PathBuf);

impl Data {
    /// Notes a call.
    pub fn note(&self, call: &str) {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(self.0.join("calls"));
        let _ = file.and_then(|mut file| writeln!(file, "{call}"));
    }

    /// A file of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

fn arguments() -> ArgMatches {
    let text = |name: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name).long(name).default_value(default).help(help).global(true)
    };
    Command::new("device-plugin")
        .about("Node plugins for tests")
        .subcommand_required(true)
        .arg(text("kubelet-dir", "/var/lib/kubelet", "the kubelet's folder"))
        .arg(text("data", "/var/lib/device-test", "where state and notes are kept"))
        .subcommand(
            Command::new("devices")
                .about("A device plugin")
                .arg(text("resource", "binnacle.dev/thing", "the resource's name"))
                .arg(Arg::new("pre-start").long("pre-start").num_args(0).help("wants to know of starts")),
        )
        .subcommand(Command::new("claims").about("A driver of dynamic resources").arg(text(
            "driver",
            "dra.binnacle.dev",
            "the driver's name",
        )))
        .subcommand(Command::new("resources").about("Asks the pod resources API"))
        .get_matches()
}

#[tokio::main(flavor = "current_thread")]
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
    let all = arguments();
    let (mode, given) = all.subcommand().context("a mode is needed")?;
    let get = |name: &str| given.get_one::<String>(name).cloned().unwrap_or_default();
    let kubelet = PathBuf::from(get("kubelet-dir"));
    let data = Data(get("data").into());
    let mut ended = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let work = async {
        match mode {
            "devices" => devices::run(&kubelet, &get("resource"), data, given.get_flag("pre-start")).await,
            "claims" => claims::run(&kubelet, &get("driver"), data).await,
            _ => resources::show(&kubelet).await,
        }
    };
    tokio::select! {
        result = work => result,
        _ = ended.recv() => Ok(()),
    }
}

/// Listens on a socket, whose folder is made if need be.
pub fn listen(socket: &Path) -> anyhow::Result<UnixListenerStream> {
    if let Some(dir) = socket.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let _ = std::fs::remove_file(socket);
    let listener =
        UnixListener::bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    Ok(UnixListenerStream::new(listener))
}

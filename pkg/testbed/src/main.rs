//! The `testbed` command: local clusters of many nodes on one machine.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use nix::sys::signal::{SigSet, Signal};
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use testbed::layout::{Cluster, State};
use testbed::runtime::{Kind, Runtime};
use testbed::{control, down, gateway, init, launch, up};

/// Runs Kubernetes clusters of many nodes on one Linux machine, each node in namespaces of its own.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(clap::Args)]
struct Where {
    /// Folder that holds everything of the cluster.
    #[arg(long, default_value = ".local-cluster")]
    state_dir: PathBuf,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring a cluster up and stay until Ctrl-C, or return with --detach.
    Up {
        #[command(flatten)]
        at: Where,
        /// Nodes that run etcd and the control plane.
        #[arg(long, default_value_t = 1)]
        control_planes: usize,
        /// Nodes that only run pods; with none, the control-plane nodes run pods too.
        #[arg(long, default_value_t = 0)]
        workers: usize,
        /// Folder with the daemons' binaries.
        #[arg(long, default_value = "target/release")]
        bin_dir: PathBuf,
        /// Port on 127.0.0.1 that leads to the apiservers (0: any free one).
        #[arg(long, default_value_t = 0)]
        api_port: u16,
        /// Folder of manifests to apply once the nodes are ready.
        #[arg(long, default_value = "manifests/addons")]
        manifests: PathBuf,
        /// Use another binary for a component: COMPONENT=PATH (may be repeated).
        #[arg(long, value_name = "COMPONENT=PATH")]
        replace: Vec<String>,
        /// Container runtime of the nodes; CRI-O needs crio, pinns, conmon, skopeo, and crun or runc.
        #[arg(long, value_enum, default_value_t)]
        container_runtime: Kind,
        /// Folder with another version of the container runtime's programs, which go before the machine's.
        #[arg(long)]
        runtime_dir: Option<PathBuf>,
        /// Return when the cluster is up.
        #[arg(long)]
        detach: bool,
    },
    /// Take the cluster down and remove what it made.
    Down {
        #[command(flatten)]
        at: Where,
    },
    /// Import docker or OCI archives into every node's container runtime.
    LoadImage {
        #[command(flatten)]
        at: Where,
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Build the image archives that a cluster starts with.
    BuildImages {
        #[command(flatten)]
        at: Where,
        #[arg(long, default_value = "target/release")]
        bin_dir: PathBuf,
    },
    /// Run a program inside a node.
    Exec {
        #[command(flatten)]
        at: Where,
        node: String,
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
    /// Start, stop, kill, restart, freeze or thaw a component of a node, or list them all.
    Component {
        #[command(flatten)]
        at: Where,
        node: String,
        #[arg(value_parser = ["start", "stop", "kill", "restart", "freeze", "thaw", "list"])]
        verb: String,
        #[arg(default_value = "")]
        component: String,
    },
    /// Cut a node off the network, or connect it again.
    Link {
        #[command(flatten)]
        at: Where,
        node: String,
        #[arg(value_parser = ["up", "down"])]
        to: String,
    },
    #[command(hide = true)]
    NodeLaunch {
        #[command(flatten)]
        at: Where,
        #[arg(long)]
        node: String,
        #[arg(long)]
        cgroup: Vec<PathBuf>,
    },
    #[command(hide = true)]
    NodeInit {
        #[command(flatten)]
        at: Where,
        #[arg(long)]
        node: String,
    },
    #[command(hide = true)]
    Gateway {
        #[command(flatten)]
        at: Where,
    },
}

fn main() {
    if let Err(e) = run(Cli::parse().command) {
        eprintln!("error: {e:#}");
        std::process::exit(1);
    }
}

fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Up {
            at,
            control_planes,
            workers,
            bin_dir,
            api_port,
            manifests,
            replace,
            container_runtime,
            runtime_dir,
            detach,
        } => {
            let dir = runtime_dir.map(|dir| resolve(&dir)).transpose()?;
            let cluster = Cluster {
                control_planes,
                workers,
                bin_dir: resolve(&bin_dir)?,
                api_port: if api_port == 0 { free_port()? } else { api_port },
                replacements: replacements(&replace)?,
                runtime: Runtime { kind: container_runtime, dir },
            };
            bring_up(&State::new(&at.state_dir)?, &cluster, &manifests, detach)
        }
        Verb::Down { at } => take_down(&at.state_dir),
        Verb::LoadImage { at, archives } => {
            let state = State::existing(&at.state_dir)?;
            for node in state.load_cluster()?.nodes() {
                println!("importing {} archive(s) into {}", archives.len(), node.name);
                up::load_images(&state, &node.name, &archives)?;
            }
            Ok(())
        }
        Verb::BuildImages { at, bin_dir } => {
            let state = State::new(&at.state_dir)?;
            for archive in testbed::image::build_all(&bin_dir, &state.images())? {
                println!("{}", archive.display());
            }
            Ok(())
        }
        Verb::Exec { at, node, command } => {
            let state = State::existing(&at.state_dir)?;
            let error = control::inside(&state, &node, &command[0])?.args(&command[1..]).exec();
            Err(error).context("cannot run nsenter (package util-linux)")
        }
        Verb::Component { at, node, verb, component } => {
            if component.is_empty() && verb != "list" {
                bail!("name the component to {verb}; `list` shows them");
            }
            let state = State::existing(&at.state_dir)?;
            print!("{}", control::command(&state, &node, format!("{verb} {component}").trim())?);
            Ok(())
        }
        Verb::Link { at, node, to } => gateway::set_link(&State::existing(&at.state_dir)?, &node, to == "up"),
        Verb::NodeLaunch { at, node, cgroup } => {
            launch::launch(&State::existing(&at.state_dir)?, &node, &cgroup)
        }
        Verb::NodeInit { at, node } => init::run(&State::existing(&at.state_dir)?, &node),
        Verb::Gateway { at } => gateway::run(&State::existing(&at.state_dir)?),
    }
}

fn bring_up(state: &State, cluster: &Cluster, manifests: &Path, detach: bool) -> Result<()> {
    if !detach {
        end_on_signal(state)?;
    }
    if let Err(e) = up::up(state, cluster, manifests) {
        if let Err(cleanup) = down::down(state) {
            eprintln!("while cleaning up: {cleanup:#}");
        }
        return Err(e);
    }
    up::print_hints(state);
    if !detach {
        println!("Ctrl-C takes the cluster down.");
        loop {
            std::thread::park();
        }
    }
    Ok(())
}

/// Ctrl-C at any moment, also while the cluster is coming up, takes it down and ends this program.
fn end_on_signal(state: &State) -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let state = state.clone();
    std::thread::spawn(move || {
        let waited = signals.wait();
        let _launched = up::launching();
        println!("taking the cluster down");
        let ended = waited.map_err(anyhow::Error::from).and_then(|_| down::down(&state));
        if let Err(e) = &ended {
            eprintln!("error: {e:#}");
        }
        std::process::exit(i32::from(ended.is_err()));
    });
    Ok(())
}

fn take_down(state_dir: &Path) -> Result<()> {
    if !state_dir.exists() {
        println!("no cluster in {}", state_dir.display());
        return Ok(());
    }
    down::down(&State::existing(state_dir)?)?;
    println!("the cluster in {} is down", state_dir.display());
    Ok(())
}

fn resolve(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| format!("no folder {}", path.display()))
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn replacements(list: &[String]) -> Result<BTreeMap<String, PathBuf>> {
    list.iter()
        .map(|text| {
            let (name, path) = text.split_once('=').with_context(|| format!("not COMPONENT=PATH: {text}"))?;
            Ok((name.to_owned(), resolve(Path::new(path))?))
        })
        .collect()
}

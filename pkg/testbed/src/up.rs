//! Bringing a whole cluster up, step by step, with a word on each.

use crate::control;
use crate::credentials::Credentials;
use crate::gateway;
use crate::image;
use crate::launch;
use crate::layout::{Cluster, Node, State};
use crate::record::Process;
use crate::spec::{self, NodeSpec};
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const READY_LIMIT: Duration = Duration::from_secs(120);
static LAUNCHING: Mutex<()> = Mutex::new(());

/// Held while processes are being started: whoever takes the cluster down meanwhile waits until all are recorded.
pub fn launching() -> MutexGuard<'static, ()> {
    LAUNCHING.lock().unwrap_or_else(PoisonError::into_inner)
}

const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Starts the cluster and waits until its nodes are ready and its system pods run.
pub fn up(state: &State, cluster: &Cluster, manifests: &Path) -> Result<()> {
    cluster.validate()?;
    check(state, cluster)?;
    let begin = Instant::now();
    let step = |text: &str| println!("[{:5.2}s] {text}", begin.elapsed().as_secs_f32());
    step("writing certificates and configuration");
    crate::down::clear(state)?;
    crate::down::clear_logs(state)?;
    state.save_cluster(cluster)?;
    prepare(state, cluster)?;
    let result = start(state, cluster, manifests, &step);
    if result.is_err() {
        eprintln!("{}", diagnosis(state, cluster));
    }
    result
}

fn start(state: &State, cluster: &Cluster, manifests: &Path, step: &dyn Fn(&str)) -> Result<()> {
    let nodes = cluster.nodes();
    step(&format!("starting {} node(s)", nodes.len()));
    launch_all(state, &nodes)?;
    let archives = image::build_all(&cluster.bin_dir, &state.images())?;
    step("waiting for the apiserver");
    wait_for(state, cluster, "the apiserver to be ready", || kubectl_ok(state, &["get", "--raw=/readyz"]))?;
    step("importing images");
    for node in &nodes {
        load_images(state, &node.name, &archives)?;
    }
    step("waiting for the nodes to register");
    for node in nodes.iter().filter(|n| n.control_plane) {
        let label = ["label", "node", &node.name, "node-role.kubernetes.io/control-plane=", "--overwrite"];
        wait_for(state, cluster, &format!("node {} to register", node.name), || kubectl_ok(state, &label))?;
    }
    step("waiting for the nodes to be Ready");
    wait_for(state, cluster, "all nodes to be Ready", || ready_nodes(state) == nodes.len())?;
    step("all nodes are Ready; starting the system pods");
    if manifests.is_dir() {
        kubectl(state, &["apply", "--server-side", "--force-conflicts", "-f", &manifests.to_string_lossy()])?;
        wait_for(state, cluster, "the system pods to run", || system_pods_run(state))?;
    }
    step("the cluster is up");
    Ok(())
}

fn launch_all(state: &State, nodes: &[Node]) -> Result<()> {
    let _guard = launching();
    for node in nodes {
        launch::start(state, &node.name)?;
    }
    start_gateway(state)?;
    nodes.iter().try_for_each(|node| control::command(state, &node.name, "start").map(drop))
}

// === before anything runs ===

fn check(state: &State, cluster: &Cluster) -> Result<()> {
    let running: Vec<String> = Process::load_all(&state.processes_dir())
        .into_iter()
        .filter(|(_, p)| p.alive())
        .map(|(name, _)| name)
        .collect();
    ensure!(
        running.is_empty(),
        "a cluster runs already in {} ({}); take it down first",
        state.root().display(),
        running.join(", ")
    );
    let mut missing = Vec::new();
    let ours = [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kube-proxy",
        "pod-network",
    ];
    for component in ours {
        let path = cluster.binary(component);
        if !path.exists() {
            missing.push(path.display().to_string());
        }
    }
    ensure!(missing.is_empty(), "missing binaries: {}", missing.join(", "));
    cluster.runtime.check()
}

fn prepare(state: &State, cluster: &Cluster) -> Result<()> {
    let credentials = Credentials::generate()?;
    credentials.write_admin(state, cluster)?;
    for node in cluster.nodes() {
        let dir = state.node(&node.name);
        fs::create_dir_all(dir.dir())?;
        fs::create_dir_all(dir.logs())?;
        credentials.write_node(state, &node)?;
        spec::write_configuration(state, &node, &cluster.runtime)?;
        NodeSpec::of(cluster, &node).save(&dir.spec_file())?;
    }
    Ok(())
}

fn start_gateway(state: &State) -> Result<()> {
    let log = state.logs().join("gateway.log");
    let mut child = Command::new(std::env::current_exe()?)
        .arg("gateway")
        .arg("--state-dir")
        .arg(state.root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(&log)?)
        .process_group(0)
        .spawn()
        .context("cannot start the gateway")?;
    let process = Process::of(child.id() as i32).context("the gateway ended at once")?;
    process.save(&state.processes_dir(), gateway::RECORD)?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut line)?;
    }
    ensure!(line.trim() == "ready", "the gateway did not start: {}", launch::tail(&log));
    Ok(())
}

// === images ===

/// Imports archives into one node's runtime under the names that they carry.
pub fn load_images(state: &State, node: &str, archives: &[PathBuf]) -> Result<()> {
    let runtime = state.load_cluster()?.runtime;
    let end = Instant::now() + READY_LIMIT;
    while let Err(why) = runtime.answers(state, node) {
        if Instant::now() > end {
            return Err(why).context(format!("the container runtime of node {node} does not answer"));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    archives.iter().try_for_each(|archive| runtime.import(state, node, archive))
}

// === waiting ===

fn kubectl_command(state: &State, args: &[&str]) -> Command {
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(state.admin_kubeconfig()).args(args).stdin(Stdio::null());
    command
}

fn kubectl(state: &State, args: &[&str]) -> Result<String> {
    let out = kubectl_command(state, args).output().context("cannot run kubectl")?;
    ensure!(
        out.status.success(),
        "kubectl {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&out.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn kubectl_ok(state: &State, args: &[&str]) -> bool {
    kubectl(state, args).is_ok()
}

fn ready_nodes(state: &State) -> usize {
    let path = "-o=jsonpath={range .items[*]}{.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}{end}";
    let text = kubectl(state, &["get", "nodes", path]).unwrap_or_default();
    text.lines().filter(|l| *l == "True").count()
}

fn system_pods_run(state: &State) -> bool {
    let path = "-o=jsonpath={range .items[*]}{.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}{end}";
    match kubectl(state, &["get", "pods", "--namespace=kube-system", path]) {
        Ok(text) => !text.trim().is_empty() && text.lines().all(|l| l == "True"),
        Err(_) => false,
    }
}

fn wait_for(state: &State, cluster: &Cluster, what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + READY_LIMIT;
    while !done() {
        if let Some(failed) = crash_looping(state, cluster) {
            bail!("{failed} keeps failing while waiting for {what}");
        }
        ensure!(Instant::now() < end, "waited {READY_LIMIT:?} in vain for {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

// === when it fails ===

/// A component that was restarted again and again.
fn crash_looping(state: &State, cluster: &Cluster) -> Option<String> {
    const TOO_OFTEN: usize = 10;
    cluster.nodes().iter().find_map(|node| {
        let log = fs::read_to_string(state.node(&node.name).logs().join("init.log")).ok()?;
        components(state, node).into_iter().find_map(|c| {
            let restarts = log.lines().filter(|l| l.starts_with(&format!("{c} ended"))).count();
            (restarts >= TOO_OFTEN).then(|| format!("{c} on {}", node.name))
        })
    })
}

fn components(state: &State, node: &Node) -> Vec<String> {
    NodeSpec::load(&state.node(&node.name).spec_file())
        .map(|s| s.processes.into_iter().map(|p| p.name).collect())
        .unwrap_or_default()
}

/// Which components ended by themselves, with the ends of their logs; else the apiserver's and the kubelets'.
fn diagnosis(state: &State, cluster: &Cluster) -> String {
    let mut text = String::new();
    for node in cluster.nodes() {
        let logs = state.node(&node.name).logs().to_owned();
        let init = fs::read_to_string(logs.join("init.log")).unwrap_or_default();
        let all = components(state, &node);
        let failed: Vec<&String> = all.iter().filter(|c| init.contains(&format!("{c} ended"))).collect();
        let suspects = if failed.is_empty() {
            all.iter().filter(|c| matches!(c.as_str(), "kube-apiserver" | "kubelet")).collect()
        } else {
            failed
        };
        for component in suspects {
            let log = logs.join(format!("{component}.log"));
            text +=
                &format!("--- {component} on {} ({}):\n{}\n", node.name, log.display(), launch::tail(&log));
        }
    }
    text
}

/// What a person reads when the cluster is up.
pub fn print_hints(state: &State) {
    println!("\nLogs of every component: {}", state.logs().display());
    println!("To use the cluster:\n\n  export KUBECONFIG={}\n", state.admin_kubeconfig().display());
    println!("then try:\n");
    println!("  kubectl get nodes -o wide");
    println!("  kubectl run hello --image=localhost/busybox:local -- sleep 3600");
    println!("  kubectl get pods -A -w\n");
}

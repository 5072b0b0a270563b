//! A node from the inside: pid 1 mounts what the node needs, then starts, watches and restarts its processes.
//!
//! It takes one-line commands on a socket in the state folder (see [`crate::control`]). A process that ends is
//! started again after a second, as a service manager would, unless it was stopped on purpose.

use crate::cgroup::Hierarchy;
use crate::layout::{NodeDir, State};
use crate::runtime::SEARCH_PATH;
use crate::spec::{NodeSpec, Process};
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

const RESTART_DELAY: Duration = Duration::from_secs(1);
const NOTHING_TO_REAP: Duration = Duration::from_millis(20);

/// Runs as pid 1 until it is killed.
pub fn run(state: &State, node: &str) -> Result<()> {
    let dir = state.node(node);
    let spec = NodeSpec::load(&dir.spec_file())?;
    nix::unistd::sethostname(node).context("cannot set the node's host name")?;
    mount_all(&dir)?;
    let supervisor = Arc::new(Mutex::new(Supervisor::new(dir.clone(), spec)));
    let _ = fs::remove_file(dir.control_socket());
    let listener = UnixListener::bind(dir.control_socket()).context("cannot listen for commands")?;
    let commands = supervisor.clone();
    std::thread::spawn(move || serve(&listener, &commands));
    reap(&supervisor)
}

// === mounts ===

fn mount_all(dir: &NodeDir) -> Result<()> {
    // Not shared with the launcher, which still needs the machine's /proc.
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    remount(None, "/", MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    mount_fs("proc", "/proc", "")?;
    let hierarchies = crate::cgroup::hierarchies()?;
    mount_fs("sysfs", "/sys", "")?;
    mount_cgroups(&hierarchies)?;
    for top in ["etc", "var"] {
        overlay(dir, top)?;
    }
    mount_fs("tmpfs", "/run", "mode=755")?;
    for (what, target) in [
        ("kubelet", "/var/lib/kubelet"),
        ("containerd", "/var/lib/containerd"),
        ("crio", "/var/lib/containers"),
        ("etcd", "/var/lib/etcd"),
        ("pods", "/var/log/pods"),
        ("containers", "/var/log/containers"),
    ] {
        bind(&dir.data(what), target)?;
    }
    bind(&dir.kubernetes(), "/etc/kubernetes")?;
    fs::create_dir_all("/etc/containerd")?;
    let containerd = Path::new("/etc/kubernetes/containerd.toml");
    if containerd.exists() {
        fs::copy(containerd, "/etc/containerd/binnacle.toml")?;
    }
    let cni = Path::new("/etc/cni/net.d");
    // Whatever network the machine itself is configured for is not the node's.
    let _ = fs::remove_dir_all(cni);
    fs::create_dir_all(cni)?;
    fs::create_dir_all("/run/netns")?;
    if fs::symlink_metadata("/etc/resolv.conf").is_ok() {
        fs::remove_file("/etc/resolv.conf")?;
    }
    fs::copy("/etc/kubernetes/resolv.conf", "/etc/resolv.conf")?;
    remount(None, "/", MsFlags::MS_REC | MsFlags::MS_SHARED)
}

fn remount(source: Option<&Path>, target: &str, flags: MsFlags) -> Result<()> {
    mount(source, target, None::<&str>, flags, None::<&str>).with_context(|| format!("cannot mount {target}"))
}

fn mount_fs(kind: &str, target: &str, options: &str) -> Result<()> {
    mount(Some(kind), target, Some(kind), MsFlags::empty(), Some(options))
        .with_context(|| format!("cannot mount {kind} on {target}"))
}

/// Writes to `/etc` and `/var` stay in the node's folder.
fn overlay(dir: &NodeDir, top: &str) -> Result<()> {
    let upper = dir.data(&format!("{top}-upper"));
    let work = dir.data(&format!("{top}-work"));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    let options = format!("lowerdir=/{top},upperdir={},workdir={}", upper.display(), work.display());
    mount(
        Some("overlay"),
        Path::new(&format!("/{top}")),
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .with_context(|| format!("cannot lay an overlay on /{top}"))
}

fn bind(source: &Path, target: &str) -> Result<()> {
    fs::create_dir_all(source)?;
    fs::create_dir_all(target)?;
    remount(Some(source), target, MsFlags::MS_BIND)
}

/// The node's own view of every hierarchy, rooted at its folder by the cgroup namespace.
fn mount_cgroups(hierarchies: &[Hierarchy]) -> Result<()> {
    if hierarchies.iter().any(|h| h.folder.is_empty()) {
        return mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), MsFlags::empty(), None::<&str>)
            .context("cannot mount the cgroup hierarchy");
    }
    mount_fs("tmpfs", "/sys/fs/cgroup", "mode=755")?;
    for h in hierarchies {
        let target = format!("/sys/fs/cgroup/{}", h.folder);
        fs::create_dir_all(&target)?;
        let (kind, options) = match &h.v1_options {
            Some(options) => ("cgroup", options.as_str()),
            None => ("cgroup2", ""),
        };
        mount_cgroup(kind, &target, options)?;
        // `cpu` and `cpuacct` are also looked up by their single names where they share a hierarchy.
        for single in h.folder.split(',').filter(|s| *s != h.folder) {
            let _ = std::os::unix::fs::symlink(&h.folder, format!("/sys/fs/cgroup/{single}"));
        }
    }
    Ok(())
}

fn mount_cgroup(kind: &str, target: &str, options: &str) -> Result<()> {
    mount(Some(kind), target, Some(kind), MsFlags::empty(), Some(options))
        .with_context(|| format!("cannot mount the {kind} hierarchy {target}"))
}

// === processes ===

struct Supervisor {
    dir: NodeDir,
    spec: NodeSpec,
    running: BTreeMap<i32, String>,
    /// Ended on request: not started again by itself.
    stopped: Vec<String>,
}

impl Supervisor {
    fn new(dir: NodeDir, spec: NodeSpec) -> Supervisor {
        Supervisor { dir, spec, running: BTreeMap::new(), stopped: Vec::new() }
    }

    fn pid_of(&self, name: &str) -> Option<i32> {
        self.running.iter().find(|(_, n)| *n == name).map(|(pid, _)| *pid)
    }

    fn start(&mut self, name: &str) -> Result<()> {
        let process = self.spec.processes.iter().find(|p| p.name == name).cloned();
        let process = process.with_context(|| format!("no process named {name} on this node"))?;
        self.stopped.retain(|s| s != name);
        if self.pid_of(name).is_none() {
            let pid = spawn(&self.dir, &process)?;
            self.running.insert(pid, name.to_owned());
        }
        Ok(())
    }

    fn start_all(&mut self) -> Result<()> {
        let names: Vec<String> = self.spec.processes.iter().map(|p| p.name.clone()).collect();
        names.iter().try_for_each(|n| self.start(n))
    }

    fn stop(&mut self, name: &str, signal: Signal) -> Result<()> {
        self.stopped.push(name.to_owned());
        self.signal(name, signal)
    }

    /// A running process comes back by itself once it has ended; one that has ended already starts at once.
    fn restart(&mut self, name: &str) -> Result<()> {
        match self.pid_of(name) {
            Some(_) => self.signal(name, Signal::SIGTERM),
            None => self.start(name),
        }
    }

    fn signal(&mut self, name: &str, signal: Signal) -> Result<()> {
        let pid = self.pid_of(name).with_context(|| format!("{name} is not running"))?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot signal {name}"))
    }

    /// Forgets an ended process; its name when it should come back.
    fn ended(&mut self, pid: i32) -> Option<String> {
        let name = self.running.remove(&pid)?;
        let _ = fs::remove_file(self.dir.pid_file(&name));
        (!self.stopped.contains(&name)).then_some(name)
    }

    fn list(&self) -> String {
        let line = |p: &Process| match self.pid_of(&p.name) {
            Some(_) => format!("{} running\n", p.name),
            None => format!("{} stopped\n", p.name),
        };
        self.spec.processes.iter().map(line).collect()
    }
}

fn spawn(dir: &NodeDir, process: &Process) -> Result<i32> {
    let path = dir.logs().join(format!("{}.log", process.name));
    let log = File::options().create(true).append(true).open(&path)?;
    let mut command = Command::new(&process.argv[0]);
    command
        .args(&process.argv[1..])
        .env("PATH", SEARCH_PATH)
        .envs(process.env.iter().map(|(k, v)| (k, v)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    let child = command.spawn().with_context(|| format!("cannot start {}", process.argv[0]))?;
    // Reaped by the loop of pid 1, with all the orphans.
    let pid = child.id() as i32;
    record_pid(dir, &process.name, pid);
    Ok(pid)
}

/// The pid as the node sees it, for `kill` inside the node.
fn record_pid(dir: &NodeDir, name: &str, pid: i32) {
    let file = dir.pid_file(name);
    let folder = file.parent().unwrap_or(Path::new("/"));
    // The record is a convenience for people; the supervisor does not depend on it.
    let _ = fs::create_dir_all(folder).and_then(|()| fs::write(&file, format!("{pid}\n")));
}

/// Collects every ended process of the node for ever.
fn reap(supervisor: &Arc<Mutex<Supervisor>>) -> Result<()> {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) => {
                if let Some(name) = lock(supervisor).ended(pid.as_raw()) {
                    eprintln!("{name} ended; starting it again in {RESTART_DELAY:?}");
                    restart_later(supervisor.clone(), name);
                }
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => std::thread::sleep(NOTHING_TO_REAP),
            Err(e) => return Err(e).context("cannot wait for processes"),
        }
    }
}

fn restart_later(supervisor: Arc<Mutex<Supervisor>>, name: String) {
    std::thread::spawn(move || {
        std::thread::sleep(RESTART_DELAY);
        let mut s = lock(&supervisor);
        if !s.stopped.contains(&name)
            && let Err(e) = s.start(&name)
        {
            eprintln!("{e:#}");
        }
    });
}

fn lock(supervisor: &Mutex<Supervisor>) -> MutexGuard<'_, Supervisor> {
    supervisor.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

// === commands ===

fn serve(listener: &UnixListener, supervisor: &Mutex<Supervisor>) {
    for stream in listener.incoming().flatten() {
        if let Err(e) = answer(stream, supervisor) {
            eprintln!("command: {e:#}");
        }
    }
}

fn answer(mut stream: UnixStream, supervisor: &Mutex<Supervisor>) -> Result<()> {
    let mut line = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    let result = execute(line.trim(), &mut lock(supervisor));
    let text = match result {
        Ok(text) => format!("ok\n{text}"),
        Err(e) => format!("error\n{e:#}\n"),
    };
    stream.write_all(text.as_bytes())?;
    Ok(())
}

fn execute(line: &str, s: &mut Supervisor) -> Result<String> {
    let mut words = line.split(' ');
    let (verb, name) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    match verb {
        "start" if name.is_empty() => s.start_all()?,
        "start" => s.start(name)?,
        "stop" => s.stop(name, Signal::SIGTERM)?,
        "kill" => s.signal(name, Signal::SIGKILL)?,
        "restart" => s.restart(name)?,
        "freeze" => s.signal(name, Signal::SIGSTOP)?,
        "thaw" => s.signal(name, Signal::SIGCONT)?,
        "list" => return Ok(s.list()),
        other => anyhow::bail!("unknown command {other:?}"),
    }
    Ok(String::new())
}

//! A cluster that is taken down however the tests end.

use crate::command::Program;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use testbed::layout::State;
use testbed::record::Process;

/// Bringing up includes pulling nothing, but two cores may be busy.
const UP_LIMIT: Duration = Duration::from_secs(180);

/// A running cluster.
pub struct Bed {
    dir: PathBuf,
    program: PathBuf,
    left: Option<Leftovers>,
}

/// What a cluster made outside its folder, noted while it runs.
pub struct Leftovers {
    processes: Vec<(String, Process)>,
    cgroups: Vec<PathBuf>,
    mounts: usize,
    interfaces: usize,
}

impl Bed {
    /// Takes down what an earlier run may have left in `name`'s folder, and starts a new cluster there.
    pub fn up(name: &str, args: &[&str]) -> Result<Bed> {
        let bins = bin_dir()?;
        let dir = std::env::temp_dir().join(format!("binnacle-e2e-{name}"));
        let mut bed = Bed { dir, program: bins.join("testbed"), left: None };
        bed.down()?;
        let (mounts, interfaces) = (mounts_of_machine()?, interfaces_of_machine()?);
        let mut command = bed.testbed(&["up", "--detach"]);
        command.arg("--bin-dir").arg(&bins).arg("--manifests").arg(manifests()).args(args);
        for one in std::env::var("BINNACLE_REPLACE").unwrap_or_default().split(',').filter(|r| !r.is_empty())
        {
            command.arg("--replace").arg(one);
        }
        print!("{}", Program::new(command).limit(UP_LIMIT).text()?);
        bed.left = Some(Leftovers::of(&bed.state()?, mounts, interfaces));
        Ok(bed)
    }

    /// `testbed VERB --state-dir …`
    fn testbed(&self, verb: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(verb[0]).arg("--state-dir").arg(&self.dir).args(&verb[1..]);
        command
    }

    pub fn state(&self) -> Result<State> {
        State::existing(&self.dir)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.conf")
    }

    /// kubectl with the words of a line as its arguments.
    pub fn kubectl(&self, line: &str) -> Program {
        let mut command = Command::new("kubectl");
        command.env("KUBECONFIG", self.kubeconfig()).args(line.split_whitespace());
        Program::new(command)
    }

    /// A program inside a node.
    pub fn on_node(&self, node: &str, line: &str) -> Program {
        let mut command = self.testbed(&["exec"]);
        command.arg(node).arg("--").args(line.split_whitespace());
        Program::new(command)
    }

    /// The bodies of `count` answers to HTTP requests from a node to an address; all must come.
    pub fn ask_from_node(&self, node: &str, address: &str, path: &str, count: usize) -> Result<Vec<String>> {
        let (host, port) = address.split_once(':').unwrap_or((address, "80"));
        let ask = format!(
            "exec 3<>/dev/tcp/{host}/{port} && printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3 && sed '1,/^\\r$/d' <&3"
        );
        let all = format!("for i in $(seq {count}); do timeout 5 bash -c \"$0\" || exit 1; done");
        let program = self.on_node(node, "bash -c").arg(&all).arg(&ask);
        Ok(program.text()?.lines().map(str::to_owned).collect())
    }

    /// Starts, stops, kills … a component of a node.
    pub fn component(&self, node: &str, verb: &str, component: &str) -> Result<String> {
        let mut command = self.testbed(&["component"]);
        command.args([node, verb, component]);
        Program::new(command).text()
    }

    /// Cuts a node off the network (`down`) or connects it again (`up`).
    pub fn link(&self, node: &str, to: &str) -> Result<()> {
        let mut command = self.testbed(&["link"]);
        command.args([node, to]);
        Program::new(command).text().map(drop)
    }

    /// Writes a file into the cluster's folder, for `kubectl -f`.
    pub fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.dir.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// A file of `manifests/samples`.
    pub fn sample(&self, name: &str) -> String {
        workspace().join("manifests/samples").join(name).to_string_lossy().into_owned()
    }

    /// Takes the cluster down; harmless when there is none.
    pub fn down(&mut self) -> Result<()> {
        Program::new(self.testbed(&["down"])).limit(UP_LIMIT).text()?;
        Ok(())
    }

    /// Takes the cluster down and looks whether anything of it is still there.
    pub fn down_and_gone(&mut self) -> Result<()> {
        let left = self.left.take().context("the cluster was never up")?;
        self.down()?;
        left.gone()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Err(e) = self.down() {
            eprintln!("the cluster could not be taken down: {e:#}");
        }
        if !std::thread::panicking() && std::env::var_os("BINNACLE_KEEP_LOGS").is_none() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

impl Leftovers {
    fn of(state: &State, mounts: usize, interfaces: usize) -> Leftovers {
        let cgroups = std::fs::read_to_string(state.cgroups_file()).unwrap_or_default();
        Leftovers {
            processes: Process::load_all(&state.processes_dir()),
            cgroups: cgroups.lines().map(PathBuf::from).collect(),
            mounts,
            interfaces,
        }
    }

    fn gone(&self) -> Result<()> {
        ensure!(!self.processes.is_empty() && !self.cgroups.is_empty(), "nothing was recorded");
        for (name, process) in &self.processes {
            ensure!(!process.alive(), "process {name} ({}) is left", process.pid);
        }
        for folder in &self.cgroups {
            ensure!(!folder.exists(), "cgroup {} is left", folder.display());
        }
        ensure!(mounts_of_machine()? <= self.mounts, "mounts are left");
        ensure!(interfaces_of_machine()? <= self.interfaces, "network interfaces are left");
        Ok(())
    }
}

fn mounts_of_machine() -> Result<usize> {
    Ok(std::fs::read_to_string("/proc/self/mountinfo")?.lines().count())
}

fn interfaces_of_machine() -> Result<usize> {
    Ok(std::fs::read_dir("/sys/class/net")?.count())
}

fn workspace() -> &'static Path {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir.ancestors().nth(2).unwrap_or(crate_dir)
}

/// A program of the tests' own, built beside the daemons.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = bin_dir()?.join(name);
    ensure!(path.exists(), "{} is not built; run hack/test.sh e2e", path.display());
    Ok(path)
}

fn bin_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("BINNACLE_BIN_DIR") {
        return Ok(dir.into());
    }
    let target = workspace().join("target");
    let found = ["release", "debug"].into_iter().map(|p| target.join(p)).find(|d| d.join("testbed").exists());
    found.with_context(|| format!("no built testbed in {}; run hack/test.sh e2e", target.display()))
}

fn manifests() -> PathBuf {
    std::env::var_os("BINNACLE_MANIFESTS").map_or_else(|| workspace().join("manifests/addons"), PathBuf::from)
}

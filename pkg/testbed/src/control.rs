//! Talking to a running node: commands to its first process, and programs run inside it.

use crate::launch::record_name;
use crate::layout::State;
use crate::record::Process;
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

/// How long a node's first process may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Sends one command line (`start`, `start NAME`, `stop NAME`, `kill NAME`, `restart NAME`, `freeze NAME`,
/// `thaw NAME`, `list`) and returns the answer's text.
pub fn command(state: &State, node: &str, line: &str) -> Result<String> {
    let path = state.node(node).control_socket();
    let mut stream = UnixStream::connect(&path).with_context(|| format!("node {node} is not running"))?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(format!("{line}\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("node {node} does not answer"))?;
    match answer.split_once('\n') {
        Some(("ok", text)) => Ok(text.to_owned()),
        Some((_, text)) => bail!("{}", text.trim()),
        None => bail!("node {node} gave no answer"),
    }
}

/// The recorded first process of a node, if it lives.
pub fn process(state: &State, node: &str) -> Result<Process> {
    Process::load(&state.processes_dir().join(record_name(node)))
        .filter(Process::alive)
        .with_context(|| format!("node {node} is not running"))
}

/// A command that will run inside the node's namespaces, ready for arguments.
pub fn inside(state: &State, node: &str, program: &str) -> Result<Command> {
    let init = process(state, node)?;
    let mut command = Command::new("nsenter");
    command.args([
        "--target",
        &init.pid.to_string(),
        "--mount",
        "--net",
        "--pid",
        "--uts",
        "--ipc",
        "--cgroup",
    ]);
    command.args(["--", program]);
    Ok(command)
}

/// A command inside only the node's network.
pub fn in_network(pid: i32, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &pid.to_string(), "--net", "--", program]);
    command
}

//! Starting a server: how long until it is ready, what it costs when nobody asks anything.

use std::fs::OpenOptions;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use tokio::process::{Child, Command};

use crate::args::StartArgs;
use crate::http::{Connection, get};
use crate::process;
use crate::report::Report;
use crate::target::Target;

/// A server that ignores SIGTERM for this long is killed.
const GRACE: Duration = Duration::from_secs(30);

pub async fn run(target: &Target, options: &StartArgs, report: &mut Report) -> Result<()> {
    for run in 1..=options.runs {
        let mut server = spawn(options)?;
        let started = Instant::now();
        let ready = wait(target, options, &mut server).await;
        let took = started.elapsed();
        let facts = match ready {
            Ok(()) => idle(&server, options, took, run).await,
            Err(e) => Err(e),
        };
        let stopped = stop(&mut server).await?;
        let mut facts = facts?;
        facts["stop ms"] = round(stopped.as_secs_f64() * 1e3);
        report.say(facts);
    }
    Ok(())
}

fn spawn(options: &StartArgs) -> Result<Child> {
    let (program, args) = options.cmd.split_first().context("no command")?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    match &options.log {
        Some(path) => {
            let log = OpenOptions::new().create(true).append(true).open(path)?;
            command.stdout(log.try_clone()?).stderr(log);
        }
        None => {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
    }
    command.spawn().with_context(|| format!("starting {program}"))
}

async fn wait(target: &Target, options: &StartArgs, server: &mut Child) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(options.timeout);
    loop {
        if let Some(status) = server.try_wait()? {
            bail!("the server ended: {status}");
        }
        if let Ok(mut connection) = Connection::open(target, false).await {
            // One connection as long as it lives: a handshake costs more than the question.
            while let Ok(answer) = connection.exchange(get(&options.ready_path, "*/*")?, false).await {
                if answer.status == 200 {
                    return Ok(());
                }
                if Instant::now() > deadline {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        if Instant::now() > deadline {
            bail!("not ready after {} s", options.timeout);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn idle(server: &Child, options: &StartArgs, took: Duration, run: usize) -> Result<serde_json::Value> {
    let pid = server.id().context("the server is gone")?;
    let ready = process::usage(pid).context("the server is gone")?;
    tokio::time::sleep(Duration::from_secs(options.idle)).await;
    let later = process::usage(pid).context("the server is gone")?;
    Ok(json!({
        "run": run,
        "ready ms": round(took.as_secs_f64() * 1e3),
        "cpu to ready s": round(ready.cpu),
        "idle cpu %": round((later.cpu - ready.cpu) * 100.0 / options.idle.max(1) as f64),
        "rss MB": later.rss / 1024,
        "peak MB": later.peak / 1024,
    }))
}

async fn stop(server: &mut Child) -> Result<Duration> {
    let started = Instant::now();
    if let Some(pid) = server.id() {
        // By its id, which is ours until it has been waited for.
        let status = Command::new("kill").arg("-TERM").arg(pid.to_string()).status().await?;
        if !status.success() {
            server.start_kill()?;
        }
    }
    if tokio::time::timeout(GRACE, server.wait()).await.is_err() {
        server.kill().await?;
    }
    Ok(started.elapsed())
}

fn round(x: f64) -> serde_json::Value {
    json!((x * 100.0).round() / 100.0)
}

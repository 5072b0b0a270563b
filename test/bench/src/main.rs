//! `bench`: load on any Kubernetes API server, and what it cost.
//!
//! The client is as thin as it can be (bare hyper connections, bodies made ahead or by formatting,
//! answers counted and dropped), because on a small machine it shares the cores with what it measures.

mod args;
mod http;
mod load;
mod objects;
mod podstart;
mod process;
mod report;
mod start;
mod target;
mod watch;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use args::{AllArgs, Args, Command};
use load::Bench;
use report::Report;
use target::Target;

fn main() -> ExitCode {
    match start(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args) -> Result<()> {
    let mut runtime = match args.threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        n => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(n);
            builder
        }
    };
    runtime.enable_all().build()?.block_on(run(args))
}

async fn run(args: Args) -> Result<()> {
    let target = Target::from_args(&args.target)?;
    let mut pids = args.pid.clone();
    if pids.is_empty() && matches!(args.command, Command::Pods(_)) {
        // A node's benchmark is about its kubelet.
        pids.extend(process::only("kubelet").map(|pid| ("kubelet".to_owned(), pid)));
    }
    let mut report = Report::new(args.json, pids);
    match &args.command {
        Command::Start(options) => start::run(&target, options, &mut report).await?,
        Command::Pods(options) => podstart::run(&target, options, &mut report).await?,
        command => {
            let bench = Bench::new(target, &args.load).await?;
            bench.prepare().await?;
            steps(&bench, command, &mut report).await?;
        }
    }
    report.finish()
}

async fn steps(bench: &Bench, command: &Command, report: &mut Report) -> Result<()> {
    match command {
        Command::Create => bench.create(report).await,
        Command::Get(o) => bench.get(report, o).await,
        Command::List(o) => bench.list(report, o).await,
        Command::ListSelector(o) => bench.list_selector(report, o).await,
        Command::Patch(o) => bench.patch(report, o).await,
        Command::Delete => bench.delete(report).await,
        Command::Watch(o) => watch::run(bench, report, o).await,
        Command::All(o) => all(bench, o, report).await,
        Command::Start(_) | Command::Pods(_) => Ok(()),
    }
}

/// A step that does not work at all is reported, and the others still run.
async fn all(bench: &Bench, options: &AllArgs, report: &mut Report) -> Result<()> {
    bench.create(report).await?;
    for get in options.gets() {
        let done = bench.get(report, &get).await;
        report.note(done);
    }
    for list in options.lists() {
        let done = bench.list(report, &list).await;
        report.note(done);
    }
    for selector in options.selectors() {
        let done = bench.list_selector(report, &selector).await;
        report.note(done);
    }
    for patch in options.patches() {
        let done = bench.patch(report, &patch).await;
        report.note(done);
    }
    let done = watch::run(bench, report, &options.watch).await;
    report.note(done);
    bench.delete(report).await
}

//! Fuzzes the decoders for as long as one likes, and feeds one of them with a file again.

use anyhow::{Context, bail};
use clap::Parser;
use fuzz::{Report, TARGETS, Target};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser)]
#[command(name = "fuzz", about = "Fuzzes everything that decodes what clients send.")]
struct Options {
    /// Target, or `all`; left out, the targets are listed.
    target: Option<String>,
    /// Feed the target with this file only.
    file: Option<PathBuf>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Seed of the random numbers; the same seed makes the same inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    let Some(name) = &options.target else {
        TARGETS.iter().for_each(|t| println!("{}", t.name));
        return Ok(());
    };
    let chosen: Vec<&Target> = TARGETS.iter().filter(|t| name == "all" || t.name == name).collect();
    if chosen.is_empty() {
        bail!("no target is called {name}; without arguments the targets are listed");
    }
    for target in chosen {
        match &options.file {
            Some(file) => again(target, file)?,
            None => search(target, options)?,
        }
    }
    Ok(())
}

fn again(target: &Target, file: &PathBuf) -> anyhow::Result<()> {
    let input = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut report = Report::default();
    if let Err(finding) = fuzz::try_one(target, &input, &mut report) {
        bail!("{}: {}", target.name, finding.why);
    }
    println!("{}: survived; {} bytes at most, {:?}", target.name, report.peak, report.slowest);
    Ok(())
}

fn search(target: &Target, options: &Options) -> anyhow::Result<()> {
    println!("{}: {} s from seed {} …", target.name, options.seconds, options.seed);
    match fuzz::run(target, options.seed, Duration::from_secs(options.seconds)) {
        Ok(r) => {
            println!("  {} inputs, {} bytes at most, the slowest took {:?}", r.inputs, r.peak, r.slowest);
            Ok(())
        }
        Err(finding) => {
            let file = std::env::temp_dir().join(format!("fuzz-{}-{}.bin", target.name, options.seed));
            std::fs::write(&file, &finding.input)
                .with_context(|| format!("cannot write {}", file.display()))?;
            bail!("{}: {}; again with: fuzz {} {}", target.name, finding.why, target.name, file.display())
        }
    }
}

//! The steps of a test file, in order, on one cluster.
//!
//! libtest has no end of a whole file, at which a shared cluster could be taken down; so these files bring a
//! `main` of their own. Words on the command line choose steps by a part of their names.

use crate::bed::Bed;
use anyhow::Result;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

/// A named step.
pub type Step = (&'static str, fn(&Bed) -> Result<()>);

/// Runs the chosen steps on a new cluster, takes it down, and tells how it went.
pub fn run(cluster: &str, args: &[&str], steps: &[Step]) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|w| w == "--list") {
        steps.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = words.iter().filter(|w| !w.starts_with('-')).collect();
    let chosen = |name: &str| wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str()));
    let steps: Vec<&Step> = steps.iter().filter(|(name, _)| chosen(name)).collect();
    if steps.is_empty() {
        return ExitCode::SUCCESS;
    }
    let mut failed = Vec::new();
    match Bed::up(cluster, args) {
        Ok(mut bed) => {
            failed.extend(steps.iter().filter(|step| !passes(step, &bed)).map(|step| step.0));
            if !told("nothing is left of the cluster", Instant::now(), bed.down_and_gone()) {
                failed.push("nothing is left of the cluster");
            }
        }
        Err(e) => {
            println!("the cluster did not come up: {e:#}");
            failed.push("the cluster comes up");
        }
    }
    println!("{cluster}: {} of {} steps failed {failed:?}", failed.len(), steps.len() + 1);
    ExitCode::from(u8::from(!failed.is_empty()))
}

fn passes((name, step): &Step, bed: &Bed) -> bool {
    let begin = Instant::now();
    println!("     {name} …");
    let result = catch_unwind(AssertUnwindSafe(|| step(bed)));
    told(name, begin, result.unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked"))))
}

fn told(name: &str, begin: Instant, result: Result<()>) -> bool {
    let took = begin.elapsed().as_secs_f32();
    match &result {
        Ok(()) => println!("ok   {name} ({took:.1} s)"),
        Err(e) => println!("FAIL {name} ({took:.1} s): {e:#}"),
    }
    result.is_ok()
}

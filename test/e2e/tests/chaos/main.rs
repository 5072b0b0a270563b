//! `kill -9` of kubelet and containerd at random points while pods start, restart and end.
//!
//! Afterwards every pod is what the API says, nothing of the deleted ones is left on the node, and no container of a
//! pod that nobody touched was started anew. The points are drawn from a seed, which is printed; `BINNACLE_SEED` repeats
//! a run's draws.

use anyhow::{Result, ensure};
use e2e::{Bed, eventually, wait::when};
use std::process::ExitCode;
use std::time::{Duration, Instant};

mod dice;
mod node;
mod pods;

use dice::Dice;
use node::{Forgotten, Traces};
use pods::Kind;

const NODE: &str = "control-plane-1";
/// The whole test is to take no more than three minutes: this long it goes on breaking things.
const STORM: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    e2e::run::run(
        "chaos",
        &["--control-planes", "1", "--workers", "0"],
        &[("kubelet and containerd are killed, and nothing is lost or left", chaos)],
    )
}

fn chaos(bed: &Bed) -> Result<()> {
    let mut dice = Dice::from_env();
    println!("     BINNACLE_SEED={}", dice.seed());
    let before = Traces::of(bed)?;
    let undisturbed = pods::create_all(bed, "still", &[Kind::Plain, Kind::Sidecar])?;
    eventually("the undisturbed pods to be ready", SETTLE, || when(pods::all_settled(bed, &undisturbed)?))?;
    let first_runs = pods::runs(bed, "still")?;

    let mut forgotten = Forgotten::default();
    let mut alive: Vec<(String, Kind)> = Vec::new();
    let end = Instant::now() + STORM;
    for round in 0.. {
        if Instant::now() > end {
            break;
        }
        let kinds: Vec<Kind> = (0..3).map(|_| *dice.pick(&Kind::ALL)).collect();
        alive.extend(pods::create_all(bed, &format!("r{round}"), &kinds)?);
        dice.pause(1500);
        kill(bed, &mut dice, &mut forgotten)?;
        let leaving = alive.len() / 2;
        for _ in 0..leaving {
            let (name, _) = alive.swap_remove(dice.below(alive.len()));
            pods::delete(bed, &name)?;
        }
        dice.pause(1500);
        if dice.below(2) == 0 {
            kill(bed, &mut dice, &mut forgotten)?;
        }
        dice.pause(1500);
    }

    eventually("every pod to be what its spec asks for", SETTLE, || when(pods::all_settled(bed, &alive)?))?;
    eventually("the runtime to run what the API says", SETTLE, || {
        node::agrees(bed)?;
        Ok(Some(()))
    })?;
    let runs = pods::runs(bed, "still")?;
    ensure!(runs == first_runs, "an undisturbed pod was started anew: {first_runs:?}, now {runs:?}");

    forgotten.forget_known(bed)?;
    for (name, _) in alive.iter().chain(&undisturbed) {
        pods::delete(bed, name)?;
    }
    eventually("all pods to be gone", SETTLE, || pods::none_left(bed).map(Some))?;
    eventually("nothing to be left of them", SETTLE, || {
        let left = forgotten.excuse(Traces::of(bed)?.beyond(&before));
        ensure!(left.is_empty(), "left on the node: {left:#?}");
        Ok(Some(()))
    })
}

/// Kills one of the two, or both at once.
fn kill(bed: &Bed, dice: &mut Dice, forgotten: &mut Forgotten) -> Result<()> {
    let victims: &[&str] = match dice.below(5) {
        0 | 1 => &["kubelet"],
        2 | 3 => &["containerd"],
        _ => &["kubelet", "containerd"],
    };
    println!("     killed: {}", victims.join(" and "));
    for victim in victims {
        match bed.component(NODE, "kill", victim) {
            // The last kill was just now.
            Err(error) if format!("{error:#}").contains("is not running") => {}
            other => drop(other?),
        }
    }
    if victims.contains(&"containerd") {
        forgotten.note(bed)?;
    }
    Ok(())
}

//! Fuzzing of everything that decodes what clients send: no input may panic, or make a decoder allocate without bound.
//!
//! [`targets`] are functions over bytes, [`seeds`] where their inputs start from (one valid object of every kind),
//! [`mutate`] how they are spoilt, and [`run`] the loop: it is told its random seed, so that a run can be repeated.

pub mod mutate;
pub mod seeds;
pub mod targets;

use peak_alloc::PeakAlloc;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
pub use targets::{TARGETS, Target};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What decoding may take beside what it takes for each byte of its input.
const FREE_BYTES: usize = 8 << 20;
/// What decoding may take for each byte of its input: trees of small nodes are much larger than their text.
const BYTES_PER_BYTE: usize = 512;

/// What a run has seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    pub inputs: u64,
    /// Most bytes that one input made its target allocate.
    pub peak: usize,
    pub slowest: Duration,
}

/// An input that a target did not survive.
#[derive(Debug)]
pub struct Finding {
    pub why: String,
    pub input: Vec<u8>,
}

/// Feeds a target with spoilt seeds until the time is over or it fails.
pub fn run(target: &Target, seed: u64, time: Duration) -> Result<Report, Finding> {
    let mut rng = StdRng::seed_from_u64(seed);
    let seeds = (target.seeds)();
    let mut report = Report::default();
    for input in &seeds {
        try_one(target, input, &mut report)?;
    }
    let start = Instant::now();
    while start.elapsed() < time {
        let input = mutate::input(&mut rng, &seeds);
        try_one(target, &input, &mut report)?;
    }
    Ok(report)
}

/// Feeds a target with one input.
pub fn try_one(target: &Target, input: &[u8], report: &mut Report) -> Result<(), Finding> {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let start = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let taken = start.elapsed();
    let peak = ALLOCATOR.peak_usage().saturating_sub(before);
    report.inputs += 1;
    report.peak = report.peak.max(peak);
    report.slowest = report.slowest.max(taken);
    let finding = |why: String| Finding { why, input: input.to_vec() };
    if outcome.is_err() {
        return Err(finding("panicked".into()));
    }
    let allowed = FREE_BYTES + input.len() * BYTES_PER_BYTE;
    if peak > allowed {
        return Err(finding(format!("allocated {peak} bytes for {} (allowed: {allowed})", input.len())));
    }
    Ok(())
}

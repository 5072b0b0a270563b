//! Every target, for a bounded time each (`FUZZ_SECONDS`, 2 if unset). `target/debug/fuzz` goes on for longer.

use std::time::Duration;

#[test]
fn no_decoder_panics_or_allocates_without_bound() {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(2);
    let seed = std::env::var("FUZZ_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    for target in fuzz::TARGETS {
        match fuzz::run(target, seed, Duration::from_secs(seconds)) {
            Ok(r) => println!(
                "{}: {} inputs, {} bytes at most, slowest {:?}",
                target.name, r.inputs, r.peak, r.slowest
            ),
            Err(f) => {
                panic!("{} {} (seed {seed}): {:?}", target.name, f.why, String::from_utf8_lossy(&f.input))
            }
        }
    }
}

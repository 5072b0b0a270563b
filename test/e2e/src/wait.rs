//! Conditions that have to come true in time.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Long enough for anything that a loaded machine of two cores does in the background.
pub const SOON: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Asks until `look` answers `Some`; an error counts as "not yet" and is told when the time is over.
pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        let last = match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(e) => Some(e),
        };
        if Instant::now() > end {
            match last {
                Some(e) => bail!("waited {limit:?} in vain for {what}: {e:#}"),
                None => bail!("waited {limit:?} in vain for {what}"),
            }
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// `Some` if the condition holds; makes conditions fit [`eventually`].
pub fn when(condition: bool) -> Result<Option<()>> {
    Ok(condition.then_some(()))
}

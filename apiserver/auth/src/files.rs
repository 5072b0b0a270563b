//! Files that are read again when they change, so that a rotated or revoked credential counts
//! without a restart. The check is one `stat` a few seconds apart at most, made by whoever needs the
//! content next; there is no task and no timer.

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

const CHECK_EVERY: Duration = Duration::from_secs(2);

type Parse<T> = Box<dyn Fn(&[u8]) -> anyhow::Result<T> + Send + Sync>;

/// The parsed content of a file. A version that does not parse is logged and the last good one stays.
pub struct Reloading<T> {
    path: PathBuf,
    parse: Parse<T>,
    current: ArcSwap<T>,
    seen: Mutex<Seen>,
}

struct Seen {
    checked: Instant,
    stamp: Option<(SystemTime, u64, u64)>,
}

fn stamp(path: &Path) -> Option<(SystemTime, u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len(), meta.ino()))
}

impl<T: Send + Sync + 'static> Reloading<T> {
    /// Reads the file now; an error names it.
    pub fn open(
        path: impl Into<PathBuf>,
        parse: impl Fn(&[u8]) -> anyhow::Result<T> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        use anyhow::Context;
        let path = path.into();
        let stamp = stamp(&path);
        let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let value = parse(&bytes).with_context(|| format!("in {}", path.display()))?;
        Ok(Reloading {
            path,
            parse: Box::new(parse),
            current: ArcSwap::from_pointee(value),
            seen: Mutex::new(Seen { checked: Instant::now(), stamp }),
        })
    }

    pub fn get(&self) -> Arc<T> {
        if let Some(mut seen) = self.seen.try_lock()
            && seen.checked.elapsed() >= CHECK_EVERY
        {
            seen.checked = Instant::now();
            self.refresh(&mut seen);
        }
        self.current.load_full()
    }

    fn refresh(&self, seen: &mut Seen) {
        let now = stamp(&self.path);
        if now.is_none() || now == seen.stamp {
            return;
        }
        let loaded = std::fs::read(&self.path).map_err(anyhow::Error::from).and_then(|b| (self.parse)(&b));
        match loaded {
            Ok(value) => {
                seen.stamp = now;
                self.current.store(Arc::new(value));
                tracing::info!(path = %self.path.display(), "reloaded");
            }
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "not reloaded, the last good content stays")
            }
        }
    }

    /// Checks the file at once, whatever the interval.
    #[cfg(test)]
    pub(crate) fn check_now(&self) {
        self.refresh(&mut self.seen.lock());
    }
}

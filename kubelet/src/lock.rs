//! The lock file: of several kubelets that share one, only one runs at a time, and it can be made to give way.

use std::fs::{File, OpenOptions};
use std::path::Path;

use anyhow::{Context, bail};
use component::Flags;
use nix::fcntl::{Flock, FlockArg};
use notify::event::{AccessKind, EventKind, RemoveKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio_util::sync::CancellationToken;

/// Held as long as the kubelet runs.
pub struct Held {
    _lock: Option<Flock<File>>,
    _watcher: Option<RecommendedWatcher>,
}

/// Takes the lock that the flags name, and waits for it. With `--exit-on-lock-contention` whoever opens the file
/// afterwards ends the kubelet.
pub async fn acquire(flags: &Flags, shutdown: &CancellationToken) -> anyhow::Result<Held> {
    let give_way = flags.bool("exit-on-lock-contention");
    let Some(path) = flags.opt("lock-file").filter(|p| !p.is_empty()) else {
        if give_way {
            bail!("cannot exit on lock file contention: no lock file specified");
        }
        return Ok(Held { _lock: None, _watcher: None });
    };
    tracing::info!(path, "Acquiring file lock");
    let own = path.to_string();
    let lock = tokio::task::spawn_blocking(move || take(Path::new(&own))).await?;
    let lock = lock.with_context(|| format!("unable to acquire file lock on {path:?}"))?;
    let watcher = match give_way {
        true => Some(watch(Path::new(path), shutdown.clone())?),
        false => None,
    };
    Ok(Held { _lock: Some(lock), _watcher: watcher })
}

fn take(path: &Path) -> anyhow::Result<Flock<File>> {
    let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
}

fn watch(path: &Path, shutdown: CancellationToken) -> anyhow::Result<RecommendedWatcher> {
    tracing::info!(path = %path.display(), "Watching for inotify events");
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        if matches!(
            event.kind,
            EventKind::Access(AccessKind::Open(_)) | EventKind::Remove(RemoveKind::File | RemoveKind::Any)
        ) {
            tracing::info!("Inotify event on the lock file: giving way");
            shutdown.cancel();
        }
    })
    .context("unable to create watcher for lockfile")?;
    watcher.watch(path, RecursiveMode::NonRecursive).context("unable to watch lockfile")?;
    Ok(watcher)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_opens_the_file_is_given_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let _lock = take(&path).unwrap();
        let shutdown = CancellationToken::new();
        let _watcher = watch(&path, shutdown.clone()).unwrap();
        assert!(Flock::lock(File::open(&path).unwrap(), FlockArg::LockExclusiveNonblock).is_err());
        tokio::time::timeout(std::time::Duration::from_secs(20), shutdown.cancelled()).await.unwrap();
    }
}

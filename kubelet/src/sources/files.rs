//! Static pods from a folder of manifests (or a single file), watched for changes.

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use notify::{RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Source;
use super::manifest::{self, Origin};
use crate::pod::PodExt;
use crate::pods::Update;

/// A manifest larger than this is a mistake.
const MAX_BYTES: u64 = 10 << 20;

/// Follows the folder until the shutdown; looks again at `interval` even if nothing seems to have changed.
pub async fn run(
    path: PathBuf,
    node: String,
    interval: Duration,
    updates: mpsc::Sender<Update>,
    shutdown: CancellationToken,
) {
    let (hint, mut hints) = mpsc::channel(1);
    let gone = Arc::new(Mutex::new(HashSet::new()));
    let noted = gone.clone();
    let notice = move |event: notify::Result<notify::Event>| {
        if let Ok(event) = &event {
            // Looking at the folder is an event, too: that one must not make us look again.
            if event.kind.is_access() {
                return;
            }
            if is_removal(event.kind) {
                noted.lock().extend(event.paths.iter().cloned());
            }
        }
        // A full channel has a hint in it already.
        let _ = hint.try_send(());
    };
    let mut watcher = notify::recommended_watcher(notice);
    if let Ok(watcher) = &mut watcher
        && let Err(error) = watcher.watch(&path, RecursiveMode::NonRecursive)
    {
        tracing::warn!(path = %path.display(), %error, "Cannot watch static pods; looking at intervals");
    }
    let mut last: Option<Vec<Manifest>> = None;
    loop {
        let removed = std::mem::take(&mut *gone.lock());
        if let Some(last) = last.as_mut().filter(|_| !removed.is_empty()) {
            // A file that went and came back means another run of its pod, even if it says the same.
            let before = last.len();
            last.retain(|(file, _)| !removed.contains(file));
            let update = Update::Static(Source::File, pods_of(last));
            if last.len() != before && updates.send(update).await.is_err() {
                return;
            }
        }
        let (at, name) = (path.clone(), node.clone());
        let found = tokio::task::spawn_blocking(move || read_all(&at, &name)).await.unwrap_or_default();
        let same = last.as_ref().is_some_and(|last| identities(last) == identities(&found));
        if !same {
            let pods = pods_of(&found);
            last = Some(found);
            if updates.send(Update::Static(Source::File, pods)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
            // A file is often written in several steps.
            Some(()) = hints.recv() => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Whether a file went away, by being deleted or moved.
fn is_removal(kind: notify::EventKind) -> bool {
    use notify::event::{EventKind, ModifyKind, RenameMode};
    matches!(kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)))
}

/// A file and its pod.
type Manifest = (PathBuf, Pod);

fn pods_of(manifests: &[Manifest]) -> Vec<Pod> {
    manifests.iter().map(|(_, pod)| pod.clone()).collect()
}

fn identities(manifests: &[Manifest]) -> Vec<&str> {
    manifests.iter().map(|(_, pod)| pod.uid()).collect()
}

/// Reads all manifests in the order of their names; a bad one is logged and skipped.
fn read_all(path: &Path, node: &str) -> Vec<Manifest> {
    let mut files: Vec<PathBuf> = match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => {
            std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path()).collect()
        }
        Ok(_) => vec![path.to_path_buf()],
        Err(_) => return Vec::new(),
    };
    // Editors and atomic writers leave hidden files.
    files.retain(|f| f.file_name().and_then(|n| n.to_str()).is_some_and(|n| !n.starts_with('.')));
    files.sort();
    let mut pods = Vec::new();
    for file in files {
        match std::fs::metadata(&file) {
            Ok(meta) if meta.is_file() => {}
            Ok(meta) if meta.is_dir() => {
                tracing::debug!(path = %file.display(), "Not recursing into manifest path");
                continue;
            }
            Ok(_) => {
                tracing::error!(path = %file.display(), "Manifest path is not a directory or file");
                continue;
            }
            Err(error) => {
                tracing::error!(path = %file.display(), %error, "Could not process manifest file");
                continue;
            }
        }
        match read_one(&file, node) {
            Ok(pod) => pods.push((file, pod)),
            Err(error) => tracing::error!(file = %file.display(), error, "Could not process manifest file"),
        }
    }
    pods
}

fn read_one(file: &Path, node: &str) -> Result<Pod, String> {
    // Never more than that is read, also of a file that grows meanwhile.
    let opened = std::fs::File::open(file).map_err(|e| e.to_string())?;
    let mut text = String::new();
    opened.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|e| e.to_string())?;
    if text.len() as u64 > MAX_BYTES {
        return Err(format!("larger than {MAX_BYTES} bytes"));
    }
    let place = file.to_string_lossy();
    manifest::parse(&text, Origin { source: Source::File, place: &place, node })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_file_does_not_hide_the_others() {
        let text =
            "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: x}]}\n";
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.yaml"), text).unwrap();
        std::fs::write(dir.path().join("b.yaml"), "broken: [").unwrap();
        std::fs::write(dir.path().join("c.yaml"), text.replace("image: x", "image: y")).unwrap();
        std::fs::write(dir.path().join("d.yaml"), b"\xff\xfe").unwrap();
        std::fs::write(dir.path().join(".e.yaml"), text.replace("web", "hidden")).unwrap();
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        for (from, to) in [("loop1", "loop2"), ("loop2", "loop1"), ("gone", "/nonexistent")] {
            std::os::unix::fs::symlink(to, dir.path().join(from)).unwrap();
        }
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        std::fs::write(dir.path().join("large"), vec![b'#'; MAX_BYTES as usize + 1]).unwrap();
        assert_eq!(read_all(dir.path(), "n").len(), 2, "the first of a name is for the pods to choose");
    }
}

//! A configuration file that changes ends the proxy, so that whoever runs it starts it anew with the new one.

use std::path::Path;

use anyhow::{Context, bail};
use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Ends with an error when the file's content has changed, with nothing at shutdown.
///
/// The directory is watched rather than the file: a mounted ConfigMap changes by a link that is replaced beside it.
pub async fn watch(path: String, shutdown: CancellationToken) -> anyhow::Result<()> {
    let before = std::fs::read(&path).with_context(|| format!("open {path}"))?;
    let (sender, mut events) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Full means that a look is due already.
        if event.is_ok_and(|e| !e.kind.is_access()) {
            let _ = sender.try_send(());
        }
    })?;
    let dir = Path::new(&path).parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    watcher
        .watch(dir, RecursiveMode::NonRecursive)
        .with_context(|| format!("cannot watch {}", dir.display()))?;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = events.recv() => {}
        }
        // A file that is gone for a moment is being replaced.
        if std::fs::read(&path).is_ok_and(|now| now != before) {
            bail!("content of the proxy server's configuration file was updated");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn another_content_ends_it_and_the_same_does_not() {
        let dir = std::env::temp_dir().join(format!("kube-proxy-reload-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (file, other) = (dir.join("config"), dir.join("new"));
        std::fs::write(&file, "a").unwrap();
        let stop = CancellationToken::new();
        let path = file.to_string_lossy().into_owned();
        let task = tokio::spawn(watch(path, stop));
        tokio::time::sleep(Duration::from_millis(50)).await;
        std::fs::write(&file, "a").unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!task.is_finished());
        std::fs::write(&other, "b").unwrap();
        std::fs::rename(&other, &file).unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(10), task).await.expect("ends").unwrap();
        assert!(ended.unwrap_err().to_string().contains("was updated"));
        let _ = std::fs::remove_dir_all(dir);
    }
}

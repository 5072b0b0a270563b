//! Rotation of container logs: a log that has grown too large is set aside and later compressed; the oldest go.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cri::v1;
use futures::StreamExt;

use crate::kubelet::Kubelet;

/// Rotates the logs of all running containers that need it.
pub async fn rotate(kubelet: &Kubelet) -> cri::Result<()> {
    let most = volumes::quantity::units(&kubelet.config.container_log_max_size).unwrap_or(10 << 20);
    let keep = usize::try_from(kubelet.config.container_log_max_files).unwrap_or(5);
    let large = large_logs(&kubelet.config.pod_logs_dir(), u64::try_from(most).unwrap_or(u64::MAX));
    if most <= 0 || large.is_empty() {
        return Ok(());
    }
    let state = Some(v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning as i32 });
    let running =
        kubelet.runtime.list_containers(Some(v1::ContainerFilter { state, ..Default::default() })).await?;
    let workers = usize::try_from(kubelet.config.container_log_max_workers).unwrap_or(1).max(1);
    let large = &large;
    let mut work = Vec::with_capacity(running.len());
    for container in running {
        work.push(async move {
            if let Err(error) = rotate_one(kubelet, &container.id, large, keep).await {
                tracing::warn!(container = container.id, error, "Failed to rotate log for container");
            }
        });
    }
    futures::stream::iter(work).buffer_unordered(workers).collect::<()>().await;
    Ok(())
}

async fn rotate_one(kubelet: &Kubelet, id: &str, large: &[PathBuf], keep: usize) -> Result<(), String> {
    let status = kubelet.runtime.container_status(id, false).await.map_err(|e| e.to_string())?.status;
    let Some(log) = status.map(|s| PathBuf::from(s.log_path)).filter(|log| large.contains(log)) else {
        return Ok(());
    };
    let moved = log.clone();
    let aside = tokio::task::spawn_blocking(move || set_aside(&moved, keep)).await;
    let aside = aside.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    if let Err(error) = kubelet.runtime.reopen_container_log(id).await {
        // Nobody would write to the old name any more: it is put back.
        let _ = fs::rename(&aside, &log);
        return Err(error.to_string());
    }
    Ok(())
}

/// Current logs that are too large. Only names as the runtime gives them count; links are not followed.
fn large_logs(dir: &Path, most: u64) -> Vec<PathBuf> {
    let entries =
        |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect::<Vec<_>>();
    let containers = entries(dir).into_iter().flat_map(|pod| entries(&pod));
    let files = containers.filter(|c| c.is_dir() && !c.is_symlink()).flat_map(|c| entries(&c));
    files
        .filter(|f| f.extension().is_some_and(|e| e == "log"))
        .filter(|f| fs::symlink_metadata(f).is_ok_and(|m| m.is_file() && m.len() >= most))
        .collect()
}

/// Moves a log aside, compresses the one before, and removes what is too many.
fn set_aside(log: &Path, keep: usize) -> io::Result<PathBuf> {
    let (unfinished, mut old): (Vec<_>, Vec<_>) =
        rotated(log).into_iter().partition(|p| p.extension().is_some_and(|e| e == "tmp"));
    for path in unfinished {
        fs::remove_file(path)?;
    }
    // The current log counts as one, the one set aside now as another.
    while old.len() + 2 > keep.max(2) {
        fs::remove_file(old.remove(0))?;
    }
    for path in old.iter().filter(|p| p.extension().is_none_or(|e| e != "gz")) {
        compress(path)?;
    }
    let stamp = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S");
    let mut aside = log.as_os_str().to_owned();
    aside.push(format!(".{stamp}"));
    let aside = PathBuf::from(aside);
    fs::rename(log, &aside)?;
    Ok(aside)
}

/// The logs set aside before, oldest first.
fn rotated(log: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|n| n.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(&prefix)))
        .map(|e| e.path())
        .collect();
    found.sort();
    found
}

fn compress(path: &Path) -> io::Result<()> {
    let mut target = path.as_os_str().to_owned();
    target.push(".gz");
    let mut tmp = path.as_os_str().to_owned();
    tmp.push(".tmp");
    let mut encoder = flate2::write::GzEncoder::new(fs::File::create(&tmp)?, flate2::Compression::default());
    io::copy(&mut fs::File::open(path)?, &mut encoder)?;
    encoder.finish()?;
    fs::rename(&tmp, &target)?;
    fs::remove_file(path)
}

/// Removes a log and those set aside of it.
pub fn remove_all(log: &Path) {
    for path in rotated(log) {
        let _ = fs::remove_file(path);
    }
    let _ = fs::remove_file(log);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_as_many_as_told() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        for stamp in ["1", "2.gz", "3", "3.tmp"] {
            fs::write(dir.path().join(format!("0.log.{stamp}")), "old").unwrap();
        }
        fs::write(&log, "now").unwrap();
        let aside = set_aside(&log, 3).unwrap();
        assert!(!log.exists() && aside.exists());
        let left: Vec<_> =
            rotated(&log).iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_string()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(left.contains(&"0.log.3.gz".to_string()), "{left:?}");
        remove_all(&log);
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
    }
}

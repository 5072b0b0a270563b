//! Housekeeping: logs that grow, containers and sandboxes that are long dead, images nobody needs, folders and cgroups
//! of pods that are no more.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cri::v1;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::kubelet::Kubelet;
use crate::{eviction, labels};

mod logs;
mod policy;

pub use policy::Policy;

/// How often dead things are looked for.
const PERIOD: Duration = Duration::from_secs(60);
/// How often the images are looked at.
const IMAGE_PERIOD: Duration = Duration::from_secs(300);

/// How long the volumes of an orphan may take to come down before others are looked after.
const TEAR_DOWN: Duration = Duration::from_secs(15);

/// Keeps house until the shutdown.
pub async fn run(kubelet: Arc<Kubelet>, shutdown: CancellationToken) {
    let rotation = kubelet.config.container_log_monitor_interval.max(Duration::from_secs(3));
    let mut rotate = tokio::time::interval(rotation);
    let mut sweep = tokio::time::interval_at(tokio::time::Instant::now() + PERIOD, PERIOD);
    let mut images = tokio::time::interval_at(tokio::time::Instant::now() + IMAGE_PERIOD, IMAGE_PERIOD);
    let mut images_failed = false;
    let mut busy = HashMap::new();
    note_images(&kubelet).await;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = rotate.tick() => {
                if let Err(error) = logs::rotate(&kubelet).await {
                    tracing::debug!(%error, "Log rotation failed");
                }
            }
            _ = sweep.tick() => {
                if let Err(error) = collect_dead(&kubelet, false).await {
                    tracing::warn!(%error, "Container garbage collection failed");
                    kubelet.events.node("Warning", "ContainerGCFailed", &error.to_string());
                }
                collect_orphans(&kubelet, &mut busy).await;
            }
            _ = images.tick() => {
                let failed_before = std::mem::take(&mut images_failed);
                if let Err(error) = collect_images(&kubelet, false).await {
                    tracing::warn!(error, "Image garbage collection failed");
                    images_failed = true;
                    // Once may be by chance.
                    if failed_before {
                        kubelet.events.node("Warning", "ImageGCFailed", &error);
                    }
                }
            }
        }
    }
}

/// Removes dead containers but the newest of each name, and dead sandboxes but the newest of each pod. With `ended`, pods
/// that have run to their end keep none of their containers.
async fn collect_dead(kubelet: &Kubelet, ended: bool) -> cri::Result<()> {
    let runtime = &kubelet.runtime;
    let (containers, sandboxes) =
        tokio::try_join!(runtime.list_containers(None), runtime.list_pod_sandbox(None))?;
    let mut by_name: HashMap<(String, String), Vec<&v1::Container>> = HashMap::new();
    // One that was made and never started is as dead as one that has ended: the newest of its name stays anyway.
    let dead = [v1::ContainerState::ContainerExited as i32, v1::ContainerState::ContainerCreated as i32];
    for container in containers.iter().filter(|c| dead.contains(&c.state)) {
        let label = |key: &str| container.labels.get(key).cloned().unwrap_or_default();
        let key = (label(labels::POD_UID), label(labels::CONTAINER_NAME));
        if !key.0.is_empty() && !key.1.is_empty() {
            by_name.entry(key).or_default().push(container);
        }
    }
    let gone = |uid: &str| ended && kubelet.pods.end_of(uid).is_some_and(|end| *end.borrow());
    let now = i64::try_from(nanos_now()).unwrap_or(i64::MAX);
    let young = |c: &v1::Container| now.saturating_sub(c.created_at) < kubelet.container_gc.min_age_nanos();
    let mut units = Vec::new();
    for ((uid, _), mut dead) in by_name {
        dead.sort_by_key(|c| std::cmp::Reverse(c.created_at));
        if gone(&uid) {
            for old in dead {
                remove(kubelet, &old.id).await;
            }
            continue;
        }
        dead.retain(|c| !young(c));
        units.push(dead.into_iter().map(|c| (c.id.clone(), c.created_at)).collect());
    }
    for old in kubelet.container_gc.surplus(units) {
        remove(kubelet, &old).await;
    }
    let mut by_pod: HashMap<String, Vec<&v1::PodSandbox>> = HashMap::new();
    for sandbox in &sandboxes {
        let Some(meta) = &sandbox.metadata else { continue };
        by_pod.entry(meta.uid.clone()).or_default().push(sandbox);
    }
    for list in by_pod.values_mut() {
        list.sort_by_key(|s| std::cmp::Reverse(s.created_at));
        for old in list.iter().skip(1) {
            let dead = old.state == v1::PodSandboxState::SandboxNotready as i32;
            let empty = !containers.iter().any(|c| c.pod_sandbox_id == old.id);
            if dead && empty {
                let _ = runtime.remove_pod_sandbox(&old.id).await;
            }
        }
    }
    Ok(())
}

/// Nanoseconds since 1970, as runtimes count.
fn nanos_now() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos())
}

/// Removes a dead container with its log.
pub async fn remove(kubelet: &Kubelet, id: &str) {
    let log =
        kubelet.runtime.container_status(id, false).await.ok().and_then(|r| r.status).map(|s| s.log_path);
    if kubelet.runtime.remove_container(id).await.is_ok()
        && let Some(log) = log.filter(|log| is_below(Path::new(log), &kubelet.config.pod_logs_dir()))
    {
        logs::remove_all(Path::new(&log));
    }
}

/// Whether a path that the runtime told lies in a folder, and does not only begin like it.
fn is_below(path: &Path, dir: &Path) -> bool {
    path.starts_with(dir) && !path.components().any(|part| matches!(part, std::path::Component::ParentDir))
}

/// Takes an orphan's volumes and its folder away; `false` if that failed.
async fn tear_down(kubelet: Arc<Kubelet>, uid: String, path: PathBuf) -> bool {
    let done = match kubelet.volumes.tear_down(&uid).await {
        Ok(()) => volumes::teardown::pod_dir(&path),
        failed => failed,
    };
    if let Err(error) = &done {
        tracing::warn!(path = %path.display(), %error, "Orphaned pod folder cannot be removed");
    }
    done.is_ok()
}

/// Takes down what pods have left that neither a source nor the runtime knows. What takes too long is `busy`.
async fn collect_orphans(kubelet: &Arc<Kubelet>, busy: &mut HashMap<String, JoinHandle<bool>>) {
    if !kubelet.pods.all_known() {
        return;
    }
    let active = kubelet.pods.active();
    kubelet.managers.retain(&active.iter().map(|p| p.metadata.uid.clone().unwrap_or_default()).collect());
    for uid in kubelet.drivers.pods() {
        if kubelet.pods.get(&uid).is_none()
            && let Err(error) = kubelet.drivers.unprepare(&uid).await
        {
            tracing::warn!(uid, error, "Dynamic resources of an orphan are not taken back yet");
        }
    }
    let Ok(sandboxes) = kubelet.runtime.list_pod_sandbox(None).await else { return };
    let mut known: HashSet<String> =
        sandboxes.into_iter().filter_map(|s| s.metadata).map(|m| m.uid).collect();
    known.extend(kubelet.pods.all().iter().map(|d| d.pod.metadata.uid.clone().unwrap_or_default()));
    for uid in kubelet.cgroups.pods() {
        if !known.contains(&uid) {
            kubelet.cgroups.remove_pod(&uid);
        }
    }
    let (mut removed, mut failed) = (0, 0);
    busy.retain(|_, work| !work.is_finished());
    for entry in std::fs::read_dir(kubelet.root.join("pods")).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(uid) = name.to_str().filter(|uid| !known.contains(*uid)) else { continue };
        if busy.contains_key(uid) {
            failed += 1;
            continue;
        }
        let mut work = tokio::spawn(tear_down(kubelet.clone(), uid.to_string(), entry.path()));
        // A volume whose server is gone may never come down: the rest of the house is kept nevertheless.
        match tokio::time::timeout(TEAR_DOWN, &mut work).await {
            Ok(Ok(true)) => removed += 1,
            Ok(_) => failed += 1,
            Err(_) => {
                failed += 1;
                tracing::warn!(uid, "The volumes of an orphan do not come down");
                busy.insert(uid.to_string(), work);
            }
        }
    }
    crate::metrics::node::orphans(removed, failed);
    volumes::csi::sweep(&kubelet.volumes).await;
    let logs = kubelet.config.pod_logs_dir();
    let sweep = move || {
        for entry in std::fs::read_dir(logs).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let uid = name.to_str().and_then(|n| n.rsplit('_').next());
            if uid.is_some_and(|uid| !known.contains(uid)) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        for entry in std::fs::read_dir("/var/log/containers").into_iter().flatten().flatten() {
            // A link whose log is gone.
            if entry.path().is_symlink() && !entry.path().exists() {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    };
    let _ = tokio::task::spawn_blocking(sweep).await;
}

/// Removes what nobody needs: dead containers, those of ended pods included, and unused images.
pub async fn free_disk(kubelet: &Kubelet, containers: bool, images: bool) {
    if containers && let Err(error) = collect_dead(kubelet, true).await {
        tracing::warn!(%error, "Container garbage collection failed");
    }
    if images && let Err(error) = collect_images(kubelet, true).await {
        tracing::warn!(error, "Image garbage collection failed");
    }
}

/// Notes the images that are there when the kubelet begins: for all that is known they have been there for long.
async fn note_images(kubelet: &Kubelet) {
    let Ok(images) = kubelet.runtime.list_images(None).await else { return };
    let now = SystemTime::now();
    let mut used = kubelet.image_use.0.lock();
    used.extend(images.into_iter().map(|image| (image.id, (SystemTime::UNIX_EPOCH, now))));
}

/// When each image was first seen and last used.
#[derive(Default)]
pub struct ImageUse(Mutex<HashMap<String, (SystemTime, SystemTime)>>);

/// Removes the images that were not used for longest until the disk is no longer too full.
async fn collect_images(kubelet: &Kubelet, all: bool) -> Result<(), String> {
    let runtime = &kubelet.runtime;
    let (images, containers) = tokio::try_join!(runtime.list_images(None), runtime.list_containers(None))
        .map_err(|e| e.to_string())?;
    let now = SystemTime::now();
    let present: Vec<String> = images.iter().map(|i| i.id.clone()).collect();
    kubelet.images.prune(&present, now - IMAGE_PERIOD);
    // Older runtimes do not call the image of their sandboxes pinned, and without it no pod begins.
    let sandboxes = runtime.sandbox_image().await.unwrap_or_default();
    let in_use: HashSet<String> = containers
        .into_iter()
        .flat_map(|c| [c.image_ref, c.image_id, c.image.map(|i| i.image).unwrap_or_default()])
        .chain([sandboxes])
        .filter(|id| !id.is_empty())
        .collect();
    let is_used = |image: &v1::Image| {
        image.pinned
            || in_use.contains(&image.id)
            || image.repo_tags.iter().chain(&image.repo_digests).any(|n| in_use.contains(n))
    };
    let mut candidates = {
        let mut used = kubelet.image_use.0.lock();
        used.retain(|id, _| images.iter().any(|i| i.id == *id));
        for image in &images {
            let entry = used.entry(image.id.clone()).or_insert((now, now));
            if is_used(image) {
                entry.1 = now;
            }
        }
        let free = images.iter().filter(|i| !is_used(i));
        free.map(|i| (used.get(&i.id).copied().unwrap_or((now, now)), i)).collect::<Vec<_>>()
    };
    candidates.sort_by_key(|((seen, last), _)| (*last, *seen));
    let disk = image_disk(kubelet).await;
    if disk.is_none() && !all {
        let message = "invalid capacity 0 on image filesystem";
        kubelet.events.node("Warning", "InvalidDiskCapacity", message);
        return Err(message.into());
    }
    let age = |since: SystemTime| now.duration_since(since).unwrap_or_default();
    let maximum = kubelet.config.image_maximum_gc_age;
    let wanted = disk.map_or(0, |left| bytes_to_free(kubelet, left));
    let mut to_free = if all { i64::MAX } else { wanted };
    let mut errors: Vec<String> = Vec::new();
    for ((seen, last), image) in candidates {
        let too_old = !maximum.is_zero() && age(last) > maximum;
        let old_enough = age(seen) >= kubelet.config.image_minimum_gc_age;
        if too_old || (to_free > 0 && old_enough) {
            let spec = v1::ImageSpec { image: image.id.clone(), ..Default::default() };
            tracing::info!(image = image.id, size = image.size, "Removing image to free bytes");
            if let Err(error) = runtime.remove_image(spec).await {
                // One that does not go is no reason to keep the others.
                errors.push(error.to_string());
                continue;
            }
            crate::metrics::image_collected(if too_old { "age" } else { "space" });
            to_free -= i64::try_from(image.size).unwrap_or(0);
        }
    }
    if let Some(left) = disk
        && to_free > 0
        && !all
    {
        let message = format!(
            "Insufficient free disk space on the node's image filesystem ({}% of {} used). Failed to free sufficient space by deleting unused images (freed {} bytes). Investigate disk usage, as it could be used by active images, logs, volumes, or other data.",
            percent_used(left),
            shown(left.capacity),
            wanted - to_free
        );
        kubelet.events.node("Warning", "FreeDiskSpaceFailed", &message);
        return Err(message);
    }
    if !errors.is_empty() {
        return Err(format!("failed to remove images: [{}]", errors.join(", ")));
    }
    Ok(())
}

/// An amount as people read it: `12.3 GiB`.
fn shown(bytes: i64) -> String {
    let mut value = bytes as f64;
    for suffix in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return format!("{value:.1} {suffix}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// What is left of the disk of images; `None` if it cannot be told.
async fn image_disk(kubelet: &Kubelet) -> Option<eviction::signals::Left> {
    let places = kubelet.places.get(&kubelet.runtime).await;
    let path = places.images.as_deref().unwrap_or(kubelet.root());
    eviction::signals::disk(path, false).filter(|l| l.capacity > 0)
}

fn percent_used(left: eviction::signals::Left) -> i64 {
    100 - left.available.saturating_mul(100) / left.capacity
}

/// How much of the image disk is above the low mark, once it is above the high one.
fn bytes_to_free(kubelet: &Kubelet, left: eviction::signals::Left) -> i64 {
    let used = percent_used(left);
    if kubelet.config.image_gc_high_threshold_percent >= 100
        || used < i64::from(kubelet.config.image_gc_high_threshold_percent)
    {
        return 0;
    }
    let keep_free = left.capacity * i64::from(100 - kubelet.config.image_gc_low_threshold_percent) / 100;
    (keep_free - left.available).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_lie_in_their_folder() {
        let dir = Path::new("/var/log/pods");
        for (path, below) in [
            ("/var/log/pods/a/c/0.log", true),
            ("/var/log/pods/../../../etc/shadow", false),
            ("/var/log/podsx/0.log", false),
        ] {
            assert_eq!(is_below(Path::new(path), dir), below, "{path}");
        }
    }
}

//! Gives a volume to the pod's `fsGroup`.
//!
//! Whoever else uses the volume may swap a file for a link at any moment: what is changed is always what was looked
//! at, by its descriptor, and no link is followed.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{Gid, fchownat};

use crate::manager::blocking;
use crate::{Error, Recorder, Result};

/// How deep a tree may be.
const MAX_DEPTH: usize = 1000;

/// Work that takes so long is told of, and told of again.
const FIRST_WORD: Duration = Duration::from_secs(30);
const NEXT_WORD: Duration = Duration::from_secs(60);

/// The group that a pod's volumes belong to.
pub fn group_of(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    context.fs_group.and_then(|g| u32::try_from(g).ok())
}

/// Gives the volume at `path` to the pod's group, as the pod's change policy says; people are told when it takes long.
pub async fn give(path: &Path, pod: &Pod, recorder: &dyn Recorder) -> Result<()> {
    let done = Arc::new(AtomicU64::new(0));
    let (target, of, count) = (path.to_path_buf(), pod.clone(), done.clone());
    let mut work = std::pin::pin!(blocking(move || give_now(&target, &of, &count)));
    let text = path.to_string_lossy();
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let shown = text.find(uid).filter(|_| !uid.is_empty()).map_or(&*text, |at| &text[at..]);
    let tell = |message: String| recorder.pod(pod, "Warning", "VolumePermissionChangeInProgress", &message);
    if let Ok(result) = tokio::time::timeout(FIRST_WORD, &mut work).await {
        return result;
    }
    tell(format!(
        "Setting volume ownership for {shown} is taking longer than expected, consider using OnRootMismatch - https://kubernetes.io/docs/tasks/configure-pod-container/security-context/#configure-volume-permission-and-ownership-change-policy-for-pods"
    ));
    loop {
        if let Ok(result) = tokio::time::timeout(NEXT_WORD, &mut work).await {
            return result;
        }
        let done = done.load(Ordering::Relaxed);
        tell(format!("Setting volume ownership for {shown}, processed {done} files."));
    }
}

fn give_now(path: &Path, pod: &Pod, count: &AtomicU64) -> Result<()> {
    let read_only = false;
    let Some(group) = group_of(pod) else { return Ok(()) };
    let context = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let policy = context.and_then(|c| c.fs_group_change_policy.as_deref());
    if policy == Some("OnRootMismatch") && root_matches(path, group, read_only) {
        return Ok(());
    }
    apply_counting(path, group, read_only, count)
}

/// Gives `path` and all below to `group`; the group may read, and write unless `read_only`, and new files inherit it.
pub fn apply(path: &Path, group: u32, read_only: bool) -> Result<()> {
    apply_counting(path, group, read_only, &AtomicU64::new(0))
}

fn apply_counting(path: &Path, group: u32, read_only: bool, count: &AtomicU64) -> Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let root = open(path, flags, Mode::empty()).map_err(|e| Error::io("open", path, e))?;
    change(&root, path, &Change { group: Gid::from_raw(group), read_only, count }, 0)
}

/// Lets any user of the pod write into a folder, whatever the umask. A tmpfs is like that already, and sticky.
pub fn open_to_all(dir: &Path) -> Result<()> {
    let mode = fs::metadata(dir).map_err(|e| Error::io("stat", dir, e))?.mode();
    if mode & 0o777 == 0o777 {
        return Ok(());
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).map_err(|e| Error::io("chmod", dir, e))
}

/// What is to be done to every file.
struct Change<'a> {
    group: Gid,
    read_only: bool,
    /// How many have been done.
    count: &'a AtomicU64,
}

fn change(file: &OwnedFd, path: &Path, how: &Change<'_>, depth: usize) -> Result<()> {
    let Change { group, read_only, count } = *how;
    count.fetch_add(1, Ordering::Relaxed);
    let stat = fstat(file).map_err(|e| Error::io("stat", path, e))?;
    let kind = stat.st_mode & libc::S_IFMT;
    if kind == libc::S_IFLNK {
        let done = fchownat(file, OsStr::new(""), None, Some(group), AtFlags::AT_EMPTY_PATH);
        return done.map_err(|e| Error::io("chown", path, e));
    }
    let handle = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    if stat.st_gid != group.as_raw() {
        let done = fchownat(file, OsStr::new(""), None, Some(group), AtFlags::AT_EMPTY_PATH);
        done.map_err(|e| Error::io("chown", path, e))?;
    }
    let is_dir = kind == libc::S_IFDIR;
    let mask = if read_only { 0o440 } else { 0o660 } | if is_dir { 0o2110 } else { 0 };
    let mode = (stat.st_mode | mask) & 0o7777;
    if mode != stat.st_mode & 0o7777 {
        fs::set_permissions(&handle, fs::Permissions::from_mode(mode))
            .map_err(|e| Error::io("chmod", path, e))?;
    }
    if !is_dir {
        return Ok(());
    }
    if depth > MAX_DEPTH {
        return Err(Error::other(format!("{} is nested too deeply", path.display())));
    }
    for entry in fs::read_dir(&handle).map_err(|e| Error::io("read", path, e))? {
        let name = entry.map_err(|e| Error::io("read", path, e))?.file_name();
        let below = path.join(&name);
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(file, name.as_os_str(), flags, Mode::empty()) {
            Ok(child) => change(&child, &below, how, depth + 1)?,
            // Somebody was quicker.
            Err(nix::errno::Errno::ENOENT) => {}
            Err(error) => return Err(Error::io("open", &below, error)),
        }
    }
    Ok(())
}

/// Whether the volume's own folder already belongs to `group` as [`apply`] leaves it (`OnRootMismatch`).
pub fn root_matches(path: &Path, group: u32, read_only: bool) -> bool {
    let want = 0o2110 | if read_only { 0o440 } else { 0o660 };
    fs::metadata(path).is_ok_and(|meta| meta.gid() == group && meta.mode() & want == want)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn all_below_gets_the_mode_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("v"), dir.path().join("outside"));
        fs::create_dir_all(volume.join("d")).unwrap();
        for file in [volume.join("d/f"), outside.clone()] {
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        symlink(&outside, volume.join("link")).unwrap();
        let group = nix::unistd::getgid().as_raw();
        assert!(!root_matches(&volume, group, false));
        apply(&volume, group, false).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&volume.join("d/f")), 0o660);
        assert_eq!(mode(&volume.join("d")) & 0o2770, 0o2770);
        assert_eq!(mode(&outside), 0o600);
        assert!(root_matches(&volume, group, false));
    }
}

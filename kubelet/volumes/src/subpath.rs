//! `subPath`: a part of a volume as a mount of its own, which no symlink can lead out of the volume.
//!
//! The kernel resolves the path beneath the volume's root (`openat2` with `RESOLVE_IN_ROOT`), missing folders are
//! made one by one relative to open folders, and what is bind-mounted is the open file itself, by its descriptor. At
//! no moment is a path looked up twice.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat, mkdirat};

use crate::{Error, Result, layout, mount};

/// What to bind where.
#[derive(Debug, Clone, Copy)]
pub struct SubPath<'a> {
    /// The pod's folder.
    pub pod_dir: &'a Path,
    /// The volume's folder on the host.
    pub volume_path: &'a Path,
    /// The volume's name in the pod.
    pub volume_name: &'a str,
    /// The path inside the volume.
    pub path: &'a str,
    /// The container.
    pub container: &'a str,
    /// The index of the mount in the container.
    pub index: usize,
    /// Whether a missing folder is made.
    pub create: bool,
}

/// Binds a subpath below the pod's folder and returns where.
pub fn bind(sub: &SubPath<'_>) -> Result<PathBuf> {
    let relative = Path::new(sub.path);
    let bad = relative.is_absolute() || relative.components().any(|c| matches!(c, Component::ParentDir));
    // Where the path leads is nothing that a pod's events should tell.
    let failed = |what: &str, why: &dyn std::fmt::Display| {
        tracing::warn!(path = sub.path, volume = sub.volume_name, container = sub.container, %why, "{what}");
        Error::other(format!("{what} for volumeMount {:?} of container {:?}", sub.volume_name, sub.container))
    };
    let unprepared = "failed to prepare subPath";
    if bad {
        return Err(failed(unprepared, &"it leads out of the volume"));
    }
    let root = open_root(sub.volume_path)?;
    if sub.create {
        make_folders(&root, relative, sub.volume_path)
            .map_err(|e| failed("failed to create subPath directory", &e))?;
    }
    let target = resolve(&root, relative).map_err(|e| failed(unprepared, &e))?;
    let stat = fstat(&target).map_err(|e| Error::io("stat", relative, e))?;
    let dir = layout::subpaths_dir(sub.pod_dir).join(sub.volume_name).join(sub.container);
    fs::create_dir_all(&dir).map_err(|e| Error::io("mkdir", &dir, e))?;
    let place = dir.join(sub.index.to_string());
    if already_bound(&place, &stat) {
        return Ok(place);
    }
    if mount::is_mount_point(&place) {
        mount::unmount(&place)?;
    }
    make_place(&place, &stat)?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", target.as_raw_fd()));
    mount::bind(&source, &place, false)?;
    Ok(place)
}

fn open_root(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, Mode::empty()).map_err(|e| Error::io("open", path, e))
}

/// Opens `path` with the volume as the root of everything, symlinks included.
fn resolve(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    // The kernel asks for another try when something was renamed meanwhile.
    for _ in 0..32 {
        match openat2(root, path, how) {
            Err(Errno::EAGAIN) => {}
            other => return other,
        }
    }
    Err(Errno::EAGAIN)
}

/// Makes the folders of `path` that are missing, with the volume's mode, never following a link out.
fn make_folders(root: &OwnedFd, path: &Path, volume: &Path) -> Result<()> {
    if resolve(root, path).is_ok() {
        return Ok(());
    }
    let mode = fs::metadata(volume).map(|m| m.mode()).unwrap_or(0o750);
    let mode = Mode::from_bits_truncate(mode & 0o777);
    let mut done = PathBuf::new();
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        let parent =
            if done.as_os_str().is_empty() { resolve(root, Path::new(".")) } else { resolve(root, &done) };
        let parent = parent.map_err(|e| Error::io("open", &done, e))?;
        done.push(name);
        if resolve(root, &done).is_ok() {
            continue;
        }
        match mkdirat(&parent, name, Mode::from_bits_truncate(0o700)) {
            Ok(()) => {
                let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let made =
                    openat(&parent, name, flags, Mode::empty()).map_err(|e| Error::io("open", &done, e))?;
                nix::sys::stat::fchmod(&made, mode).map_err(|e| Error::io("chmod", &done, e))?;
            }
            Err(Errno::EEXIST) => {}
            Err(error) => return Err(Error::io("mkdir", &done, error)),
        }
    }
    Ok(())
}

fn already_bound(place: &Path, stat: &FileStat) -> bool {
    let here = fstatat(nix::fcntl::AT_FDCWD, place, AtFlags::AT_SYMLINK_NOFOLLOW);
    here.is_ok_and(|here| here.st_dev == stat.st_dev && here.st_ino == stat.st_ino)
        && mount::is_mount_point(place)
}

/// Makes the mount point: a folder for a folder, a file for all else.
fn make_place(place: &Path, stat: &FileStat) -> Result<()> {
    let is_dir = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
    if is_dir {
        let _ = fs::remove_file(place);
        fs::create_dir_all(place).map_err(|e| Error::io("mkdir", place, e))
    } else {
        let _ = fs::remove_dir(place);
        fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(place)
            .map(drop)
            .map_err(|e| Error::io("create", place, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_in_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("vol/etc")).unwrap();
        fs::write(dir.path().join("secret"), "outside").unwrap();
        symlink("../secret", dir.path().join("vol/up")).unwrap();
        symlink("/etc", dir.path().join("vol/abs")).unwrap();
        let root = open_root(&dir.path().join("vol")).unwrap();
        // Both resolve inside: there is no secret in the volume, and its /etc is its own.
        assert!(resolve(&root, Path::new("up")).is_err());
        let etc = resolve(&root, Path::new("abs")).unwrap();
        let inside = fs::metadata(dir.path().join("vol/etc")).unwrap();
        assert_eq!(fstat(&etc).unwrap().st_ino, inside.ino());
        make_folders(&root, Path::new("abs/a/b"), dir.path()).unwrap();
        assert!(dir.path().join("vol/etc/a/b").is_dir());
    }

    #[test]
    fn refuses_parents() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "a/../../x"] {
            let sub = SubPath {
                pod_dir: dir.path(),
                volume_path: dir.path(),
                volume_name: "v",
                path,
                container: "c",
                index: 0,
                create: true,
            };
            assert!(bind(&sub).is_err(), "{path}");
        }
    }

    /// Runs `work` in a mount namespace of its own; says so and does not where that is not allowed.
    fn apart(work: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(move || {
            if let Err(error) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS) {
                eprintln!("skipped: cannot make a mount namespace: {error}");
                return;
            }
            let none: Option<&str> = None;
            let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
            nix::mount::mount(none, "/", none, private, none).unwrap();
            work();
        });
        thread.join().unwrap();
    }

    #[test]
    fn a_swapped_link_never_leads_out() {
        apart(|| {
            let dir = tempfile::tempdir().unwrap();
            let (volume, outside) = (dir.path().join("vol"), dir.path().join("outside"));
            for path in [volume.join("a"), outside.clone()] {
                fs::create_dir_all(path).unwrap();
            }
            fs::write(volume.join("a/inside"), "").unwrap();
            let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
            let (stop, from, to) = (done.clone(), volume.clone(), outside.clone());
            let attacker = std::thread::spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    fs::rename(from.join("a"), from.join("b")).unwrap();
                    symlink(&to, from.join("a")).unwrap();
                    fs::remove_file(from.join("a")).unwrap();
                    fs::rename(from.join("b"), from.join("a")).unwrap();
                }
            });
            let mut bound = 0;
            for index in 0..300 {
                let sub = SubPath {
                    pod_dir: dir.path(),
                    volume_path: &volume,
                    volume_name: "v",
                    path: "a",
                    container: "c",
                    index,
                    create: false,
                };
                if let Ok(place) = bind(&sub) {
                    assert!(place.join("inside").exists());
                    bound += 1;
                }
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            attacker.join().unwrap();
            assert!(bound > 0);
            mount::unmount(&layout::subpaths_dir(dir.path())).unwrap();
        });
    }
}

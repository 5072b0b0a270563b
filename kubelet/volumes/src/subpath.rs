//! `subPath`: a part of a volume as a mount of its own, which no symlink can lead out of the volume.
//!
//! Links may lead about within the volume; one that ends outside is an error. The place that was found is opened
//! once more, now without any link (`openat2` below the volume's root), so that what was swapped meanwhile is noticed;
//! missing folders are made one by one relative to open folders, and what is bind-mounted is the open file itself, by
//! its descriptor.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat, mkdirat};

use crate::{Error, Result, layout, mount};

/// How often a path that changes under way is looked up.
const TRIES: usize = 8;

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
    if sub.create && !sub.volume_path.join(relative).exists() {
        make_folders(&root, relative, sub.volume_path)
            .map_err(|e| failed("failed to create subPath directory", &e))?;
    }
    let target = resolve(&root, sub.volume_path, relative).map_err(|e| failed(unprepared, &e))?;
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

/// Opens what `path` leads to, by way of links only if all of them end within the volume.
fn resolve(root: &OwnedFd, volume: &Path, path: &Path) -> std::io::Result<OwnedFd> {
    let outside = || std::io::Error::other("it leads out of the volume");
    let base = fs::canonicalize(volume)?;
    let mut last = outside();
    // Whoever renames things in between is given another chance, but not for ever.
    for _ in 0..TRIES {
        let real = match fs::canonicalize(base.join(path)) {
            Ok(real) => real,
            Err(error) => {
                last = error;
                continue;
            }
        };
        let Ok(inside) = real.strip_prefix(&base) else {
            last = outside();
            continue;
        };
        match open_inside(root, inside) {
            Ok(file) => return Ok(file),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// Opens a path without links below the volume's root.
fn open_inside(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    openat2(root, path, how)
}

/// Makes the folders of `path` that are missing, with the volume's mode, never following a link out.
fn make_folders(root: &OwnedFd, path: &Path, volume: &Path) -> std::io::Result<()> {
    let mode = fs::metadata(volume).map(|m| m.mode()).unwrap_or(0o750);
    let mode = Mode::from_bits_truncate(mode & 0o7777);
    let mut done = PathBuf::new();
    let mut here = resolve(root, volume, Path::new("."))?;
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        done.push(name);
        let missing = fstatat(&here, name, AtFlags::AT_SYMLINK_NOFOLLOW) == Err(Errno::ENOENT);
        if missing {
            match mkdirat(&here, name, Mode::from_bits_truncate(0o700)) {
                Ok(()) => {
                    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                    let made = openat(&here, name, flags, Mode::empty())?;
                    nix::sys::stat::fchmod(&made, mode)?;
                    here = made;
                    continue;
                }
                Err(Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        here = resolve(root, volume, &done)?;
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
        let volume = dir.path().join("vol");
        fs::create_dir_all(volume.join("etc")).unwrap();
        fs::write(dir.path().join("secret"), "outside").unwrap();
        for (link, target) in [
            ("up", Path::new("../secret")),
            ("abs", Path::new("/etc")),
            ("dangling", Path::new("nowhere")),
            ("own", volume.join("etc").as_path()),
            ("beside", Path::new("etc")),
        ] {
            symlink(target, volume.join(link)).unwrap();
        }
        let root = open_root(&volume).unwrap();
        let inside = fs::metadata(volume.join("etc")).unwrap().ino();
        for (path, within) in
            [("up", false), ("abs", false), ("dangling", false), ("own", true), ("beside", true)]
        {
            let found = resolve(&root, &volume, Path::new(path)).ok().map(|f| fstat(&f).unwrap().st_ino);
            assert_eq!(found, within.then_some(inside), "{path}");
            let below = Path::new(path).join("a/b");
            assert_eq!(make_folders(&root, &below, &volume).is_ok(), within, "{path}");
        }
        assert!(volume.join("etc/a/b").is_dir() && !Path::new("/etc/a").exists());
        make_folders(&root, Path::new("new/er"), &volume).unwrap();
        assert!(volume.join("new/er").is_dir());
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
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
            for index in 0.. {
                if index >= 300 && bound > 0 || std::time::Instant::now() > deadline {
                    break;
                }
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

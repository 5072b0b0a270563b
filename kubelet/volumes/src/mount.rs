//! Mounting, unmounting, and what is mounted.

use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use crate::{Error, Result};

/// All mount points at or below `path`, deepest first.
pub fn mounts_below(path: &Path) -> Result<Vec<PathBuf>> {
    Ok(table_below(path)?.into_iter().map(|(point, _)| point).collect())
}

/// The mount points at and below `path`, deepest and latest first, and whether each is of a server elsewhere.
fn table_below(path: &Path) -> Result<Vec<(PathBuf, bool)>> {
    let info = Path::new("/proc/thread-self/mountinfo");
    let table = fs::read(info).map_err(|e| Error::io("read", info, e))?;
    let mut found: Vec<(PathBuf, bool)> =
        table.split(|b| *b == b'\n').filter_map(entry).filter(|(point, _)| point.starts_with(path)).collect();
    found.reverse();
    found.sort_by_key(|(point, _)| std::cmp::Reverse(point.components().count()));
    Ok(found)
}

/// Mount point and remoteness of a line of mountinfo.
fn entry(line: &[u8]) -> Option<(PathBuf, bool)> {
    let mut fields = line.split(|b| *b == b' ');
    let point = PathBuf::from(std::ffi::OsString::from_vec(unescape(fields.nth(4)?)));
    let kind = fields.skip_while(|field| *field != b"-").nth(1).unwrap_or_default();
    let remote = [&b"nfs"[..], b"cifs", b"ceph", b"smb"].iter().any(|name| kind.starts_with(name));
    Some((point, remote))
}

/// Decodes the octal escapes of mountinfo.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| tail.get(..3)).flatten();
        match octal.and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// Whether something is mounted at exactly `path`.
pub fn is_mount_point(path: &Path) -> bool {
    // The table of mounts of a full node is long; one look tells, and asks no server that may be gone.
    let flags = AtFlags::NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
    match rustix::fs::statx(CWD, path, flags, StatxFlags::empty()) {
        Ok(stat) if stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) => {
            stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
        }
        Err(Errno::NOENT) => false,
        // Kernels before 5.8 do not say, and a file system that is ill may not answer.
        _ => is_in_table(path),
    }
}

fn is_in_table(path: &Path) -> bool {
    mounts_below(path).is_ok_and(|points| points.iter().any(|point| point == path))
}

/// How many other mounts show the same file system as the one at `path`.
pub fn others_of(path: &Path) -> Result<usize> {
    let info = Path::new("/proc/thread-self/mountinfo");
    let table = fs::read(info).map_err(|e| Error::io("read", info, e))?;
    let mounts: Vec<(&[u8], Vec<u8>)> = table
        .split(|b| *b == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|b| *b == b' ');
            let device = fields.nth(2)?;
            Some((device, unescape(fields.nth(1)?)))
        })
        .collect();
    let own = mounts.iter().rev().find(|(_, point)| Path::new(std::ffi::OsStr::from_bytes(point)) == path);
    let Some((device, point)) = own else { return Ok(0) };
    Ok(mounts.iter().filter(|(d, p)| d == device && p != point).count())
}

/// Mounts a tmpfs, which is not swapped out where the kernel can be told so.
pub fn mount_tmpfs(path: &Path, size: Option<u64>) -> Result<()> {
    let size = size.map(|size| format!("size={size}"));
    let with = |more: Option<&str>| {
        let options: Vec<&str> = size.as_deref().into_iter().chain(more).collect();
        let options = options.join(",");
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
    };
    // Kernels before 6.4 know no such option.
    with(Some("noswap")).or_else(|_| with(None)).map_err(|e| Error::io("mount tmpfs on", path, e))
}

/// Whether the kernel can be told not to swap out a tmpfs; tried on a folder below `root`.
pub fn memory_stays(root: &Path) -> bool {
    let dir = root.join(format!(".noswap-{}", std::process::id()));
    if fs::create_dir(&dir).is_err() {
        return false;
    }
    let tried = mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), Some("noswap"));
    if tried.is_ok() {
        let _ = umount2(&dir, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH);
    }
    let _ = fs::remove_dir(&dir);
    tried.is_ok()
}

/// Mounts a hugetlbfs of a page size such as `2Mi`.
pub fn mount_hugetlbfs(path: &Path, page_size: &str) -> Result<()> {
    let options = format!("pagesize={}", page_size.trim_end_matches('i'));
    mount(Some("nodev"), path, Some("hugetlbfs"), MsFlags::empty(), Some(options.as_str()))
        .map_err(|e| Error::io("mount hugetlbfs on", path, e))
}

/// Bind-mounts `source` to `target`.
pub fn bind(source: &Path, target: &Path, read_only: bool) -> Result<()> {
    let none: Option<&str> = None;
    mount(Some(source), target, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
        .map_err(|e| Error::io("bind to", target, e))?;
    if read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, target, none, flags, none).map_err(|e| Error::io("remount", target, e))?;
    }
    Ok(())
}

/// Unmounts everything at and below `path`; lazily where something is still in use.
pub fn unmount(path: &Path) -> Result<()> {
    for (point, remote) in table_below(path)? {
        let flags = MntFlags::UMOUNT_NOFOLLOW;
        // A server that is gone would be waited for.
        let first = if remote { flags | MntFlags::MNT_FORCE } else { flags };
        if umount2(&point, first).is_err() {
            umount2(&point, flags | MntFlags::MNT_DETACH).map_err(|e| Error::io("unmount", &point, e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_escapes() {
        assert_eq!(unescape(b"/a\\040b\\134"), b"/a b\\");
        assert_eq!(unescape(b"/plain\\"), b"/plain\\");
    }

    #[test]
    fn mountinfo_lines() {
        for (line, point, remote) in [
            ("36 35 98:0 / /a\\040b rw,noatime master:1 - ext4 /dev/root rw", "/a b", false),
            ("36 35 98:0 / /n rw shared:1 master:2 - nfs4 s:/x rw,vers=4.1", "/n", true),
            ("36 35 98:0 / /n rw - nfs s:/x rw", "/n", true),
        ] {
            assert_eq!(entry(line.as_bytes()), Some((PathBuf::from(point), remote)));
        }
        assert_eq!(entry(b""), None);
    }

    #[test]
    fn knows_mount_points() {
        assert!(is_mount_point(Path::new("/proc")));
        assert!(is_in_table(Path::new("/proc")));
        assert!(!is_mount_point(Path::new("/nonexistent")));
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_mount_point(dir.path()) && !is_in_table(dir.path()));
    }
}

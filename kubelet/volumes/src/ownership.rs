//! Gives a volume to the pod's `fsGroup`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use crate::{Error, Result};

/// Gives `path` and all below to `group`; the group may read, and write unless `read_only`, and new files inherit it.
pub fn apply(path: &Path, group: u32, read_only: bool) -> Result<()> {
    let meta = fs::symlink_metadata(path).map_err(|e| Error::io("stat", path, e))?;
    lchown(path, None, Some(group)).map_err(|e| Error::io("chown", path, e))?;
    if meta.is_symlink() {
        return Ok(());
    }
    let mut mode = meta.mode() | if read_only { 0o440 } else { 0o660 };
    if meta.is_dir() {
        mode |= 0o2110;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777))
        .map_err(|e| Error::io("chmod", path, e))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path).map_err(|e| Error::io("read", path, e))? {
            let entry = entry.map_err(|e| Error::io("read", path, e))?;
            apply(&entry.path(), group, read_only)?;
        }
    }
    Ok(())
}

/// Whether the volume's own folder already belongs to `group` as [`apply`] leaves it (`OnRootMismatch`).
pub fn root_matches(path: &Path, group: u32, read_only: bool) -> bool {
    let want = 0o2110 | if read_only { 0o440 } else { 0o660 };
    fs::metadata(path).is_ok_and(|meta| meta.gid() == group && meta.mode() & want == want)
}

//! Files that change all at once.
//!
//! A volume's files lie in a folder `..<time>.<random>`; the link `..data` points to it, and each visible name is a
//! link through `..data`. A change writes a new folder and swaps `..data` by one rename, so that a reader sees either
//! all old or all new files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use crate::ownership;
use crate::{Error, Result};

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// One file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its content.
    pub data: Vec<u8>,
    /// Its mode.
    pub mode: u32,
    /// Its owner, if not root.
    pub owner: Option<u32>,
}

/// The files of a volume by relative path.
pub type Payload = BTreeMap<String, File>;

/// Writes `payload` to `target`. Returns whether anything changed.
pub fn write(target: &Path, payload: &Payload, fs_group: Option<u32>) -> Result<bool> {
    for path in payload.keys() {
        check_path(path)?;
    }
    let data = target.join(DATA);
    let old = fs::read_link(&data).ok();
    if let Some(old) = &old
        && same(&target.join(old), payload)
    {
        link_names(target, payload)?;
        return Ok(false);
    }
    let fresh = new_folder(target)?;
    let written = write_files(&target.join(&fresh), payload, fs_group);
    if let Err(error) = written {
        let _ = fs::remove_dir_all(target.join(&fresh));
        return Err(error);
    }
    let staged = target.join(DATA_NEW);
    let _ = fs::remove_file(&staged);
    symlink(&fresh, &staged).map_err(|e| Error::io("link", &staged, e))?;
    fs::rename(&staged, &data).map_err(|e| Error::io("rename", &staged, e))?;
    link_names(target, payload)?;
    unlink_stale_names(target, payload);
    remove_old_folders(target, &fresh);
    Ok(true)
}

/// Refuses paths that lead out of the volume or into its machinery.
fn check_path(path: &str) -> Result<()> {
    let invalid = |why: &str| Err(Error::other(format!("invalid path: {why}: {path}")));
    if path.is_empty() {
        return invalid("must not be empty");
    }
    if path.starts_with("..") {
        return invalid("must not start with '..'");
    }
    if Path::new(path).components().any(|c| !matches!(c, Component::Normal(_))) {
        return invalid("must not be absolute or contain '..'");
    }
    Ok(())
}

/// Whether `dir` holds exactly `payload`.
fn same(dir: &Path, payload: &Payload) -> bool {
    let mut seen = BTreeSet::new();
    if collect(dir, Path::new(""), &mut seen).is_err() || seen.len() != payload.len() {
        return false;
    }
    payload.iter().all(|(path, file)| {
        let full = dir.join(path);
        seen.contains(Path::new(path))
            && fs::metadata(&full).is_ok_and(|m| m.len() == file.data.len() as u64)
            && fs::read(&full).is_ok_and(|data| data == file.data)
    })
}

fn collect(base: &Path, below: &Path, seen: &mut BTreeSet<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(base.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(base, &path, seen)?;
        } else {
            seen.insert(path);
        }
    }
    Ok(())
}

fn new_folder(target: &Path) -> Result<OsString> {
    let now = jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S");
    for _ in 0..100 {
        let name = format!("..{now}.{}", rand::random::<u32>());
        let path = target.join(&name);
        match fs::DirBuilder::new().mode(0o755).create(&path) {
            Ok(()) => {
                // Not subject to the umask: any user of the pod may look.
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                    .map_err(|e| Error::io("chmod", &path, e))?;
                return Ok(name.into());
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("mkdir", &path, error)),
        }
    }
    Err(Error::other(format!("no free folder name in {}", target.display())))
}

fn write_files(dir: &Path, payload: &Payload, fs_group: Option<u32>) -> Result<()> {
    use std::io::Write;
    for (path, file) in payload {
        let full = dir.join(path);
        if let Some(parent) = full.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::io("mkdir", parent, e))?;
        }
        let mut opened = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(file.mode)
            .open(&full)
            .map_err(|e| Error::io("create", &full, e))?;
        opened.write_all(&file.data).map_err(|e| Error::io("write", &full, e))?;
        opened
            .set_permissions(fs::Permissions::from_mode(file.mode))
            .map_err(|e| Error::io("chmod", &full, e))?;
        if let Some(owner) = file.owner {
            std::os::unix::fs::chown(&full, Some(owner), None).map_err(|e| Error::io("chown", &full, e))?;
        }
    }
    match fs_group {
        Some(group) => ownership::apply(dir, group, true),
        None => Ok(()),
    }
}

/// The first component of each path: these are the visible names.
fn names(payload: &Payload) -> BTreeSet<&str> {
    payload.keys().filter_map(|path| path.split('/').next()).collect()
}

fn link_names(target: &Path, payload: &Payload) -> Result<()> {
    for name in names(payload) {
        let link = target.join(name);
        let to = Path::new(DATA).join(name);
        if fs::read_link(&link).is_ok_and(|at| at == to) {
            continue;
        }
        let _ = fs::remove_file(&link);
        symlink(&to, &link).map_err(|e| Error::io("link", &link, e))?;
    }
    Ok(())
}

fn unlink_stale_names(target: &Path, payload: &Payload) {
    let names = names(payload);
    for entry in fs::read_dir(target).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(text) = name.to_str() else { continue };
        let ours = fs::read_link(entry.path()).is_ok_and(|to| to.starts_with(DATA));
        if ours && !names.contains(text) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn remove_old_folders(target: &Path, keep: &OsString) {
    for entry in fs::read_dir(target).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_old = name.to_str().is_some_and(|n| n.starts_with("..")) && name != *keep;
        if is_old && entry.file_type().is_ok_and(|t| t.is_dir()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |data: &str| File { data: data.into(), mode: 0o640, owner: None };
        files.iter().map(|(path, data)| (path.to_string(), file(data))).collect()
    }

    #[test]
    fn swaps_all_files_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path();
        assert!(write(target, &payload(&[("a", "1"), ("sub/b", "2")]), None).unwrap());
        assert_eq!(fs::read_to_string(target.join("sub/b")).unwrap(), "2");
        let before = fs::read_link(target.join("..data")).unwrap();
        assert!(!write(target, &payload(&[("a", "1"), ("sub/b", "2")]), None).unwrap());
        assert_eq!(fs::read_link(target.join("..data")).unwrap(), before);
        assert!(write(target, &payload(&[("a", "3")]), None).unwrap());
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "3");
        assert!(fs::symlink_metadata(target.join("sub")).is_err());
        assert!(!target.join(before).exists());
        assert_eq!(fs::metadata(target.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn refuses_paths_that_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["", "../x", "..data", "/x", "a/../../x", "..x"] {
            assert!(write(dir.path(), &payload(&[(path, "x")]), None).is_err(), "{path}");
        }
    }
}

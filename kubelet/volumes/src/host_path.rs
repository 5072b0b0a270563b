//! `hostPath`: a file or folder of the node.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::HostPathVolumeSource;

use crate::{Error, Result, Setup, Volume};

/// A `hostPath`.
pub struct HostPath {
    source: HostPathVolumeSource,
}

impl HostPath {
    /// From its spec.
    pub fn new(source: HostPathVolumeSource) -> Self {
        Self { source }
    }
}

#[async_trait]
impl Volume for HostPath {
    async fn set_up(&self, _: &Setup<'_>) -> Result<PathBuf> {
        let path = Path::new(&self.source.path);
        if path.components().any(|c| matches!(c, std::path::Component::ParentDir)) {
            let text = format!("invalid HostPath `{}`: must not contain '..'", self.source.path);
            return Err(Error::other(text));
        }
        check(path, self.source.type_.as_deref().unwrap_or(""))?;
        Ok(path.to_path_buf())
    }
}

fn check(path: &Path, kind: &str) -> Result<()> {
    let found = fs::metadata(path).ok().map(|m| m.file_type());
    let failed = |what: &str| {
        let text = format!("hostPath type check failed: {} is not a {what}", path.display());
        Err(Error::other(text))
    };
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" if found.is_none() => fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path)
            .map_err(|e| Error::io("mkdir", path, e)),
        "FileOrCreate" if found.is_none() => {
            let made = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path);
            made.map(drop).map_err(|e| Error::io("open", path, e))
        }
        "Directory" | "DirectoryOrCreate" if !found.is_some_and(|t| t.is_dir()) => failed("directory"),
        "File" | "FileOrCreate" if !found.is_some_and(|t| t.is_file()) => failed("file"),
        "Socket" if !found.is_some_and(|t| t.is_socket()) => failed("socket file"),
        "CharDevice" if !found.is_some_and(|t| t.is_char_device()) => failed("character device"),
        "BlockDevice" if !found.is_some_and(|t| t.is_block_device()) => failed("block device"),
        "Directory" | "DirectoryOrCreate" | "File" | "FileOrCreate" | "Socket" | "CharDevice"
        | "BlockDevice" => Ok(()),
        other => Err(Error::other(format!("{other} is an invalid volume type"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "").unwrap();
        let missing = dir.path().join("x/y");
        for (path, kind, ok) in [
            (dir.path(), "", true),
            (&missing, "", true),
            (&missing, "Directory", false),
            (dir.path(), "Directory", true),
            (dir.path(), "File", false),
            (&file, "File", true),
            (&file, "FileOrCreate", true),
            (Path::new("/dev/null"), "CharDevice", true),
            (Path::new("/dev/null"), "BlockDevice", false),
            (&file, "Socket", false),
            (&file, "Strange", false),
        ] {
            assert_eq!(check(path, kind).is_ok(), ok, "{path:?} {kind}");
        }
        check(&missing, "DirectoryOrCreate").unwrap();
        assert!(missing.is_dir());
    }
}

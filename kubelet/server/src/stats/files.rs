//! How much folders hold.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Deeper trees are not followed.
const MAX_DEPTH: usize = 64;

/// Bytes and inodes of a folder on its own file system; links are not followed, mounts not entered.
pub fn measure(path: &Path) -> (i64, i64) {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return (0, 0) };
    below(path, meta.dev(), 0)
}

fn below(path: &Path, device: u64, depth: usize) -> (i64, i64) {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return (0, 0) };
    if meta.dev() != device {
        return (0, 0);
    }
    let own = (i64::try_from(meta.blocks()).unwrap_or(0) * 512, 1);
    if !meta.is_dir() || depth > MAX_DEPTH {
        return own;
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|e| below(&e.path(), device, depth + 1)).fold(own, |(a, b), (c, d)| (a + c, b + d))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_do_not_follow_links() {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::write(dir.path().join("a"), vec![1u8; 100_000]).expect("file");
        std::os::unix::fs::symlink("/", dir.path().join("root")).expect("link");
        let (size, inodes) = measure(dir.path());
        assert!((100_000..300_000).contains(&size), "{size}");
        assert_eq!(inodes, 3);
    }
}

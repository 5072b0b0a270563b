//! Variables out of a file in one of the pod's volumes, which an earlier container of the pod has written.
//!
//! The file is the pod's own doing, so nothing in it is trusted: a path or link that leads out of the volume ends at
//! the volume's edge, and no more than [`MOST`] is read.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use k8s_openapi::api::core::v1::FileKeySelector;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::Places;

/// The largest file of variables.
const MOST: u64 = 1 << 20;

/// The value that a reference names; `None` for an optional key that the file does not have.
pub fn value(reference: &FileKeySelector, places: Places<'_>) -> Result<Option<String>, String> {
    let volume = &reference.volume_name;
    let place = places
        .get(volume)
        .ok_or_else(|| format!("cannot find the volume {volume:?} referenced by FileKeyRef"))?;
    let text = read(&place.path, &reference.path).map_err(|error| {
        tracing::warn!(volume, path = reference.path, %error, "Failed to parse env file");
        "couldn't parse env file".to_string()
    })?;
    let found = parse(&text, &reference.key).map_err(|error| {
        tracing::warn!(volume, path = reference.path, error, "Failed to parse env file");
        "couldn't parse env file".to_string()
    })?;
    match found.filter(|value| !value.is_empty()) {
        Some(value) => Ok(Some(value)),
        None if reference.optional.unwrap_or(false) => Ok(None),
        None => Err(format!(
            "environment variable key {:?} not found in file {:?}",
            reference.key,
            place.path.join(&reference.path)
        )),
    }
}

/// Opens a file as if the volume were the root, so that no link leads elsewhere.
fn read(volume: &Path, path: &str) -> std::io::Result<String> {
    let root = File::open(volume)?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = File::from(openat2(&root, path, how)?);
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > MOST {
        return Err(std::io::Error::other("no file, or too large a one"));
    }
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text)?;
    Ok(text)
}

/// Finds `KEY='value'`. A value stands in single quotes, in which everything is meant as written and lines may end;
/// comments begin with `#`. Lines are looked at in their order up to the one that is asked for.
fn parse(text: &str, key: &str) -> Result<Option<String>, String> {
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let bad = |line: usize, what: &str| {
            Err(format!("invalid environment variable format at line {}: {what}", line + 1))
        };
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, rest)) = line.split_once('=') else { return bad(index, "missing '='") };
        if name.trim_end_matches([' ', '\t']).is_empty() {
            return bad(index, "empty variable name");
        }
        if name.ends_with([' ', '\t']) {
            return bad(index, "whitespace before '=' is not allowed");
        }
        if rest.starts_with([' ', '\t']) {
            // As for a shell: the variable is empty, and what follows is something else.
            if name == key {
                return Ok(None);
            }
            continue;
        }
        let Some(mut rest) = rest.strip_prefix('\'') else {
            return bad(index, "value must be enclosed in single quotes");
        };
        let mut value = String::new();
        let mut last = index;
        loop {
            if let Some((inside, after)) = rest.split_once('\'') {
                value.push_str(inside);
                let after = after.trim_start_matches([' ', '\t']);
                if !after.is_empty() && !after.starts_with('#') {
                    return bad(last, "unexpected content after closing quote");
                }
                break;
            }
            value.push_str(rest);
            value.push('\n');
            let Some((index, next)) = lines.next() else { return bad(index, "unclosed single quote") };
            (last, rest) = (index, next);
        }
        if name == key {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_strictly() {
        let text = "# c\n\n  A='1' # one\nB='x\n y'\nC= 'no'\nD=''\n";
        for (key, expected) in
            [("A", Some("1")), ("B", Some("x\n y")), ("C", None), ("D", Some("")), ("E", None)]
        {
            assert_eq!(parse(text, key), Ok(expected.map(str::to_string)), "{key}");
        }
        for (text, error) in [
            ("A", "missing '='"),
            ("='1'", "empty variable name"),
            ("A ='1'", "whitespace before"),
            ("A=1", "enclosed in single quotes"),
            ("A='1' x", "after closing quote"),
            ("A='1", "unclosed"),
        ] {
            assert!(parse(text, "Z").unwrap_err().contains(error), "{text}");
        }
    }

    #[test]
    fn no_link_leads_out_of_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(dir.path().join("secret"), "A='1'").unwrap();
        std::fs::write(volume.join("own"), "A='2'").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), volume.join("link")).unwrap();
        assert_eq!(read(&volume, "own").unwrap(), "A='2'");
        for path in ["link", "../secret", "/etc/passwd", "."] {
            assert!(read(&volume, path).is_err(), "{path}");
        }
    }
}

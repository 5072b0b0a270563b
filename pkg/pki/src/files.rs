//! Files that hold keys: never readable by others, never seen half written.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::ca::Cert;
use crate::{Error, Result};

/// Reads a text file; the error names it.
pub fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })
}

/// Writes a secret with mode 0600, replacing what was there in one step.
pub fn write_secret(path: &str, content: &[u8]) -> Result<()> {
    write(path, content, 0o600)
}

/// Writes a public file with mode 0644, replacing what was there in one step.
pub fn write_public(path: &str, content: &[u8]) -> Result<()> {
    write(path, content, 0o644)
}

/// Writes `<dir>/<name>.crt` and `<dir>/<name>.key`.
pub fn write_pair(dir: &str, name: &str, cert: &Cert) -> Result<()> {
    write_secret(&format!("{dir}/{name}.key"), cert.key_pem.as_bytes())?;
    write_public(&format!("{dir}/{name}.crt"), cert.cert_pem.as_bytes())
}

fn write(path: &str, content: &[u8], mode: u32) -> Result<()> {
    replace(Path::new(path), content, mode).map_err(|source| Error::File { path: path.to_owned(), source })
}

fn replace(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    // tempfile creates with 0600, so that a secret is never readable by others, not even for a moment.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(content)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    Ok(())
}

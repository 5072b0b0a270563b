//! Block devices: formatted and mounted by the system's tools, or mapped into a pod as they are.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use crate::mount::{self, unmount};
use crate::teardown::entries;
use crate::{Error, Result, layout};

/// How long a tool may take; a file system check of a large disk does.
const PATIENCE: Duration = Duration::from_secs(600);

/// Runs a tool and returns its output; an error says what it was and what it said.
pub async fn run(tool: &str, args: &[String]) -> Result<String> {
    let mut command = Command::new(tool);
    command.args(args).stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(Error::other(format!("executable {tool:?} cannot be run: {error}"))),
        Err(_) => return Err(Error::other(format!("{tool} took longer than {} s", PATIENCE.as_secs()))),
    };
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    let how = match output.status.code() {
        Some(code) => format!("exit status {code}"),
        None => output.status.to_string(),
    };
    Err(Error::other(format!("{how}: {}", said.trim())))
}

/// Mounts by the system's tool, which knows helpers for network file systems.
pub async fn mount_with_tool(source: &str, target: &Path, fs_type: &str, options: &[String]) -> Result<()> {
    let mut args = Vec::new();
    if !fs_type.is_empty() {
        args.extend(["-t".to_string(), fs_type.to_string()]);
    }
    if !options.is_empty() {
        args.extend(["-o".to_string(), options.join(",")]);
    }
    args.extend([source.to_string(), target.to_string_lossy().into_owned()]);
    run("mount", &args).await.map(drop).map_err(|error| {
        let text = error.to_string();
        let (status, said) = text.split_once(": ").unwrap_or((&text, ""));
        let arguments = args.join(" ");
        Error::other(format!(
            "mount failed: {status}\nMounting command: mount\nMounting arguments: {arguments}\nOutput: {said}\n"
        ))
    })
}

/// Mounts a disk, after giving it a file system if it has none at all.
pub async fn format_and_mount(
    device: &Path,
    target: &Path,
    fs_type: Option<&str>,
    options: &[String],
    read_only: bool,
) -> Result<()> {
    let wanted = fs_type.filter(|t| !t.is_empty()).unwrap_or("ext4");
    let mut options = options.to_vec();
    options.extend(read_only.then(|| "ro".to_string()));
    options.push("defaults".into());
    let name = device.to_string_lossy().into_owned();
    let present = probe(&name).await?;
    if present.is_none() {
        if read_only {
            return Err(Error::other(format!(
                "cannot mount unformatted disk {name} as we are manipulating it in read-only mode"
            )));
        }
        let mut args = match wanted {
            "ext3" | "ext4" => vec!["-F".to_string(), "-m0".to_string()],
            "xfs" | "btrfs" => vec!["-f".to_string()],
            _ => Vec::new(),
        };
        args.push(name.clone());
        tracing::info!(device = name, fs_type = wanted, "Disk is not formatted, formatting it");
        run(&format!("mkfs.{wanted}"), &args)
            .await
            .map_err(|e| Error::other(format!("format of disk {name:?} failed: type:({wanted:?}) {e}")))?;
    } else if !read_only && let Err(error) = run("fsck", &["-a".to_string(), name.clone()]).await {
        // Exit status 4: errors are left. Anything else (1: repaired, 8: no such checker) does not hinder.
        if error.to_string().starts_with("exit status 4:") {
            return Err(Error::other(format!(
                "'fsck' found errors on device {name} but could not correct them: {error}"
            )));
        }
    }
    let mounted = mount_with_tool(&name, target, wanted, &options).await;
    match present {
        Some(found) if found != wanted => mounted.map_err(|e| Error::Mismatch(e.to_string())),
        _ => mounted,
    }
}

/// What is on a disk: `None` for nothing at all, which is the only thing that may be formatted.
async fn probe(device: &str) -> Result<Option<String>> {
    let args = ["-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export", device].map(String::from);
    match run("blkid", &args).await {
        Ok(text) => {
            let of = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)).map(str::to_string);
            let partitions = of("PTTYPE=").map(|_| "unknown data, probably partitions".to_string());
            Ok(partitions.or_else(|| of("TYPE=")).filter(|kind| !kind.is_empty()))
        }
        // blkid's way to say that there is nothing.
        Err(error) if error.to_string().starts_with("exit status 2:") => Ok(None),
        Err(error) => Err(Error::other(format!("failed to get disk format of disk {device}: {error}"))),
    }
}

/// Whether a path is a block device.
pub fn is_block(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device())
}

/// Tells of a volume that was mapped.
pub type Tell<'a> = dyn Fn(String) + Sync + 'a;

/// Shows a device to a pod: bound into the folder `global`, so that it stays what it is, and linked to from the pod's.
/// Returns the device. What is new is told to the pod's users.
pub fn map(
    device: &Path,
    global: &Path,
    plugin: &str,
    name: &str,
    at: (&Path, &Tell<'_>),
) -> Result<PathBuf> {
    let (pod_dir, tell) = at;
    let uid = pod_dir.file_name().map(PathBuf::from).unwrap_or_default();
    make_dir(global)?;
    let bound = global.join(&uid);
    if !mount::is_mount_point(&bound) {
        fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&bound)
            .map_err(|e| Error::io("create", &bound, e))?;
        mount::bind(device, &bound, false)?;
    }
    let links = layout::devices_dir(pod_dir).join(plugin);
    make_dir(&links)?;
    let link = links.join(name);
    if fs::read_link(&link).is_ok_and(|to| to == device) {
        return Ok(device.to_path_buf());
    }
    let _ = fs::remove_file(&link);
    symlink(device, &link).map_err(|e| Error::io("link", &link, e))?;
    for (what, path) in [("globalMapPath", global), ("volumeMapPath", &links)] {
        let path = path.display().to_string();
        tell(format!("MapVolume.MapPodDevice succeeded for volume {name:?} {what} {path:?}"));
    }
    Ok(device.to_path_buf())
}

/// Undoes [`map`] for the global part.
pub fn unmap_global(global: &Path, uid: &str) -> Result<()> {
    let bound = global.join(uid);
    unmount(&bound)?;
    match fs::remove_file(&bound) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io("remove", &bound, error)),
    }
    let _ = fs::remove_dir(global);
    Ok(())
}

/// Takes down all devices of a pod but those of CSI drivers.
pub fn unmap_pod(root: &Path, pod_dir: &Path) -> Result<()> {
    let uid = pod_dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let devices = layout::devices_dir(pod_dir);
    for plugin in entries(&devices)? {
        let name = plugin.file_name().to_string_lossy().into_owned();
        if name != layout::CSI {
            let global = layout::plugin_dir(root, &name.replace('~', "/")).join("volumeDevices");
            unmap_below(&global, &uid, 3)?;
            for link in entries(&plugin.path())? {
                fs::remove_file(link.path()).map_err(|e| Error::io("remove", &link.path(), e))?;
            }
        }
        let _ = fs::remove_dir(plugin.path());
    }
    let _ = fs::remove_dir(devices);
    Ok(())
}

fn unmap_below(dir: &Path, uid: &str, depth: usize) -> Result<()> {
    for entry in entries(dir)? {
        if entry.file_name().to_str() == Some(uid) {
            return unmap_global(dir, uid);
        }
        if depth > 0 && entry.file_type().is_ok_and(|t| t.is_dir()) {
            unmap_below(&entry.path(), uid, depth - 1)?;
        }
    }
    Ok(())
}

/// Makes a folder and those above it.
pub fn make_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o750).create(path).map_err(|e| Error::io("mkdir", path, e))
}

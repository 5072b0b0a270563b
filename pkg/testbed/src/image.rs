//! Container images without a registry: docker archives written from files at hand.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One entry of an image's only layer.
pub enum Entry {
    Dir { path: String, mode: u32 },
    File { path: String, mode: u32, data: Vec<u8> },
    Link { path: String, target: String },
}

/// An image to be written as an archive.
pub struct Image {
    pub name: String,
    pub entries: Vec<Entry>,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    pub user: String,
}

impl Image {
    /// Writes the archive; the same content gives the same bytes.
    pub fn write(&self, path: &Path) -> Result<()> {
        let layer = self.layer()?;
        let layer_digest = hex::encode(Sha256::digest(&layer));
        let config = serde_json::to_vec(&json!({
            "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
            "os": "linux",
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Entrypoint": self.entrypoint,
                "Cmd": self.command,
                "User": self.user,
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
        }))?;
        let config_name = format!("{}.json", hex::encode(Sha256::digest(&config)));
        let layer_name = format!("{layer_digest}.tar");
        let manifest = serde_json::to_vec(&json!([
            {"Config": config_name, "RepoTags": [self.name], "Layers": [layer_name]}
        ]))?;
        let part = path.with_extension("part");
        let mut archive = tar::Builder::new(fs::File::create(&part)?);
        append_file(&mut archive, &layer_name, 0o644, &layer)?;
        append_file(&mut archive, &config_name, 0o644, &config)?;
        append_file(&mut archive, "manifest.json", 0o644, &manifest)?;
        archive.into_inner()?.sync_all()?;
        fs::rename(part, path).with_context(|| format!("cannot write {}", path.display()))
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for entry in &self.entries {
            match entry {
                Entry::Dir { path, mode } => {
                    let mut header = header(tar::EntryType::Directory, *mode, 0);
                    tar.append_data(&mut header, format!("{path}/"), std::io::empty())?;
                }
                Entry::File { path, mode, data } => append_file(&mut tar, path, *mode, data)?,
                Entry::Link { path, target } => {
                    tar.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), path, target)?;
                }
            }
        }
        Ok(tar.into_inner()?)
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn append_file<W: std::io::Write>(
    tar: &mut tar::Builder<W>,
    path: &str,
    mode: u32,
    data: &[u8],
) -> Result<()> {
    let mut header = header(tar::EntryType::Regular, mode, data.len() as u64);
    tar.append_data(&mut header, path, data).with_context(|| format!("cannot pack {path}"))
}

/// `localhost/pause:local`, from our own static binary.
pub fn pause(binary: &Path) -> Result<Image> {
    Ok(Image {
        name: crate::spec::PAUSE_IMAGE.to_owned(),
        entries: vec![file("pause", 0o755, binary)?],
        entrypoint: vec!["/pause".to_owned()],
        command: Vec::new(),
        user: "65535:65535".to_owned(),
    })
}

/// `localhost/busybox:local`, from Debian's busybox-static with every applet linked.
pub fn busybox(binary: &Path) -> Result<Image> {
    let applets =
        Command::new(binary).arg("--list").output().context("cannot run busybox (package busybox-static)")?;
    ensure!(applets.status.success(), "busybox --list failed");
    let mut entries: Vec<Entry> =
        ["bin", "dev", "etc", "home", "proc", "root", "sys", "usr", "usr/bin", "var"]
            .iter()
            .map(|d| Entry::Dir { path: (*d).to_owned(), mode: 0o755 })
            .collect();
    entries.push(Entry::Dir { path: "tmp".to_owned(), mode: 0o1777 });
    entries.push(file("bin/busybox", 0o755, binary)?);
    let names = String::from_utf8_lossy(&applets.stdout).into_owned();
    for applet in names.lines().filter(|a| !a.is_empty() && *a != "busybox") {
        entries.push(Entry::Link { path: format!("bin/{applet}"), target: "busybox".to_owned() });
    }
    entries.push(Entry::Link { path: "usr/bin/env".to_owned(), target: "../../bin/busybox".to_owned() });
    let text = |path: &str, text: &str| Entry::File {
        path: path.to_owned(),
        mode: 0o644,
        data: text.as_bytes().to_vec(),
    };
    entries.push(text(
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
    ));
    entries.push(text("etc/group", "root:x:0:\nnogroup:x:65534:\n"));
    entries.push(text("etc/nsswitch.conf", "hosts: files dns\n"));
    Ok(Image {
        name: "localhost/busybox:local".to_owned(),
        entries,
        entrypoint: Vec::new(),
        command: vec!["sh".to_owned()],
        user: String::new(),
    })
}

/// An image that holds one static binary of ours.
pub fn single_binary(name: &str, binary: &Path) -> Result<Image> {
    let program = binary.file_name().context("a binary has a name")?.to_string_lossy().into_owned();
    Ok(Image {
        name: name.to_owned(),
        entries: vec![Entry::Dir { path: "tmp".to_owned(), mode: 0o1777 }, file(&program, 0o755, binary)?],
        entrypoint: vec![format!("/{program}")],
        command: Vec::new(),
        user: String::new(),
    })
}

fn file(path: &str, mode: u32, source: &Path) -> Result<Entry> {
    let data = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
    Ok(Entry::File { path: path.to_owned(), mode, data })
}

/// All archives that a cluster starts with, made anew when their source is newer.
pub fn build_all(bin_dir: &Path, out: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(out)?;
    let mut archives = Vec::new();
    let mut build = |file: &str, source: &Path, make: &dyn Fn(&Path) -> Result<Image>| -> Result<()> {
        let archive = out.join(file);
        if !newer(&archive, source) {
            make(source)?.write(&archive)?;
        }
        archives.push(archive);
        Ok(())
    };
    build("pause.tar", &bin_dir.join("pause"), &pause)?;
    build("busybox.tar", Path::new("/bin/busybox"), &busybox)?;
    let dns = bin_dir.join("cluster-dns");
    if dns.exists() {
        build("cluster-dns.tar", &dns, &|b| single_binary("localhost/cluster-dns:local", b))?;
    }
    Ok(archives)
}

fn newer(archive: &Path, source: &Path) -> bool {
    let time = |p: &Path| fs::metadata(p).and_then(|m| m.modified()).ok();
    matches!((time(archive), time(source)), (Some(a), Some(s)) if a > s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_names_its_image_and_carries_its_files() {
        let dir = tempfile::tempdir().expect("temp dir");
        let binary = dir.path().join("tool");
        fs::write(&binary, b"binary").expect("written");
        let path = dir.path().join("image.tar");
        single_binary("localhost/tool:local", &binary).and_then(|i| i.write(&path)).expect("image");
        let mut archive = tar::Archive::new(fs::File::open(&path).expect("archive"));
        let mut names = Vec::new();
        let mut manifest = serde_json::Value::Null;
        for entry in archive.entries().expect("entries") {
            let entry = entry.expect("entry");
            let name = entry.path().expect("path").display().to_string();
            if name == "manifest.json" {
                manifest = serde_json::from_reader(entry).expect("manifest");
            }
            names.push(name);
        }
        assert_eq!(manifest[0]["RepoTags"][0], "localhost/tool:local");
        assert!(names.contains(&manifest[0]["Layers"][0].as_str().expect("layer").to_owned()));
        assert!(names.contains(&manifest[0]["Config"].as_str().expect("config").to_owned()));
    }
}

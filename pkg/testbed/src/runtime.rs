//! The container runtime of the nodes: containerd or CRI-O, the machine's own or another version from a folder.

use crate::control;
use crate::layout::State;
use crate::spec::{EGRESS_PORT, PAUSE_IMAGE, Process};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where a node's processes find programs.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const CONTAINERD_CONFIGURATION: &str = "/etc/containerd/binnacle.toml";
const CRIO_CONFIGURATION: &str = "/etc/kubernetes/crio.conf";
const OCI_RUNTIME: &str = "/etc/kubernetes/oci-runtime";

/// The runtimes that a node can run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    #[default]
    Containerd,
    Crio,
}

/// Which runtime the nodes run, and where its programs lie.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Runtime {
    pub kind: Kind,
    /// A folder whose programs go before the machine's own.
    pub dir: Option<PathBuf>,
}

impl Runtime {
    /// The socket of its CRI.
    pub fn socket(&self) -> &'static str {
        match self.kind {
            Kind::Containerd => "/run/containerd/containerd.sock",
            Kind::Crio => "/run/crio/crio.sock",
        }
    }

    /// A program of the runtime: the folder's, or else the machine's.
    fn program(&self, name: &str) -> PathBuf {
        let machine = SEARCH_PATH.split(':').map(Path::new);
        let mut folders = self.dir.iter().map(PathBuf::as_path).chain(machine);
        folders
            .find_map(|f| Some(f.join(name)).filter(|p| p.exists()))
            .unwrap_or_else(|| Path::new("/usr/bin").join(name))
    }

    /// Fails when the node could not run it.
    pub fn check(&self) -> Result<()> {
        let needed: &[&str] = match self.kind {
            Kind::Containerd => &["containerd", "ctr"],
            Kind::Crio => &["crio", "conmon", "pinns", "skopeo"],
        };
        let missing: Vec<&str> = needed.iter().copied().filter(|p| !self.program(p).exists()).collect();
        ensure!(missing.is_empty(), "missing programs of the container runtime: {}", missing.join(", "));
        Ok(())
    }

    /// How a node starts it.
    pub fn process(&self) -> Process {
        let (name, configuration) = match self.kind {
            Kind::Containerd => ("containerd", CONTAINERD_CONFIGURATION),
            Kind::Crio => ("crio", CRIO_CONFIGURATION),
        };
        let program = self.program(name).to_string_lossy().into_owned();
        let mut argv = vec![program, format!("--config={configuration}")];
        if self.kind == Kind::Crio {
            argv.push("--config-dir=".to_owned());
        }
        let egress = format!("http://127.0.0.1:{EGRESS_PORT}");
        let mut env: Vec<_> = ["HTTP_PROXY", "HTTPS_PROXY"].map(|n| (n.to_owned(), egress.clone())).into();
        if let Some(dir) = &self.dir {
            env.push(("PATH".to_owned(), format!("{}:{SEARCH_PATH}", dir.display())));
        }
        Process { name: name.to_owned(), argv, env }
    }

    /// The files that it is configured with, for the node's `/etc/kubernetes`: name, text and mode.
    pub fn configuration(&self) -> Vec<(&'static str, String, u32)> {
        match self.kind {
            Kind::Containerd => vec![("containerd.toml", self.containerd_configuration(), 0o644)],
            Kind::Crio => vec![
                ("crio.conf", self.crio_configuration(), 0o644),
                (
                    "image-policy.json",
                    r#"{"default": [{"type": "insecureAcceptAnything"}]}"#.to_owned(),
                    0o644,
                ),
                ("oci-runtime", self.oci_runtime(), 0o755),
            ],
        }
    }

    fn containerd_configuration(&self) -> String {
        format!(
            "\
version = 2
root = \"/var/lib/containerd\"
state = \"/run/containerd\"
disabled_plugins = [\"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.aufs\", \"io.containerd.internal.v1.opt\", \"io.containerd.tracing.processor.v1.otlp\", \"io.containerd.internal.v1.tracing\"]
[grpc]
address = \"{}\"
[plugins.\"io.containerd.grpc.v1.cri\"]
sandbox_image = \"{PAUSE_IMAGE}\"
restrict_oom_score_adj = true
stream_server_address = \"127.0.0.1\"
[plugins.\"io.containerd.grpc.v1.cri\".cni]
bin_dir = \"/usr/lib/cni\"
conf_dir = \"/etc/cni/net.d\"
[plugins.\"io.containerd.grpc.v1.cri\".containerd]
snapshotter = \"overlayfs\"
[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]
runtime_type = \"io.containerd.runc.v2\"
",
            self.socket()
        )
    }

    fn crio_configuration(&self) -> String {
        format!(
            "\
[crio]
root = \"/var/lib/containers/storage\"
runroot = \"/run/containers/storage\"
storage_driver = \"overlay\"
[crio.api]
listen = \"{socket}\"
stream_address = \"127.0.0.1\"
stream_port = \"0\"
[crio.runtime]
cgroup_manager = \"cgroupfs\"
conmon_cgroup = \"pod\"
pinns_path = \"{pinns}\"
enable_pod_events = true
default_runtime = \"node\"
[crio.runtime.runtimes.node]
runtime_path = \"{OCI_RUNTIME}\"
runtime_root = \"/run/oci-runtime\"
monitor_path = \"{conmon}\"
[crio.image]
pause_image = \"{PAUSE_IMAGE}\"
pause_command = \"/pause\"
signature_policy = \"/etc/kubernetes/image-policy.json\"
[crio.network]
network_dir = \"/etc/cni/net.d\"
plugin_dirs = [\"/usr/lib/cni\"]
",
            socket = self.socket(),
            pinns = self.program("pinns").display(),
            conmon = self.program("conmon").display(),
        )
    }

    /// The OCI runtime behind a script that forgoes what a small machine may lack, as containerd's options do: OOM
    /// scores below zero, and limits of huge pages, whose controller may be there without a hierarchy.
    fn oci_runtime(&self) -> String {
        let own = ["crun", "runc"].map(|name| self.program(name));
        let program = own.iter().find(|p| p.exists()).unwrap_or(&own[1]);
        format!(
            r#"#!/bin/sh
take=
for word; do
  [ "$take" ] && [ -f "$word/config.json" ] && sed -z -i 's/"oomScoreAdj": *-[0-9]*/"oomScoreAdj":0/;s/"hugepageLimits": *\[[^]]*\]/"hugepageLimits":[]/' "$word/config.json"
  take=
  case $word in --bundle | -b) take=1 ;; esac
done
exec {} "$@"
"#,
            program.display()
        )
    }

    /// Whether the runtime of a node answers, or why not.
    pub fn answers(&self, state: &State, node: &str) -> Result<()> {
        let out = match self.kind {
            Kind::Containerd => {
                self.inside(state, node, "ctr")?.args(["--connect-timeout=1s", "version"]).output()?
            }
            Kind::Crio => control::inside(state, node, "test")?.args(["-S", self.socket()]).output()?,
        };
        ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr).trim());
        Ok(())
    }

    /// Imports an archive into the runtime of a node under the names that it carries.
    pub fn import(&self, state: &State, node: &str, archive: &Path) -> Result<()> {
        let file = File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
        if self.kind == Kind::Containerd {
            let mut ctr = self.inside(state, node, "ctr")?;
            ctr.args(["--namespace=k8s.io", "images", "import", "--snapshotter=overlayfs", "-"]);
            return run(ctr.stdin(file), node, archive);
        }
        for name in image_names(file).with_context(|| format!("cannot read {}", archive.display()))? {
            let mut skopeo = self.inside(state, node, "skopeo")?;
            skopeo.args(["--insecure-policy", "copy", "--quiet"]);
            skopeo.arg(format!("docker-archive:{}:{name}", archive.display()));
            skopeo.arg(format!(
                "containers-storage:[overlay@/var/lib/containers/storage+/run/containers/storage]{name}"
            ));
            run(skopeo.stdin(Stdio::null()), node, archive)?;
        }
        Ok(())
    }

    fn inside(&self, state: &State, node: &str, program: &str) -> Result<Command> {
        control::inside(state, node, &self.program(program).to_string_lossy())
    }
}

fn run(command: &mut Command, node: &str, archive: &Path) -> Result<()> {
    let out = command.output().context("cannot run nsenter (package util-linux)")?;
    if !out.status.success() {
        let why = String::from_utf8_lossy(&out.stderr);
        bail!("node {node} cannot import {}: {}", archive.display(), why.trim());
    }
    Ok(())
}

/// The names that a docker archive gives its images.
fn image_names(archive: impl Read) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Image {
        #[serde(rename = "RepoTags", default)]
        names: Vec<String>,
    }
    for entry in tar::Archive::new(archive).entries()? {
        let entry = entry?;
        if entry.path()?.as_os_str() == "manifest.json" {
            let images: Vec<Image> = serde_json::from_reader(entry)?;
            return Ok(images.into_iter().flat_map(|i| i.names).collect());
        }
    }
    bail!("not a docker archive: it has no manifest.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_before_the_machine() {
        let dir = tempfile::tempdir().expect("folder");
        std::fs::write(dir.path().join("crio"), "").expect("written");
        let runtime = Runtime { kind: Kind::Crio, dir: Some(dir.path().to_owned()) };
        let process = runtime.process();
        assert_eq!(process.name, "crio");
        assert_eq!(process.argv[0], dir.path().join("crio").to_string_lossy());
        let path = process.env.iter().find(|(n, _)| n == "PATH").map(|(_, v)| v.as_str());
        assert_eq!(path, Some(format!("{}:{SEARCH_PATH}", dir.path().display()).as_str()));
        assert_eq!(runtime.program("sh"), Path::new("/usr/bin/sh"));
        assert!(Runtime::default().process().env.iter().all(|(n, _)| n != "PATH"));
    }

    #[test]
    fn names_are_read_from_archives() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("image.tar");
        let image = crate::image::Image {
            name: "localhost/a:b".to_owned(),
            entries: Vec::new(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            user: String::new(),
        };
        image.write(&path).expect("written");
        assert_eq!(image_names(File::open(&path).expect("opened")).expect("read"), ["localhost/a:b"]);
        assert!(image_names(&b""[..]).is_err());
    }

    #[test]
    fn the_script_forgoes_what_is_not_there() {
        let dir = tempfile::tempdir().expect("folder");
        let fake = dir.path().join("crun");
        std::fs::write(&fake, "#!/bin/sh\necho \"$@\"\n").expect("written");
        std::fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
        let runtime = Runtime { kind: Kind::Crio, dir: Some(dir.path().to_owned()) };
        let config = dir.path().join("config.json");
        for (before, after) in [
            ("\"oomScoreAdj\": -998", "\"oomScoreAdj\":0"),
            ("\"oomScoreAdj\":0", "\"oomScoreAdj\":0"),
            ("\"oomScoreAdj\":1000", "\"oomScoreAdj\":1000"),
            ("\"hugepageLimits\": [\n{\"limit\": 0}\n],\"a\":[]", "\"hugepageLimits\":[],\"a\":[]"),
        ] {
            std::fs::write(&config, before).expect("written");
            let out = Command::new("sh")
                .args(["-c", &runtime.oci_runtime(), "sh", "create", "--bundle"])
                .arg(dir.path())
                .arg("an id")
                .output()
                .expect("runs");
            let said = String::from_utf8_lossy(&out.stdout).into_owned();
            assert_eq!(said, format!("create --bundle {} an id\n", dir.path().display()));
            let text = std::fs::read_to_string(&config).expect("read");
            assert_eq!(text, after);
        }
    }
}

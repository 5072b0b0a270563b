//! A container, as the runtime is told to make it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use volumes::{Mounted, layout, subpath};

use crate::images::Image;
use crate::kubelet::Kubelet;
use crate::pod::PodExt;
use crate::{dns, env, labels, model, resources, sandbox, security};

/// What making a container needs beside its spec.
pub struct Make<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub restart_count: u32,
    pub image: &'a Image,
    pub ips: &'a [String],
    pub volumes: &'a BTreeMap<String, Mounted>,
    /// The container whose processes an ephemeral one sees.
    pub target_id: Option<&'a str>,
}

/// The configuration of a container. The error is the message of `CreateContainerConfigError`.
pub async fn config(kubelet: &Kubelet, make: &Make<'_>) -> Result<v1::ContainerConfig, String> {
    let Make { pod, container, .. } = make;
    let log_dir = sandbox::log_dir(kubelet, pod).join(&container.name);
    make_dir(&log_dir, 0o755).map_err(|e| {
        format!("create container log directory for container {} failed: {e}", container.name)
    })?;
    let downward = model::downward(&kubelet.downward(), make.ips);
    let links = pod.spec().enable_service_links.unwrap_or(true);
    let services = kubelet.services.variables(pod.namespace(), links, pod.is_static()).await?;
    let variables =
        env::of_container(pod, container, &services, &downward, kubelet.objects(), make.volumes).await?;
    let userns = kubelet.user_namespaces.of_pod(pod)?;
    let security = security::of_container(
        pod,
        container,
        &make.image.user,
        userns.clone(),
        make.target_id,
        &kubelet.security,
    )?;
    let mut mounts = volume_mounts(kubelet, make, &variables, &userns)?;
    mounts.extend(hosts_mount(kubelet, make, &mounts)?);
    mounts.extend(termination_mount(kubelet, make)?);
    let mut devices = devices(container, make.volumes)?;
    let extras = kubelet.managers.before_start(pod, container).await?;
    let mut cdi_devices = extras.cdi_devices;
    let claimed = crate::claims::cdi_devices(kubelet, pod, container)?;
    cdi_devices.extend(claimed.into_iter().map(|name| v1::CdiDevice { name }));
    let own: BTreeSet<&str> = variables.iter().map(|(key, _)| key.as_str()).collect();
    // What the container's own spec says counts more than what a device plugin says.
    let mut envs: Vec<(String, String)> =
        extras.envs.into_iter().filter(|(key, _)| !own.contains(key.as_str())).collect();
    envs.extend(variables.iter().cloned());
    mounts.extend(extras.mounts);
    devices.extend(extras.devices);
    let mut annotations = labels::annotations(pod, container, make.restart_count);
    annotations.extend(extras.annotations);
    let mut linux = resources::of_container(pod, container, &kubelet.node_resources);
    (linux.cpuset_cpus, linux.cpuset_mems) = kubelet.managers.cpuset(pod, &container.name);
    let stdin = container.stdin.unwrap_or(false);
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: make.restart_count }),
        image: Some(v1::ImageSpec {
            image: make.image.reference.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: env::expand_list(container.command.as_ref(), &variables),
        args: env::expand_list(container.args.as_ref(), &variables),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: envs.into_iter().map(|(key, value)| v1::KeyValue { key, value: value.into_bytes() }).collect(),
        mounts,
        devices,
        labels: labels::of_container(pod, container),
        annotations,
        log_path: format!("{}/{}.log", container.name, make.restart_count),
        stdin,
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(v1::LinuxContainerConfig { resources: Some(linux), security_context: Some(security) }),
        cdi_devices,
        stop_signal: stop_signal(container),
    })
}

fn stop_signal(container: &Container) -> i32 {
    let name = container.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref());
    name.and_then(v1::Signal::from_str_name).unwrap_or(v1::Signal::RuntimeDefault) as i32
}

/// Makes a folder and its parents; its mode does not depend on the umask.
pub fn make_dir(path: &Path, mode: u32) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(mode).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn volume_mounts(
    kubelet: &Kubelet,
    make: &Make<'_>,
    variables: &[(String, String)],
    userns: &Option<v1::UserNamespace>,
) -> Result<Vec<v1::Mount>, String> {
    let mut mounts = Vec::new();
    for (index, mount) in make.container.volume_mounts.iter().flatten().enumerate() {
        if let Some(image) = image_volume(make, mount) {
            mounts.push(image);
            continue;
        }
        let Some(volume) = make.volumes.get(&mount.name) else {
            return Err(format!(
                "cannot find volume {:?} to mount into container {:?}",
                mount.name, make.container.name
            ));
        };
        let sub = sub_path(mount, variables)?;
        let read_only = mount.read_only.unwrap_or(false) || volume.read_only;
        let host_path = if sub.is_empty() {
            volume.path.clone()
        } else {
            let request = subpath::SubPath {
                pod_dir: &kubelet.pod_dir(make.pod.uid()),
                volume_path: &volume.path,
                volume_name: &mount.name,
                path: &sub,
                container: &make.container.name,
                index,
                create: !volume.read_only,
            };
            subpath::bind(&request).map_err(|e| e.to_string())?
        };
        if sub.is_empty() && !host_path.exists() {
            // A hostPath of no type is made, as container runtimes have always done.
            make_dir(&host_path, 0o755).map_err(|e| format!("mkdir {}: {e}", host_path.display()))?;
        }
        let (uids, gids) = userns.as_ref().map(|u| (u.uids.clone(), u.gids.clone())).unwrap_or_default();
        mounts.push(v1::Mount {
            container_path: absolute(&mount.mount_path),
            host_path: host_path.to_string_lossy().into_owned(),
            readonly: read_only,
            propagation: propagation(make.container, mount)?,
            recursive_read_only: read_only && kubelet.wants_recursive_read_only(mount)?,
            uid_mappings: uids,
            gid_mappings: gids,
            ..Default::default()
        });
    }
    Ok(mounts)
}

/// The part of a volume that a container sees, empty for all of it.
fn sub_path(mount: &VolumeMount, variables: &[(String, String)]) -> Result<String, String> {
    let missing = std::cell::RefCell::new(std::collections::BTreeSet::new());
    let lookup = |name: &str| {
        let found = variables.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        if found.is_none_or(str::is_empty) {
            missing.borrow_mut().insert(name.to_string());
        }
        Some(found.unwrap_or_default())
    };
    let sub = match (mount.sub_path_expr.as_deref().unwrap_or_default(), mount.sub_path.as_deref()) {
        ("", sub) => sub.unwrap_or_default().to_string(),
        (expression, _) => env::expand(expression, lookup),
    };
    let missing: Vec<String> = missing.into_inner().into_iter().collect();
    if !missing.is_empty() {
        return Err(format!("missing value for {}", missing.join(", ")));
    }
    if sub.starts_with('/') {
        return Err(format!("error SubPath `{sub}` must not be an absolute path"));
    }
    if sub.split('/').any(|part| part == "..") {
        return Err(format!("unable to provision SubPath `{sub}`: must not contain '..'"));
    }
    Ok(sub)
}

/// A volume that is an image is mounted by the runtime itself.
fn image_volume(make: &Make<'_>, mount: &VolumeMount) -> Option<v1::Mount> {
    let volume = make.pod.spec().volumes.iter().flatten().find(|v| v.name == mount.name)?;
    let image = volume.image.as_ref()?;
    Some(v1::Mount {
        container_path: absolute(&mount.mount_path),
        readonly: true,
        image: Some(v1::ImageSpec {
            image: make
                .image
                .volumes
                .get(&mount.name)
                .cloned()
                .or(image.reference.clone())
                .unwrap_or_default(),
            user_specified_image: image.reference.clone().unwrap_or_default(),
            ..Default::default()
        }),
        image_sub_path: mount.sub_path.clone().unwrap_or_default(),
        ..Default::default()
    })
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_string() } else { format!("/{path}") }
}

fn propagation(container: &Container, mount: &VolumeMount) -> Result<i32, String> {
    Ok(match mount.mount_propagation.as_deref() {
        None | Some("None") => v1::MountPropagation::PropagationPrivate as i32,
        Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer as i32,
        Some("Bidirectional") if security::is_privileged(container) => {
            v1::MountPropagation::PropagationBidirectional as i32
        }
        Some(other) => return Err(format!("invalid MountPropagation mode: {other:?}")),
    })
}

/// /etc/hosts, unless the pod brings its own.
fn hosts_mount(
    kubelet: &Kubelet,
    make: &Make<'_>,
    mounts: &[v1::Mount],
) -> Result<Option<v1::Mount>, String> {
    let taken = mounts.iter().any(|m| m.container_path == "/etc/hosts");
    if taken || (make.ips.is_empty() && !make.pod.host_network()) {
        return Ok(None);
    }
    let path = kubelet.pod_dir(make.pod.uid()).join("etc-hosts");
    let (name, domain) = dns::hostname(make.pod, &kubelet.config.cluster_domain)?;
    let text = dns::hosts_file(make.pod, make.ips, &name, &domain);
    let write =
        fs::write(&path, text).and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o644)));
    write.map_err(|e| format!("write {}: {e}", path.display()))?;
    Ok(Some(v1::Mount {
        container_path: "/etc/hosts".into(),
        host_path: path.to_string_lossy().into_owned(),
        ..Default::default()
    }))
}

/// A file for the container's last words.
fn termination_mount(kubelet: &Kubelet, make: &Make<'_>) -> Result<Option<v1::Mount>, String> {
    let Some(target) = make.container.termination_message_path.as_deref().filter(|p| !p.is_empty()) else {
        return Ok(None);
    };
    let dir = kubelet.pod_dir(make.pod.uid()).join("containers").join(&make.container.name);
    make_dir(&dir, 0o750).map_err(|e| format!("mkdir {}: {e}", dir.display()))?;
    // Each run of a container has its own.
    let file = dir.join(format!("{:08x}", rand::random::<u32>()));
    let made =
        fs::write(&file, "").and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(0o666)));
    made.map_err(|e| format!("create {}: {e}", file.display()))?;
    Ok(Some(v1::Mount {
        container_path: absolute(target),
        host_path: file.to_string_lossy().into_owned(),
        ..Default::default()
    }))
}

fn devices(container: &Container, volumes: &BTreeMap<String, Mounted>) -> Result<Vec<v1::Device>, String> {
    let list = container.volume_devices.iter().flatten();
    list.map(|device| {
        let volume =
            volumes.get(&device.name).ok_or_else(|| format!("cannot find block volume {:?}", device.name))?;
        Ok(v1::Device {
            container_path: device.device_path.clone(),
            host_path: volume.path.to_string_lossy().into_owned(),
            permissions: if volume.read_only { "r".into() } else { "mrw".into() },
        })
    })
    .collect()
}

/// The number of the next run, from the log files of the runs before: for when the runtime has forgotten them.
pub fn restart_count_from_logs(dir: &Path) -> u32 {
    let names =
        fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
    let runs = names.filter_map(|name| name.split('.').next()?.parse::<u32>().ok());
    runs.max().map_or(0, |last| last + 1)
}

/// The folders of a pod.
pub fn make_pod_dirs(kubelet: &Kubelet, pod: &Pod) -> std::io::Result<()> {
    let dir = kubelet.pod_dir(pod.uid());
    make_dir(&dir, 0o750)?;
    make_dir(&layout::volumes_dir(&dir), 0o750)?;
    make_dir(&dir.join("plugins"), 0o750)?;
    make_dir(&sandbox::log_dir(kubelet, pod), 0o755)
}

/// The link by which log collectors find a container's log.
pub fn legacy_log_link(pod: &Pod, container: &str, id: &str) -> PathBuf {
    let stem = format!("{}_{}_{container}", pod.name(), pod.namespace());
    let suffix = format!("-{id}.log");
    // File names end at 255 bytes.
    let stem = &stem[..stem.len().min(251usize.saturating_sub(suffix.len()))];
    Path::new("/var/log/containers").join(format!("{stem}{suffix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_volumes() {
        let variables = [("A", "x"), ("UP", "../y"), ("ABS", "/etc"), ("EMPTY", "")]
            .map(|(key, value)| (key.to_string(), value.to_string()));
        for (expression, expected) in [
            ("$(A)/b", Ok("x/b")),
            ("$$(A)", Ok("$(A)")),
            ("$(UP)", Err("unable to provision SubPath `../y`: must not contain '..'")),
            ("$(ABS)", Err("error SubPath `/etc` must not be an absolute path")),
            ("$(NO)/$(EMPTY)", Err("missing value for EMPTY, NO")),
        ] {
            let mount = VolumeMount { sub_path_expr: Some(expression.into()), ..Default::default() };
            let found = sub_path(&mount, &variables);
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "{expression}");
        }
    }
}

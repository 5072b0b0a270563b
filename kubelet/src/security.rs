//! Security contexts: what pod and container ask for, as the runtime is told.

use std::path::Path;

use cri::v1;
use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod, SELinuxOptions, SeccompProfile};

use crate::pod::PodExt;

/// Paths of /proc and /sys that are hidden from a container unless it asks for all of /proc.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/interrupts",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What the node has to say about security.
#[derive(Debug, Clone)]
pub struct NodeSecurity {
    /// Containers that ask for nothing get the runtime's seccomp profile.
    pub seccomp_default: bool,
    /// Where localhost seccomp profiles lie.
    pub seccomp_dir: std::path::PathBuf,
}

/// The namespaces of a pod, without user namespaces.
pub fn namespaces(pod: &Pod, userns: Option<v1::UserNamespace>) -> v1::NamespaceOption {
    let spec = pod.spec();
    let mode = |host: Option<bool>, other: v1::NamespaceMode| {
        if host.unwrap_or(false) { v1::NamespaceMode::Node as i32 } else { other as i32 }
    };
    let shared = spec.share_process_namespace.unwrap_or(false);
    let pid = if shared { v1::NamespaceMode::Pod } else { v1::NamespaceMode::Container };
    v1::NamespaceOption {
        network: mode(spec.host_network, v1::NamespaceMode::Pod),
        pid: mode(spec.host_pid, pid),
        ipc: mode(spec.host_ipc, v1::NamespaceMode::Pod),
        target_id: String::new(),
        userns_options: userns,
    }
}

/// The security context of the sandbox.
pub fn of_sandbox(pod: &Pod, userns: Option<v1::UserNamespace>) -> v1::LinuxSandboxSecurityContext {
    let spec = pod.spec();
    let int = |value: Option<i64>| value.map(|value| v1::Int64Value { value });
    let privileged = pod.all_containers().iter().any(|(_, c)| is_privileged(c));
    let context = spec.security_context.clone().unwrap_or_default();
    v1::LinuxSandboxSecurityContext {
        privileged,
        // The sandbox itself does nothing, so it gets the least.
        seccomp: Some(profile(v1::security_profile::ProfileType::RuntimeDefault, "")),
        namespace_options: Some(namespaces(pod, userns)),
        run_as_user: int(context.run_as_user),
        run_as_group: int(context.run_as_group),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod),
        selinux_options: context.se_linux_options.as_ref().map(selinux),
        ..Default::default()
    }
}

fn groups(pod: &Pod) -> Vec<i64> {
    let context = pod.spec().security_context.as_ref();
    let fs_group = context.and_then(|c| c.fs_group);
    let more = context.and_then(|c| c.supplemental_groups.clone()).unwrap_or_default();
    fs_group.into_iter().chain(more).collect()
}

fn groups_policy(pod: &Pod) -> i32 {
    let policy = pod.spec().security_context.as_ref().and_then(|c| c.supplemental_groups_policy.as_deref());
    match policy {
        Some("Strict") => v1::SupplementalGroupsPolicy::Strict as i32,
        _ => v1::SupplementalGroupsPolicy::Merge as i32,
    }
}

fn selinux(options: &SELinuxOptions) -> v1::SeLinuxOption {
    v1::SeLinuxOption {
        user: options.user.clone().unwrap_or_default(),
        role: options.role.clone().unwrap_or_default(),
        r#type: options.type_.clone().unwrap_or_default(),
        level: options.level.clone().unwrap_or_default(),
    }
}

/// Whether a container has all the powers of the node.
pub fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|c| c.privileged).unwrap_or(false)
}

/// The user the image says: a number, or a name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageUser {
    pub uid: Option<i64>,
    pub name: String,
}

/// The security context of a container. `Err` when it must not run as the user it would.
pub fn of_container(
    pod: &Pod,
    container: &Container,
    image_user: &ImageUser,
    userns: Option<v1::UserNamespace>,
    target_id: Option<&str>,
    node: &NodeSecurity,
) -> Result<v1::LinuxContainerSecurityContext, String> {
    verify_non_root(pod, container, image_user)?;
    let own = container.security_context.clone().unwrap_or_default();
    let of_pod = pod.spec().security_context.clone().unwrap_or_default();
    let int = |value: Option<i64>| value.map(|value| v1::Int64Value { value });
    let user = own.run_as_user.or(of_pod.run_as_user).or(image_user.uid);
    let mut namespaces = namespaces(pod, userns);
    if let Some(target) = target_id {
        namespaces.pid = v1::NamespaceMode::Target as i32;
        namespaces.target_id = target.to_string();
    }
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let paths =
        |list: &[&str]| if unmasked { Vec::new() } else { list.iter().map(|p| p.to_string()).collect() };
    let apparmor = apparmor(pod, container);
    #[expect(deprecated, reason = "older runtimes read only the old form")]
    let context = v1::LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(|c| v1::Capability {
            add_capabilities: c.add.clone().unwrap_or_default(),
            drop_capabilities: c.drop.clone().unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged: is_privileged(container),
        namespace_options: Some(namespaces),
        selinux_options: own.se_linux_options.as_ref().or(of_pod.se_linux_options.as_ref()).map(selinux),
        run_as_user: int(user),
        run_as_group: int(own.run_as_group.or(of_pod.run_as_group)),
        run_as_username: if user.is_none() { image_user.name.clone() } else { String::new() },
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(seccomp(pod, container, node)),
        apparmor_profile: apparmor.as_ref().map(legacy_apparmor).unwrap_or_default(),
        apparmor,
        ..Default::default()
    };
    Ok(context)
}

fn verify_non_root(pod: &Pod, container: &Container, image: &ImageUser) -> Result<(), String> {
    let own = container.security_context.clone().unwrap_or_default();
    let of_pod = pod.spec().security_context.clone().unwrap_or_default();
    if !own.run_as_non_root.or(of_pod.run_as_non_root).unwrap_or(false) {
        return Ok(());
    }
    let who = format!("(pod: \"{}\", container: {})", pod.formatted(), container.name);
    if let Some(user) = own.run_as_user.or(of_pod.run_as_user) {
        return if user == 0 {
            Err(format!("container's runAsUser breaks non-root policy {who}"))
        } else {
            Ok(())
        };
    }
    match image.uid {
        Some(0) => Err(format!("container has runAsNonRoot and image will run as root {who}")),
        Some(_) => Ok(()),
        None if !image.name.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {who}",
            image.name
        )),
        None => Ok(()),
    }
}

fn profile(kind: v1::security_profile::ProfileType, path: &str) -> v1::SecurityProfile {
    v1::SecurityProfile { profile_type: kind as i32, localhost_ref: path.to_string() }
}

fn seccomp(pod: &Pod, container: &Container, node: &NodeSecurity) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    let own = container.security_context.as_ref().and_then(|c| c.seccomp_profile.as_ref());
    let of_pod = pod.spec().security_context.as_ref().and_then(|c| c.seccomp_profile.as_ref());
    let asked: Option<&SeccompProfile> = own.or(of_pod);
    match asked.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref())) {
        Some(("RuntimeDefault", _)) => profile(ProfileType::RuntimeDefault, ""),
        Some(("Localhost", Some(file))) => {
            let path = node.seccomp_dir.join(safe_relative(file));
            profile(ProfileType::Localhost, &path.to_string_lossy())
        }
        Some(_) => profile(ProfileType::Unconfined, ""),
        None if node.seccomp_default && !is_privileged(container) => profile(ProfileType::RuntimeDefault, ""),
        None => profile(ProfileType::Unconfined, ""),
    }
}

/// A path that cannot lead out of the folder it is joined to.
fn safe_relative(path: &str) -> std::path::PathBuf {
    let parts = Path::new(path).components();
    parts.filter(|c| matches!(c, std::path::Component::Normal(_))).collect()
}

const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Whether the kernel enforces AppArmor profiles.
pub fn has_apparmor() -> bool {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    std::path::Path::new("/sys/kernel/security/apparmor").exists() && enabled.starts_with('Y')
}

/// Whether a pod asks for an AppArmor profile.
pub fn wants_apparmor(pod: &Pod) -> bool {
    let spec = pod.spec();
    let ephemeral: Vec<Container> =
        spec.ephemeral_containers.iter().flatten().map(crate::pod::ephemeral).collect();
    let containers = spec.containers.iter().chain(pod.init_containers()).chain(&ephemeral);
    let own = containers.filter_map(|c| c.security_context.as_ref()?.app_armor_profile.as_ref());
    let of_pod = spec.security_context.as_ref().and_then(|c| c.app_armor_profile.as_ref());
    let by_annotation = || {
        let mut set = pod.metadata.annotations.iter().flatten();
        set.find(|(key, _)| key.starts_with(APPARMOR_ANNOTATION))
            .is_some_and(|(_, value)| value != "unconfined")
    };
    own.chain(of_pod).any(|profile| profile.type_ != "Unconfined") || by_annotation()
}

fn apparmor(pod: &Pod, container: &Container) -> Option<v1::SecurityProfile> {
    use v1::security_profile::ProfileType;
    let own = container.security_context.as_ref().and_then(|c| c.app_armor_profile.as_ref());
    let of_pod = pod.spec().security_context.as_ref().and_then(|c| c.app_armor_profile.as_ref());
    let key = format!("{APPARMOR_ANNOTATION}{}", container.name);
    let asked: Option<&AppArmorProfile> = own.or(of_pod);
    let (kind, name) = match asked {
        Some(p) => (p.type_.clone(), p.localhost_profile.clone().unwrap_or_default()),
        None => match pod.annotation(&key)? {
            "runtime/default" => ("RuntimeDefault".into(), String::new()),
            "unconfined" => ("Unconfined".into(), String::new()),
            other => ("Localhost".into(), other.strip_prefix("localhost/")?.to_string()),
        },
    };
    Some(match kind.as_str() {
        "RuntimeDefault" => profile(ProfileType::RuntimeDefault, ""),
        "Localhost" => profile(ProfileType::Localhost, &name),
        _ => profile(ProfileType::Unconfined, ""),
    })
}

/// The form that older runtimes read.
fn legacy_apparmor(profile: &v1::SecurityProfile) -> String {
    use v1::security_profile::ProfileType;
    match ProfileType::try_from(profile.profile_type) {
        Ok(ProfileType::RuntimeDefault) => "runtime/default".into(),
        Ok(ProfileType::Localhost) => format!("localhost/{}", profile.localhost_ref),
        _ => "unconfined".into(),
    }
}

/// Sysctls that are safe for every pod; patterns end in `*`.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// The first sysctl of the pod that is not allowed here, in upstream's words.
pub fn forbidden_sysctl(pod: &Pod, unsafe_allowed: &[String]) -> Option<String> {
    let sysctls = pod.spec().security_context.as_ref()?.sysctls.as_ref()?;
    sysctls.iter().find_map(|sysctl| {
        let name = sysctl.name.replace('/', ".");
        let extra = unsafe_allowed.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => *pattern == name,
        });
        let host = (name.starts_with("net.") && pod.host_network())
            || (name.starts_with("kernel.shm") && pod.spec().host_ipc.unwrap_or(false));
        if host {
            return Some(format!("forbidden sysctl: {:?} not allowed with host net enabled", sysctl.name));
        }
        (!extra && !SAFE_SYSCTLS.contains(&name.as_str()))
            .then(|| format!("forbidden sysctl: {:?} not allowlisted", sysctl.name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node() -> NodeSecurity {
        NodeSecurity { seccomp_default: false, seccomp_dir: "/var/lib/kubelet/seccomp".into() }
    }

    fn convert(
        pod: serde_json::Value,
        container: serde_json::Value,
        image: ImageUser,
    ) -> Result<v1::LinuxContainerSecurityContext, String> {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [], "securityContext": pod}}))
            .unwrap();
        let container: Container =
            serde_json::from_value(json!({"name": "c", "securityContext": container})).unwrap();
        of_container(&pod, &container, &image, None, None, &node())
    }

    #[test]
    fn non_root() {
        let image = |uid, name: &str| ImageUser { uid, name: name.into() };
        for (container, image, error) in [
            (
                json!({"runAsNonRoot": true}),
                image(Some(0), ""),
                Some("container has runAsNonRoot and image will run as root (pod: \"p_n(u)\", container: c)"),
            ),
            (json!({"runAsNonRoot": true}), image(Some(5), ""), None),
            (
                json!({"runAsNonRoot": true, "runAsUser": 0}),
                image(Some(5), ""),
                Some("container's runAsUser breaks non-root policy (pod: \"p_n(u)\", container: c)"),
            ),
            (
                json!({"runAsNonRoot": true}),
                image(None, "bob"),
                Some(
                    "container has runAsNonRoot and image has non-numeric user (bob), cannot verify user is non-root (pod: \"p_n(u)\", container: c)",
                ),
            ),
            (json!({}), image(Some(0), ""), None),
        ] {
            assert_eq!(convert(json!({}), container.clone(), image).err().as_deref(), error, "{container}");
        }
    }

    #[test]
    fn container_wins_over_pod() {
        let got = convert(
            json!({"runAsUser": 1, "fsGroup": 9, "supplementalGroups": [7], "seccompProfile": {"type": "RuntimeDefault"}}),
            json!({"runAsUser": 2, "seccompProfile": {"type": "Localhost", "localhostProfile": "../../a/b.json"}}),
            ImageUser::default(),
        )
        .unwrap();
        assert_eq!(got.run_as_user.unwrap().value, 2);
        assert_eq!(got.supplemental_groups, [9, 7]);
        assert_eq!(got.seccomp.unwrap().localhost_ref, "/var/lib/kubelet/seccomp/a/b.json");
    }
}

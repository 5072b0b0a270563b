//! Volumes mounted with the label of their only pod, where the node has SELinux and the driver knows how: no file of
//! the volume has to be relabelled then.

use std::path::Path;

use k8s_openapi::api::core::v1::{Pod, SELinuxOptions};

use super::Csi;

/// The label to mount with, if the volume is to be mounted with one.
pub fn context(csi: &Csi, pod: &Pod) -> Option<String> {
    let able = csi.spec().and_then(|s| s.se_linux_mount) == Some(true);
    let alone = csi.access_modes() == ["ReadWriteOncePod"];
    if !able || !alone || !Path::new("/sys/fs/selinux/enforce").exists() {
        return None;
    }
    label(&common_options(pod)?, &default_file_label())
}

/// The options that all containers of a pod share.
fn common_options(pod: &Pod) -> Option<SELinuxOptions> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|c| c.se_linux_options.clone());
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut all = containers.map(|container| {
        let own = container.security_context.as_ref().and_then(|c| c.se_linux_options.clone());
        own.or_else(|| of_pod.clone())
    });
    let first = all.next()??;
    all.all(|other| other.as_ref() == Some(&first)).then_some(first)
}

/// The label that container runtimes give files by default.
fn default_file_label() -> String {
    let policy = std::fs::read_to_string("/etc/selinux/config").unwrap_or_default();
    let kind =
        policy.lines().find_map(|l| l.strip_prefix("SELINUXTYPE=")).unwrap_or("targeted").trim().to_string();
    let contexts = format!("/etc/selinux/{kind}/contexts/lxc_contexts");
    let contexts = std::fs::read_to_string(contexts).unwrap_or_default();
    let line = contexts.lines().find_map(|l| l.strip_prefix("file = "));
    line.map(|l| l.trim().trim_matches('"').to_string())
        .unwrap_or_else(|| "system_u:object_r:container_file_t:s0".into())
}

/// A file's label from a process's options; the role of files is not that of processes.
fn label(options: &SELinuxOptions, default: &str) -> Option<String> {
    let level = options.level.as_deref().filter(|l| !l.is_empty())?;
    let mut parts = default.splitn(4, ':');
    let (user, role, kind) = (parts.next()?, parts.next()?, parts.next()?);
    let user = options.user.as_deref().filter(|u| !u.is_empty()).unwrap_or(user);
    Some(format!("{user}:{role}:{kind}:{level}"))
}

/// Mount options with the label among them.
pub fn with_context(mut options: Vec<String>, context: Option<&str>) -> Vec<String> {
    options.extend(context.map(|c| format!("context={c:?}")));
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        let options = |user: Option<&str>, level: Option<&str>| SELinuxOptions {
            user: user.map(String::from),
            level: level.map(String::from),
            ..Default::default()
        };
        let default = "system_u:object_r:container_file_t:s0";
        let expected = Some("system_u:object_r:container_file_t:s0:c1,c2".to_string());
        assert_eq!(label(&options(None, Some("s0:c1,c2")), default), expected);
        assert_eq!(
            label(&options(Some("u"), Some("s1")), default).as_deref(),
            Some("u:object_r:container_file_t:s1")
        );
        assert_eq!(label(&options(Some("u"), None), default), None);
        assert_eq!(with_context(vec!["ro".into()], Some("a:b")), ["ro", "context=\"a:b\""]);
    }
}

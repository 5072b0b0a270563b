//! Changes the limits of a pod's cgroup while containers run in it.

use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;

use super::Cgroups;

/// A resource that can be resized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    Cpu,
    Memory,
}

impl Resource {
    fn is_of(self, file: &str) -> bool {
        match self {
            Self::Cpu => file.starts_with("cpu."),
            Self::Memory => file.starts_with("memory."),
        }
    }
}

impl Cgroups {
    /// Whether the cgroup of a pod is there.
    pub fn has_pod(&self, pod: &Pod) -> bool {
        let Some(path) = self.pod_path(pod) else { return true };
        self.hierarchies.first().is_none_or(|hierarchy| hierarchy.join(path).exists())
    }

    /// Raises what has to be higher before containers get more.
    pub fn widen(&self, pod: &Pod, resource: Resource) -> Result<(), String> {
        self.change(pod, resource, |now, wanted| wanted > now)
    }

    /// Lowers what may be lower now that containers have less.
    pub fn narrow(&self, pod: &Pod, resource: Resource) -> Result<(), String> {
        self.change(pod, resource, |now, wanted| wanted < now)
    }

    fn change(&self, pod: &Pod, resource: Resource, due: fn(i128, i128) -> bool) -> Result<(), String> {
        let Some(path) = self.pod_path(pod) else { return Ok(()) };
        let limits = self.limits_of(pod, 0);
        for (file, value) in self.settings(&limits).into_iter().filter(|(file, _)| resource.is_of(file)) {
            for hierarchy in &self.hierarchies {
                set_if(&hierarchy.join(&path).join(&file), &value, due)?;
            }
        }
        Ok(())
    }
}

fn set_if(file: &Path, value: &str, due: fn(i128, i128) -> bool) -> Result<(), String> {
    // Only the hierarchy of that controller has the file.
    let Ok(now) = fs::read_to_string(file) else { return Ok(()) };
    if now.trim() != value && due(size(&now), size(value)) {
        fs::write(file, value).map_err(|e| format!("failed to set {}: {e}", file.display()))?;
    }
    Ok(())
}

/// The first number of a setting; no limit is more than any.
fn size(text: &str) -> i128 {
    let first = text.split_whitespace().next().unwrap_or_default();
    match first.parse::<i128>() {
        Ok(number) if number >= 0 => number,
        _ => i128::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_in_the_direction_that_is_due() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cpu.max");
        for (now, wanted, widens, narrows) in [
            ("10000 100000", "20000 100000", true, false),
            ("max 100000", "20000 100000", false, true),
            ("-1", "5", false, true),
            ("5", "-1", true, false),
            ("5", "5", false, false),
        ] {
            for (due, changes) in
                [((|a, b| b > a) as fn(i128, i128) -> bool, widens), (|a, b| b < a, narrows)]
            {
                fs::write(&file, now).unwrap();
                set_if(&file, wanted, due).unwrap();
                assert_eq!(fs::read_to_string(&file).unwrap() == wanted && now != wanted, changes, "{now}");
            }
        }
        assert!(set_if(&dir.path().join("none"), "1", |_, _| true).is_ok());
    }
}

//! Reading configuration files: the one of `--config` and the drop-ins laid on it.

use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use api::json::discard_nulls;
use api::print::json_type;
use serde_json::{Map, Value};

use super::{API_VERSION, KubeletConfiguration, defaults};

/// Paths that are taken from the folder of the file that names them.
const PATHS: [&str; 7] = [
    "staticPodPath",
    "authentication.x509.clientCAFile",
    "tlsCertFile",
    "tlsPrivateKeyFile",
    "resolvConf",
    "volumePluginDir",
    "podLogsDir",
];

/// Fields that are maps; what is wrong with an entry is said of the field.
const MAPS: [&str; 12] = [
    "staticPodURLHeader",
    "cpuManagerPolicyOptions",
    "topologyManagerPolicyOptions",
    "qosReserved",
    "evictionHard",
    "evictionSoft",
    "evictionSoftGracePeriod",
    "evictionMinimumReclaim",
    "featureGates",
    "systemReserved",
    "kubeReserved",
    "limits",
];

/// The file of `--config`, with defaults.
pub fn file(path: &str) -> anyhow::Result<Map<String, Value>> {
    let path = std::path::absolute(path)?;
    load(&path).map_err(|e| anyhow!("failed to load Kubelet config file {}, error {e:#}", path.display()))
}

fn load(path: &Path) -> anyhow::Result<Map<String, Value>> {
    let text = text(path, "")?;
    let (value, repeated) = document(&text, false).map_err(|e| anyhow!("failed to decode: {e:#}"))?;
    identify(&value, &text).map_err(|e| anyhow!("failed to decode: {e:#}"))?;
    if value["kind"] != "KubeletConfiguration" {
        let kind = value["kind"].as_str().unwrap_or_default();
        bail!("failed to cast object to KubeletConfiguration, unexpected type: {API_VERSION}, Kind={kind}");
    }
    let (_, unknown) = decode(value.clone()).map_err(|e| anyhow!("failed to decode: {e:#}"))?;
    let unknown = unknown.iter().map(|field| format!("unknown field \"{field}\""));
    let wrong: Vec<String> = repeated.into_iter().chain(unknown).collect();
    if !wrong.is_empty() {
        let err = format!("strict decoding error: {}", wrong.join(", "));
        tracing::info!(err, "Using lenient decoding as strict decoding failed");
    }
    let mut value = defaults::with_eviction(defaults::fill(value)?);
    let dir = path.parent().unwrap_or(Path::new("/"));
    for field in PATHS {
        let pointer = format!("/{}", field.replace('.', "/"));
        let Some(own) = value_mut(&mut value, &pointer) else { continue };
        if let Some(said) = own.as_str().filter(|said| !said.is_empty() && !said.starts_with('/')) {
            *own = clean(&dir.join(said)).display().to_string().into();
        }
    }
    Ok(value)
}

fn value_mut<'a>(map: &'a mut Map<String, Value>, pointer: &str) -> Option<&'a mut Value> {
    let (first, rest) = pointer[1..].split_once('/').unwrap_or((&pointer[1..], ""));
    let value = map.get_mut(first)?;
    if rest.is_empty() { Some(value) } else { value.pointer_mut(&format!("/{rest}")) }
}

/// A path without `.` and `..`.
fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(out.pop()),
            std::path::Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

/// Lays the drop-ins of a folder and those below it on the value, in the order of their names.
pub fn drop_ins(value: &mut Map<String, Value>, dir: &Path) -> anyhow::Result<()> {
    let walk = |e: anyhow::Error| {
        anyhow!("failed to walk through kubelet dropin directory \"{}\": {e:#}", dir.display())
    };
    for path in list(dir).map_err(walk)? {
        drop_in(value, &path).map_err(walk)?;
    }
    value.remove("apiVersion");
    value.remove("kind");
    decode(value.clone())
        .map_err(|e| anyhow!("failed to unmarshal merged JSON into kubelet configuration: {e:#}"))?;
    *value = defaults::fill(std::mem::take(value))?;
    Ok(())
}

fn drop_in(value: &mut Map<String, Value>, path: &Path) -> anyhow::Result<()> {
    let place = format!("failed to load kubelet dropin file, path: {}", path.display());
    let read = || -> anyhow::Result<Map<String, Value>> {
        let text = text(path, "drop-in ")?;
        let (map, _) = document(&text, true)?;
        if map.get("kind").and_then(Value::as_str).is_none_or(str::is_empty) {
            bail!("Object 'Kind' is missing in '{}'", text.trim_end());
        }
        Ok(map)
    };
    let map = read().map_err(|e| anyhow!("{place}, error: {e:#}"))?;
    let said = |name: &str| map.get(name).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (said("apiVersion"), said("kind"));
    if (version, kind) != (API_VERSION, "KubeletConfiguration") {
        let version = if version.contains('/') { version.to_string() } else { format!("/{version}") };
        bail!("{place}, unknown apiVersion/kind: {version}, Kind={kind}");
    }
    merge(value, map);
    Ok(())
}

/// The drop-in files below a folder, in the order in which they count.
fn list(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let failed = |e: std::io::Error| anyhow!("lstat {}: {}", dir.display(), errno_text(&e));
    if !std::fs::symlink_metadata(dir).map_err(failed)?.is_dir() {
        return Ok(Vec::new());
    }
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)
        .map_err(failed)?
        .map(|e| Ok(e?.path()))
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() && !path.is_symlink() {
            files.extend(list(&path)?);
        } else if path.extension().is_some_and(|e| e == "conf") {
            files.push(path);
        } else {
            tracing::debug!(file = %path.display(), "Skipped file in drop-in directory (does not have .conf extension)");
        }
    }
    Ok(files)
}

/// An error of the system as Go words it.
fn errno_text(error: &std::io::Error) -> String {
    let code = error.raw_os_error();
    code.map_or_else(|| error.to_string(), |code| nix::errno::Errno::from_raw(code).desc().to_lowercase())
}

/// The text of a file, which has to say something.
fn text(path: &Path, what: &str) -> anyhow::Result<String> {
    let shown = path.display().to_string();
    let text = component::config::read(&shown)
        .map_err(|e| anyhow!("failed to read {what}kubelet config file {shown:?}, error: {e:#}"))?;
    if text.is_empty() {
        bail!("kubelet config file {shown:?} was empty");
    }
    Ok(text)
}

/// The first document of a text. Repeated fields are an error if `strict`, else they are named.
fn document(text: &str, strict: bool) -> anyhow::Result<(Map<String, Value>, Vec<String>)> {
    let first = first_document(text);
    let (value, repeated) = match component::config::yaml(first) {
        Ok(value) => (value, Vec::new()),
        Err(error) if strict => return Err(anyhow!("yaml: {error:#}")),
        Err(error) => {
            let value = component::config::yaml_lenient(first).map_err(|e| anyhow!("yaml: {e:#}"))?;
            (value, vec![error.to_string()])
        }
    };
    match value {
        Value::Object(map) => Ok((map, repeated)),
        Value::Null => Ok((Map::new(), repeated)),
        other => bail!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into an object",
            json_type(&other)
        ),
    }
}

/// What stands before the second `---`.
pub fn first_document(text: &str) -> &str {
    let mut seen = false;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let begins = line.trim_end() == "---";
        if begins && seen {
            return &text[..at];
        }
        seen |= !begins && !line.trim().is_empty() && !line.starts_with('#');
        at += line.len();
    }
    text
}

/// Whether a document is one of the kinds that belong to the kubelet's configuration.
fn identify(value: &Map<String, Value>, text: &str) -> anyhow::Result<()> {
    let said = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (said("apiVersion"), said("kind"));
    let body = || serde_json::to_string(value).unwrap_or_else(|_| text.trim_end().to_string());
    if kind.is_empty() {
        bail!("Object 'Kind' is missing in '{}'", body());
    }
    if version.is_empty() {
        bail!("Object 'apiVersion' is missing in '{}'", body());
    }
    let known = ["KubeletConfiguration", "SerializedNodeConfigSource", "CredentialProviderConfig"];
    if version != API_VERSION || !known.contains(&kind) {
        bail!(
            "no kind {kind:?} is registered for version {version:?} in scheme \"pkg/kubelet/apis/config/scheme/scheme.go:33\""
        );
    }
    Ok(())
}

/// Reads the fields; also names those that do not exist.
pub fn decode(mut value: Map<String, Value>) -> anyhow::Result<(KubeletConfiguration, Vec<String>)> {
    value.remove("apiVersion");
    value.remove("kind");
    let mut value = Value::Object(value);
    discard_nulls(&mut value);
    component::config::typed(value.clone()).map_err(|error| {
        // Only who fails is asked where.
        match serde_path_to_error::deserialize::<_, KubeletConfiguration>(&value) {
            Err(error) => anyhow!("{}", mismatch(&value, &error)),
            Ok(_) => error,
        }
    })
}

/// What is wrong with a field, as Go's decoder puts it.
fn mismatch(whole: &Value, error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let cause = error.inner().to_string();
    let mut field = String::new();
    let mut found = Some(whole);
    let mut in_map = false;
    for segment in error.path() {
        match segment {
            serde_path_to_error::Segment::Map { key } => {
                found = found.and_then(|v| v.get(key));
                if !in_map {
                    field = if field.is_empty() { key.clone() } else { format!("{field}.{key}") };
                }
                in_map |= MAPS.contains(&key.as_str());
            }
            serde_path_to_error::Segment::Seq { index } => found = found.and_then(|v| v.get(*index)),
            _ => {}
        }
    }
    let expected = cause.rsplit_once("expected ").map(|(_, e)| e);
    let (Some(expected), Some(found)) = (expected, found) else { return cause };
    let go = match expected {
        "i32" => "int32",
        "i64" => "int64",
        "u32" => "uint32",
        "f64" => "float64",
        "a boolean" => "bool",
        "a string" => "string",
        "a sequence" => "[]string",
        "a map" => "map[string]string",
        other => other.strip_prefix("struct ").unwrap_or(other),
    };
    let what = match found {
        Value::Number(n) if matches!(go, "int32" | "int64" | "uint32") => format!("number {n}"),
        other => json_type(other).to_string(),
    };
    format!("json: cannot unmarshal {what} into Go struct field KubeletConfiguration.{field} of type {go}")
}

/// Lays `over` on `base`: objects merge, null removes, everything else is replaced.
pub fn merge(base: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (_, Value::Null) => drop(base.remove(&key)),
            (Some(Value::Object(below)), Value::Object(above)) => merge(below, above),
            (_, value) => drop(base.insert(key, value)),
        }
    }
}

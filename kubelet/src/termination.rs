//! The last words of a container: its termination message file, or the end of its log.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use cri::v1;

use crate::labels::Marks;

/// The most that is read of a message file.
const MAX_MESSAGE: u64 = 4096;
/// The most that is taken from a log instead.
const MAX_LOG: u64 = 2048;
const MAX_LOG_LINES: usize = 80;

/// The message of a container that ended; empty if it left none.
pub async fn message(status: &v1::ContainerStatus, marks: &Marks) -> String {
    let fall_back = marks.message_policy == "FallbackToLogsOnError" && status.exit_code != 0;
    let host = status
        .mounts
        .iter()
        .find(|m| !marks.message_path.is_empty() && m.container_path == marks.message_path);
    let file = host.map(|m| m.host_path.clone());
    let log = fall_back.then(|| status.log_path.clone());
    let read = tokio::task::spawn_blocking(move || read(file.as_deref(), log.as_deref()));
    read.await.unwrap_or_default()
}

fn read(file: Option<&str>, log: Option<&str>) -> String {
    let own = match file.map(|path| (path, tail(Path::new(path), MAX_MESSAGE))) {
        None => String::new(),
        Some((_, Ok(text))) => text,
        Some((_, Err(error))) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Some((path, Err(error))) => return format!("Error on reading termination log {path}: {error}"),
    };
    match log {
        Some(log) if own.is_empty() => last_log_lines(Path::new(log)),
        _ => own,
    }
}

/// The last `most` bytes of a file.
fn tail(path: &Path, most: u64) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines of a CRI log without their time and stream.
fn last_log_lines(path: &Path) -> String {
    let Ok(text) = tail(path, MAX_LOG * 4) else { return String::new() };
    let lines: Vec<&str> = text.lines().collect();
    let mut out = String::new();
    for line in &lines[lines.len().saturating_sub(MAX_LOG_LINES)..] {
        let mut parts = line.splitn(4, ' ');
        let (Some(_), Some(_), Some(tag), Some(said)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        out.push_str(said);
        if tag == "F" {
            out.push('\n');
        }
    }
    let cut = out.len().saturating_sub(MAX_LOG as usize);
    let cut = (cut..=out.len()).find(|at| out.is_char_boundary(*at)).unwrap_or(out.len());
    out.split_off(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn falls_back_to_the_log_only_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let (file, log) = (dir.path().join("m"), dir.path().join("l"));
        std::fs::write(&log, "t stdout F one\nt stderr P tw\nt stderr F o\n").unwrap();
        let (f, l) = (file.to_str().unwrap(), log.to_str().unwrap());
        assert_eq!(read(Some(f), None), "");
        assert_eq!(read(Some(f), Some(l)), "one\ntwo\n");
        std::fs::write(&file, "bye").unwrap();
        assert_eq!(read(Some(f), Some(l)), "bye");
        std::fs::write(&file, "x".repeat(5000)).unwrap();
        assert_eq!(read(Some(f), None).len(), 4096);
    }
}

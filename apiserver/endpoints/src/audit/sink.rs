//! Where audit records go: a file that is turned over when it is large, or standard output.
//!
//! In mode `blocking` a record is written before the request goes on. In mode `batch` a task writes, and records that
//! it cannot keep up with are dropped and counted, so that a slow disk never holds up requests.

use anyhow::{Context, bail};
use component::Flags;
use flate2::Compression;
use flate2::write::GzEncoder;
use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Legacy,
}

/// Takes finished lines.
pub struct Sink {
    pub format: Format,
    way: Way,
}

enum Way {
    Now(Arc<Mutex<Output>>),
    Later(mpsc::Sender<Vec<u8>>),
}

impl Sink {
    /// The sink of the `--audit-log-*` flags; `None` if no path is given.
    pub fn from_flags(flags: &Flags) -> anyhow::Result<Option<Sink>> {
        let Some(path) = flags.opt("audit-log-path") else { return Ok(None) };
        let format = match flags.str("audit-log-format") {
            "json" => Format::Json,
            "legacy" => Format::Legacy,
            other => bail!("invalid audit log format {other}, allowed formats are \"legacy,json\""),
        };
        let number =
            |name: &str| u64::try_from(flags.int(name)).with_context(|| format!("--{name} must be >= 0"));
        let megabytes = number("audit-log-maxsize")?;
        let output = Arc::new(Mutex::new(match path {
            "-" => Output::Stdout,
            path => Output::File(Rolling {
                path: path.into(),
                max_bytes: megabytes.saturating_mul(1 << 20),
                max_age: Duration::from_secs(number("audit-log-maxage")?.saturating_mul(86_400)),
                max_backups: number("audit-log-maxbackup")? as usize,
                compress: flags.bool("audit-log-compress"),
                open: None,
            }),
        }));
        // Mistakes in the path show at start.
        output.lock().open()?;
        let way = match flags.str("audit-log-mode") {
            "blocking" | "blocking-strict" => Way::Now(output),
            "batch" => {
                let waiting =
                    usize::try_from(flags.int("audit-log-batch-buffer-size")).unwrap_or(10_000).max(1);
                let (sender, mut lines) = mpsc::channel::<Vec<u8>>(waiting);
                // Ends with the sink, when the last sender is gone and all is written.
                tokio::task::spawn_blocking(move || {
                    while let Some(line) = lines.blocking_recv() {
                        output.lock().write(&line);
                    }
                });
                Way::Later(sender)
            }
            other => {
                bail!("invalid audit log mode {other}, allowed modes are \"batch,blocking,blocking-strict\"")
            }
        };
        Ok(Some(Sink { format, way }))
    }

    /// Writes one record; `line` ends with a newline.
    pub fn write(&self, line: Vec<u8>) {
        match &self.way {
            Way::Now(output) => output.lock().write(&line),
            Way::Later(sender) => {
                if sender.try_send(line).is_err() {
                    tracing::error!("audit buffer queue blocked: a record is lost");
                }
            }
        }
    }
}

enum Output {
    Stdout,
    File(Rolling),
}

impl Output {
    fn open(&mut self) -> anyhow::Result<()> {
        match self {
            Output::Stdout => Ok(()),
            Output::File(f) => f.open().map(drop),
        }
    }

    fn write(&mut self, line: &[u8]) {
        let done = match self {
            Output::Stdout => std::io::stdout().lock().write_all(line).map_err(Into::into),
            Output::File(f) => f.write(line),
        };
        if let Err(error) = done {
            tracing::error!(%error, "an audit record cannot be written");
        }
    }
}

/// A file with its predecessors.
struct Rolling {
    path: PathBuf,
    max_bytes: u64,
    max_age: Duration,
    max_backups: usize,
    compress: bool,
    open: Option<(File, u64)>,
}

impl Rolling {
    fn open(&mut self) -> anyhow::Result<&mut (File, u64)> {
        if self.open.is_none() {
            let shown = || format!("opening audit log {}", self.path.display());
            if let Some(dir) = self.path.parent() {
                std::fs::create_dir_all(dir).with_context(shown)?;
            }
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(&self.path)
                .with_context(shown)?;
            let size = file.metadata().with_context(shown)?.len();
            self.open = Some((file, size));
        }
        self.open.as_mut().context("just opened")
    }

    fn write(&mut self, line: &[u8]) -> anyhow::Result<()> {
        let (max, len) = (self.max_bytes, line.len() as u64);
        let size = self.open()?.1;
        if max > 0 && size > 0 && size + len > max {
            self.turn_over()?;
        }
        let (file, size) = self.open()?;
        file.write_all(line)?;
        *size += len;
        Ok(())
    }

    /// `audit.log` becomes `audit-2024-01-31T10-00-00.000.log`.
    fn turn_over(&mut self) -> anyhow::Result<()> {
        self.open = None;
        let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
        let stamp = now.strftime("%Y-%m-%dT%H-%M-%S%.3f");
        let (stem, end) = self.names();
        let backup = self.path.with_file_name(format!("{stem}-{stamp}{end}"));
        std::fs::rename(&self.path, &backup)?;
        if self.compress {
            compress(&backup)?;
        }
        self.forget();
        Ok(())
    }

    fn names(&self) -> (String, String) {
        let text = |o: Option<&std::ffi::OsStr>| o.map(|o| o.to_string_lossy().into_owned());
        let end = text(self.path.extension()).map_or(String::new(), |e| format!(".{e}"));
        (text(self.path.file_stem()).unwrap_or_default(), end)
    }

    /// Removes backups that are too many or too old.
    fn forget(&self) {
        let (stem, _) = self.names();
        let Some(dir) = self.path.parent() else { return };
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        let prefix = format!("{stem}-");
        let mut backups: Vec<PathBuf> = entries
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix)))
            .collect();
        backups.sort();
        backups.reverse();
        for (i, path) in backups.iter().enumerate() {
            let age = std::fs::metadata(path).and_then(|m| m.modified()).ok();
            let age = age.and_then(|t| SystemTime::now().duration_since(t).ok()).unwrap_or_default();
            let many = self.max_backups > 0 && i >= self.max_backups;
            let old = !self.max_age.is_zero() && age > self.max_age;
            if (many || old)
                && let Err(error) = std::fs::remove_file(path)
            {
                tracing::warn!(path = %path.display(), %error, "an old audit log cannot be removed");
            }
        }
    }
}

fn compress(path: &Path) -> anyhow::Result<()> {
    let target = PathBuf::from(format!("{}.gz", path.display()));
    let file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&target)?;
    let mut encoder = GzEncoder::new(file, Compression::default());
    std::io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?;
    Ok(std::fs::remove_file(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_file_makes_room_and_old_ones_go() {
        let dir = std::env::temp_dir().join(format!("audit-{}", uuid::Uuid::new_v4()));
        let mut log = Rolling {
            path: dir.join("audit.log"),
            max_bytes: 100,
            max_age: Duration::ZERO,
            max_backups: 2,
            compress: true,
            open: None,
        };
        for _ in 0..5 {
            log.write(&[b'x'; 80]).unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut names: Vec<String> = std::fs::read_dir(&dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(names[0].starts_with("audit-2") && names[0].ends_with(".log.gz"), "{names:?}");
        assert_eq!(std::fs::metadata(dir.join("audit.log")).unwrap().len(), 80);
        std::fs::remove_dir_all(dir).unwrap();
    }
}

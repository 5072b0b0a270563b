//! Reading log files in the CRI format: `TIME STREAM TAG CONTENT`, where the tag says whether the line goes on.

use super::options::{Options, Output};
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use notify::{RecursiveMode, Watcher};
use std::io::{self, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader};
use tokio::sync::mpsc;

/// What goes out is collected up to this size.
const PIECE: usize = 32 << 10;
/// A line longer than this is passed on in parts; runtimes split at 16 KiB.
const MAX_LINE: usize = 1 << 20;
const BLOCK: u64 = 4096;
/// While following, the container is asked for its state this often when its file is quiet.
const QUIET: Duration = Duration::from_secs(1);

type Out = mpsc::Sender<io::Result<Bytes>>;

/// Copies the log as the options say. With `follow`, until the container has ended and its file is read to the end.
pub async fn copy(
    path: &Path,
    options: &Options,
    running: impl Fn() -> BoxFuture<'static, bool>,
    out: &Out,
) -> io::Result<()> {
    // Watched before the first read, so that no write in between goes unnoticed.
    let mut changes = if options.follow { Some(Changes::of(path)?) } else { None };
    let mut file = File::open(path).await?;
    if let Some(lines) = options.tail {
        let start = tail_start(&mut file, lines).await?;
        file.seek(SeekFrom::Start(start)).await?;
    }
    let mut inode = file.metadata().await?.ino();
    let mut reader = BufReader::new(file);
    let mut writer =
        Writer { options, left: options.limit_bytes, piece: BytesMut::new(), line_start: true, out };
    let mut line = Vec::new();
    loop {
        let n = (&mut reader).take(MAX_LINE as u64).read_until(b'\n', &mut line).await?;
        if n > 0 && (line.ends_with(b"\n") || line.len() >= MAX_LINE) {
            if !writer.line(&line).await {
                return Ok(());
            }
            line.clear();
            continue;
        }
        // At the end of the file, perhaps within a line that is being written.
        if !writer.flush().await {
            return Ok(());
        }
        let Some(changes) = &mut changes else {
            writer.line(&line).await;
            writer.flush().await;
            return Ok(());
        };
        let was_running = running().await;
        let more = reader.fill_buf().await?;
        if !more.is_empty() {
            continue;
        }
        if let Some(newer) = rotated(path, inode).await {
            inode = newer.metadata().await?.ino();
            reader = BufReader::new(newer);
            line.clear();
            continue;
        }
        if !was_running {
            return Ok(());
        }
        changes.wait(QUIET).await;
    }
}

/// The new file, when another has taken the log's name.
async fn rotated(path: &Path, inode: u64) -> Option<File> {
    // Between the renaming and the making of the new one there is none.
    let file = File::open(path).await.ok()?;
    let new = file.metadata().await.ok()?.ino();
    (new != inode).then_some(file)
}

/// Where the last lines begin.
async fn tail_start(file: &mut File, lines: u64) -> io::Result<u64> {
    let end = file.metadata().await?.len();
    if lines == 0 {
        return Ok(end);
    }
    let mut found = 0;
    let mut position = end;
    let mut block = vec![0; BLOCK as usize];
    while position > 0 {
        let start = position.saturating_sub(BLOCK);
        let length = (position - start) as usize;
        file.seek(SeekFrom::Start(start)).await?;
        file.read_exact(&mut block[..length]).await?;
        for i in (0..length).rev() {
            let at = start + i as u64;
            // The line break that ends the file ends the last line, it does not begin one.
            if block[i] == b'\n' && at + 1 != end {
                found += 1;
                if found == lines {
                    return Ok(at + 1);
                }
            }
        }
        position = start;
    }
    Ok(0)
}

/// Tells of changes in the log's folder.
struct Changes {
    receiver: mpsc::Receiver<()>,
    _watcher: notify::RecommendedWatcher,
}

impl Changes {
    fn of(path: &Path) -> io::Result<Changes> {
        let (sender, receiver) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |_| {
            // One notice that is waiting already is as good as many.
            let _ = sender.try_send(());
        })
        .map_err(io::Error::other)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        watcher.watch(folder, RecursiveMode::NonRecursive).map_err(io::Error::other)?;
        Ok(Changes { receiver, _watcher: watcher })
    }

    async fn wait(&mut self, limit: Duration) {
        // Either way it is time to look again.
        let _ = tokio::time::timeout(limit, self.receiver.recv()).await;
    }
}

struct Writer<'a> {
    options: &'a Options,
    left: Option<u64>,
    piece: BytesMut,
    /// The next content begins a line of the container's.
    line_start: bool,
    out: &'a Out,
}

impl Writer<'_> {
    /// False when nothing more is wanted.
    async fn line(&mut self, raw: &[u8]) -> bool {
        let Some(line) = parse(raw) else { return true };
        let other = match self.options.output {
            Output::All => false,
            Output::Stdout => line.stream != b"stdout",
            Output::Stderr => line.stream != b"stderr",
        };
        if other || self.options.since.is_some_and(|since| line.time().is_some_and(|t| t < since)) {
            return true;
        }
        let before = self.piece.len();
        if self.options.timestamps && self.line_start {
            self.piece.extend_from_slice(line.timestamp);
            self.piece.extend_from_slice(b" ");
        }
        self.piece.extend_from_slice(line.content);
        if !line.partial {
            self.piece.extend_from_slice(b"\n");
        }
        self.line_start = !line.partial;
        if let Some(left) = &mut self.left {
            let added = (self.piece.len() - before) as u64;
            if added >= *left {
                self.piece.truncate(before + *left as usize);
                self.flush().await;
                return false;
            }
            *left -= added;
        }
        self.piece.len() < PIECE || self.flush().await
    }

    async fn flush(&mut self) -> bool {
        self.piece.is_empty() || self.out.send(Ok(self.piece.split().freeze())).await.is_ok()
    }
}

struct Line<'a> {
    timestamp: &'a [u8],
    stream: &'a [u8],
    partial: bool,
    content: &'a [u8],
}

impl Line<'_> {
    fn time(&self) -> Option<i128> {
        let (seconds, nanos) = api::time::parse_rfc3339(std::str::from_utf8(self.timestamp).ok()?)?;
        Some(i128::from(seconds) * 1_000_000_000 + i128::from(nanos))
    }
}

/// `None` for what is no log line, which is passed over.
fn parse(raw: &[u8]) -> Option<Line<'_>> {
    let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
    let mut parts = raw.splitn(4, |b| *b == b' ');
    let (timestamp, stream, tags) = (parts.next()?, parts.next()?, parts.next()?);
    let partial = tags.split(|b| *b == b':').next() == Some(b"P");
    Some(Line { timestamp, stream, partial, content: parts.next().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Query;
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    const LOG: &str = "\
2026-01-01T00:00:00.000000001Z stdout F one
2026-01-01T00:00:01.000000001Z stderr F two
2026-01-01T00:00:02.000000001Z stdout P thr
2026-01-01T00:00:02.000000002Z stdout F ee
";

    async fn read(query: &str) -> String {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).expect("log");
        let options = Options::parse(&Query::parse(Some(query))).expect("options");
        let (out, mut pieces) = mpsc::channel(8);
        copy(&path, &options, || Box::pin(async { false }), &out).await.expect("copied");
        drop(out);
        let mut text = Vec::new();
        while let Some(piece) = pieces.recv().await {
            text.extend_from_slice(&piece.expect("a piece"));
        }
        String::from_utf8(text).expect("text")
    }

    #[tokio::test]
    async fn every_option() {
        for (query, expected) in [
            ("", "one\ntwo\nthree\n"),
            ("tailLines=0", ""),
            ("tailLines=3", "two\nthree\n"),
            ("tailLines=99", "one\ntwo\nthree\n"),
            ("limitBytes=5", "one\nt"),
            ("stream=Stderr", "two\n"),
            ("sinceTime=2026-01-01T00:00:01Z", "two\nthree\n"),
            ("tailLines=2&timestamps=true", "2026-01-01T00:00:02.000000001Z three\n"),
            ("follow=true", "one\ntwo\nthree\n"),
        ] {
            assert_eq!(read(query).await, expected, "{query}");
        }
    }

    #[tokio::test]
    async fn following_goes_on_across_rotation_until_the_container_ends() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("0.log");
        std::fs::write(&path, "2026-01-01T00:00:00Z stdout F old\n").expect("log");
        let options = Options::parse(&Query::parse(Some("follow=true"))).expect("options");
        let (out, mut pieces) = mpsc::channel(8);
        let alive = Arc::new(AtomicBool::new(true));
        let state = alive.clone();
        let running = move || -> BoxFuture<'static, bool> {
            let alive = state.load(Ordering::SeqCst);
            Box::pin(async move { alive })
        };
        let following = copy(&path, &options, running, &out);
        let acting = async {
            let mut next = async || {
                let piece =
                    tokio::time::timeout(Duration::from_secs(20), pieces.recv()).await.expect("in time");
                String::from_utf8_lossy(&piece.expect("open").expect("a piece")).into_owned()
            };
            assert_eq!(next().await, "old\n");
            std::fs::rename(&path, dir.path().join("0.log.1")).expect("rotated");
            let mut new = std::fs::File::create(&path).expect("new log");
            new.write_all(b"2026-01-01T00:00:01Z stdout F new\n").expect("written");
            assert_eq!(next().await, "new\n");
            alive.store(false, Ordering::SeqCst);
        };
        let (copied, ()) = tokio::join!(following, acting);
        copied.expect("followed");
    }
}

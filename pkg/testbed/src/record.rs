//! Processes by recorded identity: a pid alone may mean another process later, so its start time is kept with it.

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::time::{Duration, Instant};

/// A process that this cluster started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    /// Clock ticks after boot (`/proc/PID/stat`, field 22).
    pub started: u64,
}

impl Process {
    /// The process with that pid, if it lives.
    pub fn of(pid: i32) -> Option<Process> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command name may hold spaces and parentheses: fields count from behind the last one.
        let mut rest = stat.rsplit_once(')')?.1.split_whitespace();
        let state = rest.next()?;
        let started = rest.nth(18)?.parse().ok()?;
        (state != "Z").then_some(Process { pid, started })
    }

    pub fn alive(&self) -> bool {
        Process::of(self.pid) == Some(*self)
    }

    /// Writes the record to `dir/name`.
    pub fn save(&self, dir: &Path, name: &str) -> Result<()> {
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join(name), format!("{} {}\n", self.pid, self.started))
            .with_context(|| format!("cannot record process {name}"))
    }

    pub fn load(path: &Path) -> Option<Process> {
        let text = std::fs::read_to_string(path).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        Some(Process { pid: pid.parse().ok()?, started: started.parse().ok()? })
    }

    /// All records of a folder, with their names.
    pub fn load_all(dir: &Path) -> Vec<(String, Process)> {
        let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
        let mut all: Vec<_> = entries
            .flatten()
            .filter_map(|e| Some((e.file_name().to_string_lossy().into_owned(), Process::load(&e.path())?)))
            .collect();
        all.sort();
        all
    }

    /// Sends the signal only if this is still the recorded process.
    pub fn signal(&self, signal: Signal) {
        if self.alive() {
            // Losing the race against its own end is fine: it is gone either way.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Waits until it is gone; false when the time is over first.
    pub fn wait_gone(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.alive() {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }
}

impl PartialOrd for Process {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Process {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.pid, self.started).cmp(&(other.pid, other.started))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_the_disk_and_knows_strangers() {
        let me = Process::of(std::process::id() as i32).expect("this test runs");
        let dir = tempfile::tempdir().expect("temp dir");
        me.save(dir.path(), "me").expect("saved");
        assert_eq!(Process::load_all(dir.path()), [("me".to_owned(), me)]);
        let stranger = Process { started: me.started + 1, ..me };
        assert!(me.alive() && !stranger.alive());
    }
}

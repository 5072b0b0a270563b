//! Programs with a deadline and a checked outcome.

use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a program may take, unless told otherwise.
const LIMIT: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A program about to run.
pub struct Program {
    command: Command,
    input: Vec<u8>,
    limit: Duration,
    told: String,
}

/// How a program ended.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Program {
    pub fn new(command: Command) -> Program {
        let told = command.get_program().to_string_lossy().into_owned();
        Program { command, input: Vec::new(), limit: LIMIT, told }.retold()
    }

    fn retold(mut self) -> Program {
        let name = self.command.get_program().to_string_lossy();
        let args: Vec<_> = self.command.get_args().map(|a| a.to_string_lossy()).collect();
        self.told = format!("{name} {}", args.join(" "));
        self
    }

    /// One more argument, which may hold blanks.
    pub fn arg(mut self, arg: &str) -> Program {
        self.command.arg(arg);
        self.retold()
    }

    pub fn env(mut self, name: &str, value: &str) -> Program {
        self.command.env(name, value);
        self
    }

    pub fn input(mut self, text: &str) -> Program {
        self.input = text.into();
        self
    }

    pub fn limit(mut self, limit: Duration) -> Program {
        self.limit = limit;
        self
    }

    /// Runs to the end, whatever that is.
    pub fn outcome(mut self) -> Result<Outcome> {
        let mut child = self.spawn()?;
        let input = feed(&mut child, std::mem::take(&mut self.input));
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        let end = Instant::now() + self.limit;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if Instant::now() > end {
                child.kill()?;
                child.wait()?;
                break None;
            }
            std::thread::sleep(LOOK_AGAIN);
        };
        drop(input);
        let outcome =
            Outcome { code: status.and_then(|s| s.code()), stdout: text_of(stdout), stderr: text_of(stderr) };
        ensure!(
            status.is_some(),
            "{}: not done in {:?}; so far {}{}",
            self.told,
            self.limit,
            outcome.stdout,
            outcome.stderr
        );
        Ok(outcome)
    }

    /// Runs to a good end; its output.
    pub fn text(self) -> Result<String> {
        let told = self.told.clone();
        let o = self.outcome()?;
        ensure!(o.code == Some(0), "{told}: exit {:?}: {}{}", o.code, o.stdout, o.stderr.trim());
        Ok(o.stdout)
    }

    /// Runs to a good end, and the output must hold each of these texts.
    pub fn shows(self, texts: &[&str]) -> Result<String> {
        let told = self.told.clone();
        let out = self.text()?;
        for text in texts {
            ensure!(out.contains(text), "{told}: no {text:?} in:\n{out}");
        }
        Ok(out)
    }

    /// Must end with an error that holds this text.
    pub fn fails(self, text: &str) -> Result<()> {
        let told = self.told.clone();
        let o = self.outcome()?;
        ensure!(o.code != Some(0), "{told}: should have failed: {}", o.stdout);
        ensure!(o.stderr.contains(text) || o.stdout.contains(text), "{told}: no {text:?} in: {}", o.stderr);
        Ok(())
    }

    /// Starts it to be read line by line while it runs.
    pub fn lines(mut self) -> Result<Lines> {
        let mut child = self.spawn()?;
        let input = child.stdin.take();
        let (to, lines) = channel();
        for stream in [child.stdout.take().map(either), child.stderr.take().map(either)].into_iter().flatten()
        {
            let to = to.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if to.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Lines { child, input, lines, seen: Vec::new(), told: self.told })
    }

    fn spawn(&mut self) -> Result<Child> {
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", self.told))
    }
}

fn either(stream: impl Read + Send + 'static) -> Box<dyn Read + Send> {
    Box::new(stream)
}

fn feed(child: &mut Child, input: Vec<u8>) -> Option<JoinHandle<()>> {
    let mut stdin = child.stdin.take()?;
    // A program that does not read its input is no failure of the writer.
    Some(std::thread::spawn(move || drop(stdin.write_all(&input))))
}

fn collect(stream: Option<impl Read + Send + 'static>) -> Option<JoinHandle<Vec<u8>>> {
    let mut stream = stream?;
    Some(std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        all
    }))
}

fn text_of(reader: Option<JoinHandle<Vec<u8>>>) -> String {
    let bytes = reader.and_then(|r| r.join().ok()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A running program and what it says; ended when dropped.
pub struct Lines {
    child: Child,
    input: Option<std::process::ChildStdin>,
    lines: Receiver<String>,
    seen: Vec<String>,
    told: String,
}

impl Lines {
    /// The first line from here on that holds `text`.
    pub fn until(&mut self, text: &str, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return Ok(line);
                    }
                }
                Err(e) => {
                    let why = if e == RecvTimeoutError::Timeout { "in time" } else { "before it ended" };
                    bail!("{}: no {text:?} {why}; it said:\n{}", self.told, self.seen.join("\n"));
                }
            }
        }
    }

    pub fn send(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("its input is closed")?;
        Ok(input.write_all(format!("{line}\n").as_bytes())?)
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

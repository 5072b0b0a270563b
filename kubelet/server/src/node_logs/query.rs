//! Queries for the logs of the node's services: from the journal where the service writes there, else from its file.

use super::{ROOT, answer as file};
use crate::query::Query;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

const MOST_LINES: i64 = 100_000;
const MOST_SERVICES: usize = 4;
const LONGEST_SERVICE: usize = 256;
/// How long the journal may take.
const LIMIT: Duration = Duration::from_secs(30);
/// The most of the journal's answer that is passed on.
const MOST_BYTES: usize = 64 << 20;

#[derive(Debug, Default, PartialEq)]
struct Wanted {
    services: Vec<String>,
    file: Option<String>,
    since: Option<String>,
    until: Option<String>,
    boot: Option<i64>,
    tail: Option<i64>,
    pattern: Option<String>,
}

impl Wanted {
    fn has_options(&self) -> bool {
        self.since.is_some()
            || self.until.is_some()
            || self.boot.is_some()
            || self.tail.is_some()
            || self.pattern.is_some()
    }

    /// What is asked, or everything that is wrong with it.
    fn parse(query: &Query) -> Result<Wanted, String> {
        let mut errors = Vec::new();
        let mut wanted = Wanted::default();
        let invalid =
            |field: &str, value: &str, why: &str| format!("{field}: Invalid value: {value:?}: {why}");
        let mut files = Vec::new();
        for name in query.all("query").into_iter().filter(|q| !q.trim().is_empty()) {
            if name.contains(['/', '\\']) { files.push(name) } else { wanted.services.push(name) }
        }
        if files.is_empty() && wanted.services.is_empty() {
            errors.push(invalid("query", "", "query cannot be empty"));
        }
        for service in &wanted.services {
            let safe = |c: char| c.is_ascii_alphanumeric() || "-_.:@".contains(c);
            if service.len() > LONGEST_SERVICE {
                errors.push(invalid("query", service, "length must be less than 100"));
            } else if !service.chars().all(safe) || service.starts_with('-') {
                errors.push(invalid("query", service, "input contains unsupported characters"));
            }
        }
        if wanted.services.len() > MOST_SERVICES {
            let n = wanted.services.len();
            errors.push(format!("query: Too many: {n}: must have at most {MOST_SERVICES} items"));
        }
        let text = |name: &str| query.get(name).filter(|v| !v.is_empty()).map(str::to_owned);
        let mut times = Vec::new();
        for (name, slot) in [("sinceTime", &mut wanted.since), ("untilTime", &mut wanted.until)] {
            let Some(value) = text(name) else { continue };
            match api::time::parse_rfc3339(&value) {
                Some((seconds, _)) => {
                    times.push(seconds);
                    *slot = Some(format!("@{seconds}"));
                }
                None => errors.push(invalid(name, &value, "invalid time format")),
            }
        }
        if let [since, until] = times[..]
            && since > until
        {
            errors.push(invalid(
                "untilTime",
                query.get("untilTime").unwrap_or(""),
                "must be after `sinceTime`",
            ));
        }
        for (name, slot) in [("boot", &mut wanted.boot), ("tailLines", &mut wanted.tail)] {
            let Some(value) = text(name) else { continue };
            match value.parse() {
                Ok(number) => *slot = Some(number),
                Err(_) => errors.push(invalid(name, &value, "invalid syntax")),
            }
        }
        if let Some(boot) = wanted.boot.filter(|b| *b > 0) {
            errors.push(format!("boot: Invalid value: {boot}: must be less than 1"));
        }
        if let Some(tail) = wanted.tail.filter(|t| !(0..=MOST_LINES).contains(t)) {
            errors.push(format!(
                "tailLines: Invalid value: {tail}: must be between 0 and {MOST_LINES}, inclusive"
            ));
        }
        wanted.pattern = text("pattern");
        match files.as_slice() {
            [] => {}
            _ if !wanted.services.is_empty() => {
                errors.push(invalid("query", &files.join(", "), "cannot specify a file and service"));
            }
            [_, _, ..] => {
                errors.push(invalid("query", &files.join(", "), "cannot specify more than one file"))
            }
            [one] if wanted.has_options() => {
                errors.push(invalid("query", one, "cannot specify file with options"));
            }
            [one] => wanted.file = Some(one.clone()),
        }
        match errors.as_slice() {
            [] => Ok(wanted),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }

    /// The journal's arguments for these services.
    fn arguments(&self, services: &[String]) -> Vec<String> {
        let mut out = vec!["--utc".into(), "--no-pager".into(), "--output=short-precise".into()];
        let mut option =
            |name: &str, value: Option<String>| out.extend(value.map(|v| format!("--{name}={v}")));
        option("since", self.since.clone());
        option("until", self.until.clone());
        option("lines", self.tail.map(|n| n.to_string()));
        option("boot", self.boot.map(|n| n.to_string()));
        option("grep", self.pattern.clone());
        out.extend(services.iter().map(|s| format!("--unit={s}")));
        out
    }
}

pub async fn answer(query: &Query) -> Response {
    let wanted = match Wanted::parse(query) {
        Ok(wanted) => wanted,
        Err(errors) => return (StatusCode::BAD_REQUEST, errors + "\n").into_response(),
    };
    if let Some(path) = &wanted.file {
        return file(Path::new(ROOT), path).await;
    }
    let (mut journal, mut files) = (Vec::new(), Vec::new());
    for service in &wanted.services {
        if in_journal(service).await { journal.push(service.clone()) } else { files.push(service.clone()) }
    }
    let text = match (files.is_empty(), wanted.has_options()) {
        (true, _) => run(wanted.arguments(&journal)).await,
        (false, true) => {
            format!("\noptions present and query resolved to log files for {files:?}\ntry without specifying options\n")
                .into_bytes()
        }
        (false, false) => of_files(&files).await,
    };
    ([(CONTENT_TYPE, "text/plain;charset=UTF-8")], text).into_response()
}

async fn in_journal(service: &str) -> bool {
    let arguments = ["--utc", "--no-pager", "--lines=1", "--output=cat"].map(str::to_owned);
    let mut command = Command::new("journalctl");
    command.args(arguments).arg(format!("--unit={service}")).kill_on_drop(true);
    match tokio::time::timeout(LIMIT, command.output()).await {
        Ok(Ok(output)) => {
            let text = String::from_utf8_lossy(&output.stdout);
            output.status.success() && !text.trim().is_empty() && !text.contains("-- No entries --")
        }
        _ => false,
    }
}

async fn run(arguments: Vec<String>) -> Vec<u8> {
    let mut command = Command::new("journalctl");
    command.args(arguments).kill_on_drop(true);
    match tokio::time::timeout(LIMIT, command.output()).await {
        Ok(Ok(mut output)) => {
            output.stdout.extend(output.stderr);
            output.stdout.truncate(MOST_BYTES);
            output.stdout
        }
        _ => b"\nerror: journal output not available\n".to_vec(),
    }
}

/// Where services that know no journal write by custom.
async fn of_files(services: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    for service in services {
        let places = [service.clone(), format!("{service}.log"), format!("{service}/{service}.log")];
        let found = places.iter().filter_map(|p| super::inside(Path::new(ROOT), p)).find(|p| p.is_file());
        let text = match found {
            Some(path) => tokio::fs::read(path).await.ok(),
            None => None,
        };
        match text {
            Some(text) => out.extend(text),
            None => out.extend(format!("\nlog not found for {service}\n").into_bytes()),
        }
        out.truncate(MOST_BYTES);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let parse = |text: &str| Wanted::parse(&Query::parse(Some(text)));
        for (text, words) in [
            ("query=%20", "query cannot be empty"),
            ("query=a%3Bb", "input contains unsupported characters"),
            ("query=--since", "input contains unsupported characters"),
            ("query=a&query=/b", "cannot specify a file and service"),
            ("query=/a&query=/b", "cannot specify more than one file"),
            ("query=/a&tailLines=1", "cannot specify file with options"),
            ("query=a&boot=1", "must be less than 1"),
            ("query=a&tailLines=-1", "must be between 0 and 100000"),
            ("query=a&sinceTime=x", "invalid time format"),
            ("query=a&sinceTime=2026-01-02T00:00:00Z&untilTime=2026-01-01T00:00:00Z", "must be after"),
        ] {
            assert!(parse(text).unwrap_err().contains(words), "{text}");
        }
        let wanted = parse("query=kubelet&tailLines=5&boot=-1").unwrap();
        let arguments = wanted.arguments(&wanted.services).join(" ");
        assert!(arguments.ends_with("--lines=5 --boot=-1 --unit=kubelet"), "{arguments}");
    }
}

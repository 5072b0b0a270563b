//! `/debug/api_priority_and_fairness/*`: levels, queues and requests as tables.

use crate::Fairness;
use crate::level::Shown;

const LEVELS: [&str; 10] = [
    "PriorityLevelName",
    "ActiveQueues",
    "IsIdle",
    "IsQuiescing",
    "WaitingRequests",
    "ExecutingRequests",
    "DispatchedRequests",
    "RejectedRequests",
    "TimedoutRequests",
    "CancelledRequests",
];
const QUEUES: [&str; 9] = [
    "PriorityLevelName",
    "Index",
    "PendingRequests",
    "ExecutingRequests",
    "SeatsInUse",
    "NextDispatchR",
    "InitialSeatsSum",
    "MaxSeatsSum",
    "TotalWorkSum",
];
const REQUESTS: [&str; 10] = [
    "PriorityLevelName",
    "FlowSchemaName",
    "QueueIndex",
    "RequestIndexInQueue",
    "FlowDistingsher",
    "ArriveTime",
    "InitialSeats",
    "FinalSeats",
    "AdditionalLatency",
    "StartTime",
];
const DETAILS: [&str; 8] =
    ["UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource"];

/// Rows as aligned columns.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|t| t.chars().count() + 2).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(|c| width(c).max(8)).collect();
    let mut out = String::new();
    for row in rows {
        for (c, text) in row.iter().enumerate() {
            match c + 1 == row.len() {
                true => out.push_str(text),
                false => out.push_str(&format!("{:1$}", format!("{text},"), widths[c])),
            }
        }
        out.push('\n');
    }
    out
}

fn words(header: &[&str]) -> Vec<String> {
    header.iter().map(|h| (*h).to_owned()).collect()
}

/// One row a level.
pub fn levels(fairness: &Fairness) -> String {
    let mut rows = vec![words(&LEVELS)];
    for (level, leaving) in fairness.levels() {
        let p = level.picture();
        let active = p.queues.iter().filter(|q| !q.waiting.is_empty()).count();
        let counts = [p.counts.dispatched, p.counts.rejected, p.counts.timed_out, p.counts.cancelled];
        let mut row = vec![level.name().to_owned(), active.to_string()];
        row.extend([level.is_idle().to_string(), leaving.to_string()]);
        row.extend([p.waiting.to_string(), p.executing.to_string()]);
        row.extend(counts.map(|n| n.to_string()));
        rows.push(row);
    }
    table(&rows)
}

/// One row a queue.
pub fn queues(fairness: &Fairness) -> String {
    let mut rows = vec![words(&QUEUES)];
    for (level, _) in fairness.levels() {
        for (i, q) in level.picture().queues.iter().enumerate() {
            let seats: usize = q.waiting.iter().map(|w| w.seats).sum();
            rows.push(vec![
                level.name().to_owned(),
                i.to_string(),
                q.waiting.len().to_string(),
                q.executing.len().to_string(),
                q.seats_in_use.to_string(),
                format!("{:.8}ss", q.next),
                seats.to_string(),
                seats.to_string(),
                format!("{:.8}ss", seats as f64 * 0.003),
            ]);
        }
    }
    table(&rows)
}

/// One row a request.
pub fn requests(fairness: &Fairness, details: bool) -> String {
    let mut rows = vec![words(&REQUESTS)];
    if details {
        rows[0].extend(words(&DETAILS));
    }
    for (level, _) in fairness.levels() {
        let mut add = |queue: i64, index: i64, r: &Shown| {
            let started = r.started.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |t| t.to_string());
            let mut row =
                vec![level.name().to_owned(), r.schema.clone(), queue.to_string(), index.to_string()];
            row.extend([r.distinguisher.clone(), r.arrived.to_string(), r.seats.to_string()]);
            row.extend(["0".to_owned(), "0s".to_owned(), started]);
            if details {
                row.extend(r.details.iter().cloned());
            }
            rows.push(row);
        };
        let picture = level.picture();
        for (i, q) in (0..).zip(&picture.queues) {
            (0..).zip(&q.waiting).for_each(|(at, r)| add(i, at, r));
            q.executing.iter().for_each(|r| add(i, -1, r));
        }
        picture.queueless.iter().for_each(|r| add(-1, -1, r));
    }
    table(&rows)
}

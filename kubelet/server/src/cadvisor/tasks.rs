//! In what state the processes of each cgroup are.

use super::Row;
use crate::metrics::Family;

/// The states that are told of, by their names.
const STATES: [&str; 5] = ["iowaiting", "running", "sleeping", "stopped", "uninterruptible"];

/// `container_tasks_state` of all cgroups that hold processes or containers.
pub fn families(rows: &[Row]) -> String {
    let name = "container_tasks_state";
    let mut family = Family::new(name, "gauge", "Number of tasks in given state");
    for row in rows {
        let counts = count(&row.sample.pids, state);
        for (state, count) in STATES.iter().zip(counts) {
            let mut labels = row.labels();
            labels.push(("state", state));
            family.add(name, &labels, count as f64);
        }
    }
    family.text
}

fn count(pids: &[u32], state: impl Fn(u32) -> Option<char>) -> [u64; 5] {
    let mut counts = [0; 5];
    for letter in pids.iter().filter_map(|pid| state(*pid)) {
        let index = match letter {
            'R' => 1,
            'S' | 'I' => 2,
            'T' | 't' => 3,
            'D' => 4,
            _ => continue,
        };
        counts[index] += 1;
    }
    counts
}

/// The letter for a process's state; its name before it may hold anything but ends with the last bracket.
fn state(pid: u32) -> Option<char> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_counted() {
        let letter = |pid: u32| "RSIDTZ".chars().nth(pid as usize);
        assert_eq!(count(&[0, 1, 2, 3, 4, 5, 6], letter), [0, 1, 2, 1, 1]);
        assert!(state(std::process::id()).is_some());
    }
}

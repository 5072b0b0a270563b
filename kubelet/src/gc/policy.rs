//! How many dead containers are kept, as flags that are older than eviction say it.

use std::time::Duration;

/// The rules. What is told as less than zero has no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How long a dead container is kept at least.
    min_age: Duration,
    /// Dead instances of one container.
    per_container: Option<usize>,
    /// Dead containers of the node.
    all: Option<usize>,
}

impl Policy {
    /// As the flags say.
    pub fn from_flags(flags: &component::Flags) -> Self {
        let count = |name: &str| usize::try_from(flags.int(name)).ok();
        Self {
            min_age: flags.duration("minimum-container-ttl-duration"),
            per_container: count("maximum-dead-containers-per-container"),
            all: count("maximum-dead-containers"),
        }
    }

    /// The least age in the unit of runtimes.
    pub fn min_age_nanos(&self) -> i64 {
        i64::try_from(self.min_age.as_nanos()).unwrap_or(i64::MAX)
    }

    /// Which of the dead have to go: lists of a container's instances with the time they were made, the newest first.
    pub fn surplus(&self, mut units: Vec<Vec<(String, i64)>>) -> Vec<String> {
        let mut gone = Vec::new();
        let mut shorten = |units: &mut Vec<Vec<(String, i64)>>, keep: usize| {
            for unit in units {
                gone.extend(unit.drain(keep.min(unit.len())..).map(|(id, _)| id));
            }
        };
        if let Some(keep) = self.per_container {
            shorten(&mut units, keep);
        }
        let Some(most) = self.all else { return gone };
        let count = |units: &[Vec<(String, i64)>]| units.iter().map(Vec::len).sum::<usize>();
        if count(&units) > most {
            // First as many of each as there is room for, then the oldest of all.
            let each = most.checked_div(units.len()).unwrap_or(0).max(1);
            shorten(&mut units, each);
            let surplus = count(&units).saturating_sub(most);
            let mut rest: Vec<(String, i64)> = units.into_iter().flatten().collect();
            rest.sort_by_key(|(_, made)| *made);
            gone.extend(rest.into_iter().take(surplus).map(|(id, _)| id));
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let units = |names: &[&[&str]]| -> Vec<Vec<(String, i64)>> {
            let made = |n: &str| i64::from(n.as_bytes()[1] - b'0');
            names.iter().map(|u| u.iter().map(|n| (n.to_string(), made(n))).collect()).collect()
        };
        let dead: &[&[&str]] = &[&["a9", "a7", "a2"], &["b8", "b1"], &["c3"]];
        for (per_container, all, gone) in [
            (Some(1), None, vec!["a7", "a2", "b1"]),
            (Some(0), None, vec!["a9", "a7", "a2", "b8", "b1", "c3"]),
            (None, None, vec![]),
            (Some(2), Some(6), vec!["a2"]),
            (Some(2), Some(4), vec!["a2", "a7", "b1"]),
            (None, Some(2), vec!["a7", "a2", "b1", "c3"]),
        ] {
            let policy = Policy { min_age: Duration::ZERO, per_container, all };
            assert_eq!(policy.surplus(units(dead)), gone, "{per_container:?} {all:?}");
        }
    }
}

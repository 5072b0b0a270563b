//! Two texts as a patch: the lines that differ, with three lines around them. Which lines count as the
//! same is found by the longest common run first, then left and right of it.

use std::collections::HashMap;
use std::fmt::Write;

/// Lines shown around a change.
const CONTEXT: usize = 3;
/// From so many lines on, those that stand everywhere begin no run.
const LONG: usize = 200;

/// A run of lines that both have: where in each, and how many.
#[derive(Clone, Copy)]
struct Run {
    a: usize,
    b: usize,
    len: usize,
}

struct Lines<'t> {
    a: Vec<&'t str>,
    b: Vec<&'t str>,
    /// Where a line stands in `b`.
    at: HashMap<&'t str, Vec<usize>>,
}

/// The patch from one text to the other.
pub fn unified(old: &str, new: &str) -> String {
    let lines = Lines::new(old, new);
    let mut out = String::new();
    for group in groups(&lines.changes()) {
        lines.write(&group, &mut out);
    }
    out
}

/// A stretch of both texts that is the same in both or differs.
#[derive(Clone, Copy)]
struct Stretch {
    same: bool,
    a: (usize, usize),
    b: (usize, usize),
}

impl<'t> Lines<'t> {
    fn new(old: &'t str, new: &'t str) -> Self {
        let (a, b): (Vec<&str>, Vec<&str>) = (old.split('\n').collect(), new.split('\n').collect());
        let mut at: HashMap<&str, Vec<usize>> = HashMap::new();
        for (i, line) in b.iter().enumerate() {
            at.entry(line).or_default().push(i);
        }
        if b.len() >= LONG {
            let most = b.len() / 100 + 1;
            at.retain(|_, places| places.len() <= most);
        }
        Lines { a, b, at }
    }

    /// The longest run within both ranges; the first of them if there are several.
    fn longest(&self, (alo, ahi): (usize, usize), (blo, bhi): (usize, usize)) -> Run {
        let mut best = Run { a: alo, b: blo, len: 0 };
        let mut ending: HashMap<usize, usize> = HashMap::new();
        for i in alo..ahi {
            let mut now = HashMap::new();
            for &j in self.at.get(self.a[i]).into_iter().flatten().filter(|j| (blo..bhi).contains(*j)) {
                let before = j.checked_sub(1).and_then(|j| ending.get(&j)).copied().unwrap_or_default();
                let len = before + 1;
                now.insert(j, len);
                if len > best.len {
                    best = Run { a: i + 1 - len, b: j + 1 - len, len };
                }
            }
            ending = now;
        }
        // Lines that begin no run may still belong to one.
        while best.a > alo && best.b > blo && self.a[best.a - 1] == self.b[best.b - 1] {
            best = Run { a: best.a - 1, b: best.b - 1, len: best.len + 1 };
        }
        while best.a + best.len < ahi
            && best.b + best.len < bhi
            && self.a[best.a + best.len] == self.b[best.b + best.len]
        {
            best.len += 1;
        }
        best
    }

    fn runs(&self) -> Vec<Run> {
        let mut todo = vec![((0, self.a.len()), (0, self.b.len()))];
        let mut found = Vec::new();
        while let Some((a, b)) = todo.pop() {
            let run = self.longest(a, b);
            if run.len == 0 {
                continue;
            }
            found.push(run);
            if a.0 < run.a && b.0 < run.b {
                todo.push(((a.0, run.a), (b.0, run.b)));
            }
            if run.a + run.len < a.1 && run.b + run.len < b.1 {
                todo.push(((run.a + run.len, a.1), (run.b + run.len, b.1)));
            }
        }
        found.sort_by_key(|r| (r.a, r.b));
        found
    }

    /// Both texts from beginning to end.
    fn changes(&self) -> Vec<Stretch> {
        let (mut i, mut j) = (0, 0);
        let mut out: Vec<Stretch> = Vec::new();
        let end = Run { a: self.a.len(), b: self.b.len(), len: 0 };
        for run in self.runs().into_iter().chain([end]) {
            if i < run.a || j < run.b {
                out.push(Stretch { same: false, a: (i, run.a), b: (j, run.b) });
            }
            (i, j) = (run.a + run.len, run.b + run.len);
            match out.last_mut() {
                // Runs that touch are one.
                Some(last) if last.same && run.len > 0 => (last.a.1, last.b.1) = (i, j),
                _ if run.len > 0 => out.push(Stretch { same: true, a: (run.a, i), b: (run.b, j) }),
                _ => {}
            }
        }
        out
    }

    fn write(&self, group: &[Stretch], out: &mut String) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { return };
        let _ = writeln!(out, "@@ -{} +{} @@", range(first.a.0, last.a.1), range(first.b.0, last.b.1));
        let mut put = |mark: char, lines: &[&str]| {
            for line in lines {
                let _ = writeln!(out, "{mark}{line}");
            }
        };
        for s in group {
            if s.same {
                put(' ', &self.a[s.a.0..s.a.1]);
            } else {
                put('-', &self.a[s.a.0..s.a.1]);
                put('+', &self.b[s.b.0..s.b.1]);
            }
        }
    }
}

fn range(start: usize, end: usize) -> String {
    match end - start {
        1 => (start + 1).to_string(),
        0 => format!("{start},0"),
        n => format!("{},{n}", start + 1),
    }
}

/// Changes that stand close together, with what is around them.
fn groups(all: &[Stretch]) -> Vec<Vec<Stretch>> {
    let (mut out, mut group) = (Vec::new(), Vec::new());
    let head = |s: &Stretch, n: usize| Stretch {
        same: true,
        a: (s.a.0, s.a.1.min(s.a.0 + n)),
        b: (s.b.0, s.b.1.min(s.b.0 + n)),
    };
    let tail = |s: &Stretch, n: usize| Stretch {
        same: true,
        a: (s.a.0.max(s.a.1.saturating_sub(n)), s.a.1),
        b: (s.b.0.max(s.b.1.saturating_sub(n)), s.b.1),
    };
    for (i, s) in all.iter().enumerate() {
        let (first, last) = (i == 0, i + 1 == all.len());
        if !s.same {
            group.push(*s);
        } else if first {
            group.push(tail(s, CONTEXT));
        } else if last {
            group.push(head(s, CONTEXT));
        } else if s.a.1 - s.a.0 > 2 * CONTEXT {
            group.push(head(s, CONTEXT));
            out.push(std::mem::take(&mut group));
            group.push(tail(s, CONTEXT));
        } else {
            group.push(*s);
        }
    }
    if group.iter().any(|s| !s.same) {
        out.push(group);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_with_three_lines_around() {
        let text = |skip: &[usize]| {
            let lines: Vec<String> = (0..20).filter(|i| !skip.contains(i)).map(|i| i.to_string()).collect();
            lines.join("\n")
        };
        assert_eq!(unified(&text(&[]), &text(&[])), "");
        assert_eq!(
            unified(&text(&[]), &text(&[1, 18])),
            "@@ -1,5 +1,4 @@\n 0\n-1\n 2\n 3\n 4\n@@ -16,5 +15,4 @@\n 15\n 16\n 17\n-18\n 19\n"
        );
        assert_eq!(unified("a", "b"), "@@ -1 +1 @@\n-a\n+b\n");
    }
}

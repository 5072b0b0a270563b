//! Sets of completion indexes, and their text form: `0,2-4`.

use std::collections::BTreeSet;

/// Completion indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes(pub BTreeSet<i32>);

impl Indexes {
    /// Reads the text; what lies beyond `completions` or cannot be read is left out.
    pub fn parse(text: &str, completions: i32) -> Indexes {
        let mut set = BTreeSet::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) else { continue };
            set.extend(first.max(0)..=last.min(completions - 1));
        }
        Indexes(set)
    }

    /// The text form: runs of three and more are written as a range, as are pairs.
    pub fn text(&self) -> String {
        let mut runs: Vec<(i32, i32)> = Vec::new();
        for i in &self.0 {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == *i => *last = *i,
                _ => runs.push((*i, *i)),
            }
        }
        let parts = runs.into_iter().map(|(first, last)| match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        });
        parts.collect::<Vec<_>>().join(",")
    }

    pub fn has(&self, index: i32) -> bool {
        self.0.contains(&index)
    }

    pub fn len(&self) -> i32 {
        i32::try_from(self.0.len()).unwrap_or(i32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for (text, completions, want) in [
            ("", 5, ""),
            ("0,2-4", 10, "0,2-4"),
            ("0-9", 5, "0-4"),
            ("1,2", 5, "1,2"),
            ("1,x,3-2,7", 8, "1,7"),
            ("1,2,3", 8, "1-3"),
        ] {
            assert_eq!(Indexes::parse(text, completions).text(), want, "{text}");
        }
    }
}

//! Label selectors in a form that is made once and matched often.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::BTreeMap;

pub type Labels = BTreeMap<String, String>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    Greater(String, i64),
    Less(String, i64),
    /// An operator or value that no object satisfies.
    Never,
}

impl Requirement {
    fn new(key: &str, operator: &str, values: &[String]) -> Requirement {
        let number = || values.first().and_then(|v| v.parse().ok());
        match operator {
            "In" => Requirement::In(key.into(), values.to_vec()),
            "NotIn" => Requirement::NotIn(key.into(), values.to_vec()),
            "Exists" => Requirement::Exists(key.into()),
            "DoesNotExist" => Requirement::Absent(key.into()),
            "Gt" => number().map_or(Requirement::Never, |n| Requirement::Greater(key.into(), n)),
            "Lt" => number().map_or(Requirement::Never, |n| Requirement::Less(key.into(), n)),
            _ => Requirement::Never,
        }
    }

    fn matches(&self, get: &impl Fn(&str) -> Option<String>) -> bool {
        let number = |key: &str| get(key).and_then(|v| v.parse::<i64>().ok());
        match self {
            Requirement::In(key, values) => get(key).is_some_and(|v| values.contains(&v)),
            Requirement::NotIn(key, values) => get(key).is_none_or(|v| !values.contains(&v)),
            Requirement::Exists(key) => get(key).is_some(),
            Requirement::Absent(key) => get(key).is_none(),
            Requirement::Greater(key, n) => number(key).is_some_and(|v| v > *n),
            Requirement::Less(key, n) => number(key).is_some_and(|v| v < *n),
            Requirement::Never => false,
        }
    }
}

/// All requirements must hold; with none, everything matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

impl Selector {
    /// Matches every object.
    pub fn everything() -> Selector {
        Selector::default()
    }

    /// Matches no object.
    pub fn nothing() -> Selector {
        Selector { requirements: vec![Requirement::Never] }
    }

    /// An absent selector matches nothing, an empty one everything.
    pub fn of(selector: Option<&LabelSelector>) -> Selector {
        let Some(selector) = selector else { return Selector::nothing() };
        let mut s = Selector::of_map(selector.match_labels.iter().flatten());
        for e in selector.match_expressions.iter().flatten() {
            s.require(&e.key, &e.operator, e.values.as_deref().unwrap_or_default());
        }
        s
    }

    pub fn of_map<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Selector {
        let requirements =
            labels.into_iter().map(|(k, v)| Requirement::In(k.clone(), vec![v.clone()])).collect();
        Selector { requirements }
    }

    /// One more requirement; operators are those of label selectors and node selectors.
    pub fn require(&mut self, key: &str, operator: &str, values: &[String]) {
        self.requirements.push(Requirement::new(key, operator, values));
    }

    /// What both match.
    pub fn and(mut self, other: &Selector) -> Selector {
        self.requirements.extend(other.requirements.iter().cloned());
        self
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    pub fn matches(&self, labels: Option<&Labels>) -> bool {
        self.matches_with(&|key| labels.and_then(|l| l.get(key)).cloned())
    }

    pub fn matches_with(&self, get: &impl Fn(&str) -> Option<String>) -> bool {
        self.requirements.iter().all(|r| r.matches(get))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator() {
        let labels: Labels = [("a", "1"), ("n", "7")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let cases = [
            ("a", "In", vec!["1", "2"], true),
            ("a", "In", vec!["2"], false),
            ("a", "NotIn", vec!["1"], false),
            ("b", "NotIn", vec!["1"], true),
            ("a", "Exists", vec![], true),
            ("b", "DoesNotExist", vec![], true),
            ("n", "Gt", vec!["6"], true),
            ("n", "Lt", vec!["7"], false),
            ("a", "Weird", vec![], false),
        ];
        for (key, operator, values, expected) in cases {
            let values: Vec<String> = values.into_iter().map(str::to_owned).collect();
            let mut s = Selector::everything();
            s.require(key, operator, &values);
            assert_eq!(s.matches(Some(&labels)), expected, "{key} {operator} {values:?}");
        }
        assert!(!Selector::of(None).matches(Some(&labels)));
        assert!(Selector::of(Some(&LabelSelector::default())).matches(None));
    }
}

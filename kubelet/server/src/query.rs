//! Query parameters, of which some may be given several times.

use std::str::FromStr;

/// The parameters in the order given.
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: Option<&str>) -> Query {
        Query(url::form_urlencoded::parse(text.unwrap_or("").as_bytes()).into_owned().collect())
    }

    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(k, _)| k == name).map(|(_, v)| v.clone()).collect()
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// `1`, `t` and `true` in their spellings; anything else is false.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("1" | "t" | "T" | "true" | "True" | "TRUE"))
    }

    /// Anything that is not `0` or `false` is true, also what is empty.
    pub fn truthy(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| v != "0" && !v.eq_ignore_ascii_case("false"))
    }

    /// A number, or which parameter is none.
    pub fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        match self.get(name) {
            None => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_| format!("Unable to decode query: {name}: invalid value {text:?}")),
        }
    }
}

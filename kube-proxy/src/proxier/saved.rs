//! The clients that stay with an endpoint are known only to the kernel's sets; they are carried over when the table is
//! made anew, so that a restart of the proxy moves nobody.

use std::collections::HashMap;
use std::fmt::Write;

use serde_json::Value;

use crate::model::Family;
use crate::nft::Nft;
use crate::rules::TABLE;

/// A set's clients and the seconds they have left.
#[derive(Default)]
pub struct Affinities {
    family: &'static str,
    clients: HashMap<String, Vec<(String, u64)>>,
}

/// Reads what the kernel has.
pub async fn affinities(nft: &Nft, family: Family) -> Affinities {
    let listed = nft.list(&["table", family.nft(), TABLE]).await.unwrap_or_default();
    Affinities { family: family.nft(), clients: parse(&listed) }
}

fn parse(listed: &Value) -> HashMap<String, Vec<(String, u64)>> {
    let mut out = HashMap::new();
    for set in listed["nftables"].as_array().into_iter().flatten().map(|o| &o["set"]) {
        let Some(name) = set["name"].as_str().filter(|n| n.starts_with("affinity-")) else { continue };
        let elements = set["elem"].as_array().into_iter().flatten().map(|e| &e["elem"]);
        let clients: Vec<(String, u64)> = elements
            .filter_map(|e| Some((e["val"].as_str()?.to_owned(), e["expires"].as_u64().filter(|s| *s > 0)?)))
            .collect();
        if !clients.is_empty() {
            out.insert(name.to_owned(), clients);
        }
    }
    out
}

impl Affinities {
    /// The commands that put the clients back into those sets that are there again.
    pub fn restore(&self, sets: &[(String, u32)]) -> String {
        let mut out = String::new();
        for (name, timeout) in sets {
            let Some(clients) = self.clients.get(name) else { continue };
            let list: Vec<String> =
                clients.iter().map(|(ip, left)| format!("{ip} timeout {timeout}s expires {left}s")).collect();
            let _ = writeln!(out, "add element {} {TABLE} {name} {{ {} }}", self.family, list.join(", "));
        }
        out
    }
}

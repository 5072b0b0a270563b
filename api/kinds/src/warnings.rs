//! Texts for `Warning:` headers that several kinds share.

use crate::names;
use crate::value::Get;
use api::Value;

/// The name of what makes pods becomes part of host names.
pub fn name_in_pods(object: &Value) -> Vec<String> {
    let messages = names::dns_label(object.at("metadata").text("name"));
    if messages.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
        messages.join(" ")
    )]
}

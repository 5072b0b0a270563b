//! What `--help` prints: every flag, grouped as upstream groups them.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::Flag;

const NO_EFFECT: &str = "accepted; has no effect yet";
/// Sections whose order is fixed; the others stand between, by name.
const FIRST: [&str; 1] = ["Generic"];
const LAST: [&str; 2] = ["Misc", "Global"];

pub(super) fn render(
    name: &str,
    about: &str,
    table: &BTreeMap<String, Flag>,
    help: &BTreeMap<String, String>,
) -> String {
    let mut sections: BTreeMap<(usize, &str), Vec<&Flag>> = BTreeMap::new();
    for flag in table.values().filter(|f| !f.hidden) {
        let section = flag.section.as_deref().unwrap_or("");
        sections.entry((rank(section), section)).or_default().push(flag);
    }
    let mut out = format!("{about}\n\nUsage:\n  {name} [flags]\n");
    for ((_, section), flags) in sections {
        let title = if section.is_empty() { "Flags".to_owned() } else { format!("{section} flags") };
        let _ = write!(out, "\n{title}:\n\n");
        flags.iter().for_each(|f| line(&mut out, f, help));
    }
    out
}

fn rank(section: &str) -> usize {
    if FIRST.contains(&section) { 0 } else { LAST.iter().position(|l| *l == section).map_or(1, |p| p + 2) }
}

fn line(out: &mut String, flag: &Flag, help: &BTreeMap<String, String>) {
    let short = match flag.shorthand.as_str() {
        "" => "    ".to_owned(),
        s => format!("-{s}, "),
    };
    let kind = if flag.kind == "bool" { "" } else { flag.kind.as_str() };
    let _ = writeln!(out, "  {}", format!("{short}--{} {kind}", flag.flag).trim_end());
    let text = help.get(&flag.flag).map_or(NO_EFFECT, String::as_str);
    let _ = write!(out, "        {text}");
    if !matches!(flag.default.as_str(), "" | "[]" | "false" | "0" | "0s") {
        let _ = write!(out, " (default {})", flag.default);
    }
    if flag.deprecated {
        out.push_str(" (DEPRECATED)");
    }
    out.push('\n');
}

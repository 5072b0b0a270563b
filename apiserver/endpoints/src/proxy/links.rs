//! Links of pages that came through a proxy: those that lead to the backend's own root are made to lead through the
//! proxy again. Everything else of a page stays byte for byte.

/// Where the page came from.
pub struct Page<'a> {
    /// The path up to and with `/proxy`.
    pub prefix: &'a str,
    /// The backend as it was dialled, and as the client called this server.
    pub hosts: [&'a str; 2],
}

/// Attributes that hold one URL, by element.
const ATTRIBUTES: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];
/// Elements whose content is no markup.
const RAW: [&str; 4] = ["script", "style", "textarea", "title"];

impl Page<'_> {
    /// A link as it must be, if that is different. Relative links and those to other hosts are right as they are.
    pub fn rewrite(&self, link: &str) -> Option<String> {
        let authority = link.split_once("//").filter(|(scheme, _)| is_scheme(scheme)).map(|(_, rest)| rest);
        let (host, path) = match authority {
            Some(rest) => rest.split_at(rest.find('/')?),
            None => ("", link),
        };
        let known = host.is_empty() || self.hosts.contains(&host);
        if !known || !path.starts_with('/') {
            return None;
        }
        // A link with this server's own name keeps it.
        let keep =
            if !host.is_empty() && host == self.hosts[1] { &link[..link.len() - path.len()] } else { "" };
        let prefix = if path.starts_with(self.prefix) { "" } else { self.prefix };
        Some(format!("{keep}{prefix}{path}"))
    }

    /// A whole page.
    pub fn rewrite_html(&self, page: &str) -> String {
        let mut out = String::with_capacity(page.len() + page.len() / 16);
        let mut rest = page;
        while let Some(start) = rest.find('<') {
            let (before, from) = rest.split_at(start);
            out.push_str(before);
            rest = self.markup(from, &mut out);
        }
        out.push_str(rest);
        out
    }

    /// Copies what begins with `<` and returns what is behind it.
    fn markup<'t>(&self, text: &'t str, out: &mut String) -> &'t str {
        if text.starts_with("<!--") {
            return copy(text, text.find("-->").map_or(text.len(), |i| i + 3), out);
        }
        let name_end = text[1..].find(|c: char| !c.is_ascii_alphanumeric()).map_or(text.len(), |i| i + 1);
        let name = text[1..name_end].to_ascii_lowercase();
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return copy(text, 1, out);
        }
        let wanted = ATTRIBUTES.iter().find(|(element, _)| *element == name).map_or(&[][..], |(_, a)| *a);
        let mut rest = copy(text, name_end, out);
        while !rest.is_empty() && !rest.starts_with('>') {
            rest = self.attribute(rest, wanted, out);
        }
        rest = copy(rest, rest.len().min(1), out);
        if RAW.contains(&name.as_str()) {
            rest = copy(rest, end_of_raw(rest, &name), out);
        }
        rest
    }

    /// One attribute of a tag, or what stands between two.
    fn attribute<'t>(&self, text: &'t str, wanted: &[&str], out: &mut String) -> &'t str {
        let gap = text.find(|c: char| !(c.is_ascii_whitespace() || c == '/')).unwrap_or(text.len());
        let rest = copy(text, gap, out);
        let end = rest.find(|c: char| c.is_ascii_whitespace() || "=>/".contains(c)).unwrap_or(rest.len());
        if end == 0 {
            let stray = usize::from(rest.starts_with('='));
            return copy(rest, stray, out);
        }
        let name = rest[..end].to_ascii_lowercase();
        let rest = copy(rest, end, out);
        let value_at = rest.len() - rest.trim_ascii_start().len();
        let Some(after) = rest[value_at..].strip_prefix('=') else { return rest };
        let spaces = after.len() - after.trim_ascii_start().len();
        let rest = copy(rest, value_at + 1 + spaces, out);
        let (value, behind) = match rest.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                out.push(quote);
                rest[1..].split_at(rest[1..].find(quote).unwrap_or(rest.len() - 1))
            }
            _ => {
                rest.split_at(rest.find(|c: char| c.is_ascii_whitespace() || c == '>').unwrap_or(rest.len()))
            }
        };
        match self.rewrite(value).filter(|_| wanted.contains(&name.as_str())) {
            Some(link) => out.push_str(&link),
            None => out.push_str(value),
        }
        let closes = rest.starts_with(['"', '\'']) && !behind.is_empty();
        copy(behind, usize::from(closes), out)
    }
}

/// Where the end tag of an element without markup stands.
fn end_of_raw(text: &str, name: &str) -> usize {
    let closes = |i: &usize| {
        text.as_bytes()
            .get(i + 2..i + 2 + name.len())
            .is_some_and(|n| n.eq_ignore_ascii_case(name.as_bytes()))
    };
    text.match_indices("</").map(|(i, _)| i).find(closes).unwrap_or(text.len())
}

fn is_scheme(text: &str) -> bool {
    let name = text.strip_suffix(':').unwrap_or(text);
    text.is_empty()
        || (text.ends_with(':') && name.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)))
}

fn copy<'t>(text: &'t str, n: usize, out: &mut String) -> &'t str {
    let (done, rest) = text.split_at(n);
    out.push_str(done);
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: Page<'static> =
        Page { prefix: "/api/v1/namespaces/n/pods/p:80/proxy", hosts: ["10.0.0.1:80", "example.com:6443"] };

    #[test]
    fn links_to_the_root_go_through_the_proxy() {
        let p = PAGE.prefix;
        for (link, expected) in [
            ("/rewriteme", Some(format!("{p}/rewriteme"))),
            ("/a/?q=/b#c", Some(format!("{p}/a/?q=/b#c"))),
            ("http://10.0.0.1:80/x", Some(format!("{p}/x"))),
            ("//10.0.0.1:80/x", Some(format!("{p}/x"))),
            ("https://example.com:6443/x", Some(format!("https://example.com:6443{p}/x"))),
            ("https://other.example/x", None),
            ("relative/x", None),
            ("mailto:a@b", None),
            ("#top", None),
            ("x?y=http://10.0.0.1:80/x", None),
        ] {
            assert_eq!(PAGE.rewrite(link), expected, "{link}");
        }
        let there = format!("{p}/x");
        assert_eq!(PAGE.rewrite(&there), Some(there.clone()));
    }

    #[test]
    fn only_links_of_a_page_change() {
        let p = PAGE.prefix;
        for (page, expected) in [
            (r#"<a href="/rewriteme">test</a>"#, format!(r#"<a href="{p}/rewriteme">test</a>"#)),
            ("<A x HREF = '/a' y>/b</A>", format!("<A x HREF = '{p}/a' y>/b</A>")),
            ("<img src=/i.png/>", format!("<img src={p}/i.png/>")),
            (
                "<script src='/s'>if (a<b) '<a href=\"/x\">'</script>",
                format!("<script src='{p}/s'>if (a<b) '<a href=\"/x\">'</script>"),
            ),
            (
                "<!-- <a href='/x'> --><p href='/x'>1 < 2 é",
                "<!-- <a href='/x'> --><p href='/x'>1 < 2 é".to_owned(),
            ),
            ("<a href=\"/cut", format!("<a href=\"{p}/cut")),
            ("<a = href='/x'", format!("<a = href='{p}/x'")),
            ("<", "<".to_owned()),
        ] {
            assert_eq!(PAGE.rewrite_html(page), expected);
        }
    }
}

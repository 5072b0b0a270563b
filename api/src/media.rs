//! Media types as headers spell them.

/// `type/subtype` in lower case; `None` if the text is no media type or its parameters are broken.
pub fn essence(header: &str) -> Option<String> {
    let (base, rest) = match header.find(';') {
        Some(i) => header.split_at(i),
        None => (header, ""),
    };
    let base = base.trim().to_ascii_lowercase();
    let is_type = base.split('/').count() <= 2 && base.split('/').all(is_token);
    (is_type && parameters(rest).is_some()).then_some(base)
}

/// `; name=value` any number of times, no name twice; one `;` may be left at the end.
fn parameters(mut rest: &str) -> Option<()> {
    let mut seen: Vec<String> = Vec::new();
    loop {
        rest = rest.trim_start();
        if rest.is_empty() || rest.trim_end() == ";" {
            return Some(());
        }
        let (name, after) = rest.strip_prefix(';')?.trim_start().split_once('=')?;
        let name = name.trim_end().to_ascii_lowercase();
        if !is_token(&name) || seen.contains(&name) {
            return None;
        }
        seen.push(name);
        rest = value(after.trim_start())?;
    }
}

/// What follows a token or a quoted text.
fn value(text: &str) -> Option<&str> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c| !is_token_char(c)).unwrap_or(text.len());
        return (end > 0).then(|| &text[end..]);
    };
    let mut escaped = false;
    for (i, c) in quoted.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(&quoted[i + 1..]),
            '\r' | '\n' => return None,
            _ => {}
        }
    }
    None
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_token_char)
}

fn is_token_char(c: char) -> bool {
    c.is_ascii_graphic() && !"()<>@,;:\\\"/[]?=".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_with_parameters() {
        for (header, want) in [
            ("application/json", Some("application/json")),
            ("Application/JSON ; charset=utf-8", Some("application/json")),
            ("application/json;", Some("application/json")),
            (r#"a/b; x="q;\"r"; y=z"#, Some("a/b")),
            ("application/json;foo", None),
            ("application/json; ;", None),
            ("application/json; a=b; A=c", None),
            ("application/json; a=", None),
            ("a/b/c", None),
            ("", None),
        ] {
            assert_eq!(essence(header).as_deref(), want, "{header}");
        }
    }
}

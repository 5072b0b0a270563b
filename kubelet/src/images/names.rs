//! Names of images.

/// The image's name without tag and digest.
pub fn without_tag(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or(image);
    let slash = name.rfind('/').map_or(0, |at| at + 1);
    match name[slash..].find(':') {
        Some(at) => &name[..slash + at],
        None => name,
    }
}

/// The image with `:latest` where it has neither tag nor digest. An error if it is no image name.
pub fn default_tag(image: &str) -> Result<String, String> {
    let invalid = |why: &str| Err(format!("couldn't parse image name {image:?}: {why}"));
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[slash..].rfind(':') {
        Some(at) => (&rest[..slash + at], Some(&rest[slash + at + 1..])),
        None => (rest, None),
    };
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let tag_ok = tag.is_none_or(|t| {
        !t.is_empty()
            && t.len() <= 128
            && t.starts_with(word)
            && t.chars().all(|c| word(c) || c == '.' || c == '-')
    });
    let digest_ok = digest.is_none_or(|d| {
        d.split_once(':')
            .is_some_and(|(a, h)| !a.is_empty() && h.len() >= 32 && h.chars().all(|c| c.is_ascii_hexdigit()))
    });
    let lower = name.to_ascii_lowercase();
    if path_ok(&lower) && !path_ok(name) && tag_ok && digest_ok {
        // The part that names no registry is what has to be in lower case.
        let path = name.split_once('/').filter(|(host, _)| host.contains(['.', ':']) || *host == "localhost");
        let path = path.map_or(name, |(_, path)| path);
        return invalid(&format!("invalid reference format: repository name ({path}) must be lowercase"));
    }
    if name.is_empty() || !tag_ok || !digest_ok || !path_ok(name) {
        return invalid("invalid reference format");
    }
    Ok(if tag.is_none() && digest.is_none() { format!("{image}:latest") } else { image.to_string() })
}

fn path_ok(name: &str) -> bool {
    let mut parts = name.split('/').peekable();
    let mut first = true;
    while let Some(part) = parts.next() {
        let host = first && parts.peek().is_some();
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        let host_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
        let edge = |c: Option<char>| {
            c.is_some_and(|c| c.is_ascii_alphanumeric() || (host && matches!(c, '[' | ']')))
        };
        let good = part.chars().all(|c| inner(c) || (host && host_char(c)));
        if !good || !edge(part.chars().next()) || !edge(part.chars().last()) {
            return false;
        }
        first = false;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_not_ports() {
        for (image, expected) in
            [("a", "a"), ("a:1", "a"), ("h:5000/a", "h:5000/a"), ("h:5000/a:1@sha256:x", "h:5000/a")]
        {
            assert_eq!(without_tag(image), expected);
        }
    }

    #[test]
    fn image_names() {
        for (image, expected) in [
            ("busybox", Some("busybox:latest")),
            ("localhost/busybox:local", Some("localhost/busybox:local")),
            ("localhost:5000/a/b", Some("localhost:5000/a/b:latest")),
            (
                "a@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
                Some("a@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
            ),
            ("", None),
            ("UPPER", None),
            ("a/B", None),
            ("a:", None),
            ("a b", None),
            ("/a", None),
            ("a//b", None),
            ("a@sha256:xyz", None),
        ] {
            assert_eq!(default_tag(image).ok().as_deref(), expected, "{image}");
        }
    }
}

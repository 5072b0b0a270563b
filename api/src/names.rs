//! Well-formedness of names, label keys and values, with the texts that clients see.
//!
//! Each function returns what is wrong, nothing if all is well.

type Errors = Vec<String>;

const LABEL_RE: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_RE: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const QUALIFIED_RE: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_TEXT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// `must be no more than N bytes`, as names and labels report it.
pub fn max_len(n: usize) -> String {
    format!("must be no more than {n} bytes")
}

fn max_chars(n: usize) -> String {
    format!("must be no more than {n} characters")
}

/// `text (e.g. 'a', or 'b', regex used for validation is 're')`
pub fn regex_error(text: &str, re: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{text} (regex used for validation is '{re}')");
    }
    let listed: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{text} (e.g. {}regex used for validation is '{re}')", listed.join("or "))
}

/// `must be between LO and HI, inclusive`
pub fn between(lo: i64, hi: i64) -> String {
    format!("must be between {lo} and {hi}, inclusive")
}

fn ends_ok(s: &str, edge: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    match s.as_bytes() {
        [] => false,
        [one] => edge(*one),
        [first, middle @ .., last] => edge(*first) && edge(*last) && middle.iter().all(|b| inner(*b)),
    }
}

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn is_label(s: &str) -> bool {
    ends_ok(s, lower_alnum, |b| lower_alnum(b) || b == b'-')
}

fn is_subdomain(s: &str) -> bool {
    s.split('.').all(is_label)
}

fn is_qualified_part(s: &str) -> bool {
    ends_ok(s, |b| b.is_ascii_alphanumeric(), |b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// RFC 1123 label, at most 63 bytes.
pub fn dns1123_label(s: &str) -> Errors {
    let mut errs = Errors::new();
    if s.len() > 63 {
        errs.push(max_len(63));
    }
    if !is_label(s) {
        errs.push(if is_subdomain(s) {
            "must not contain dots".into()
        } else {
            regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                LABEL_RE,
                &["my-name", "123-abc"],
            )
        });
    }
    errs
}

/// RFC 1123 subdomain, at most 253 bytes: the form of most object names.
pub fn dns1123_subdomain(s: &str) -> Errors {
    let mut errs = Errors::new();
    if s.len() > 253 {
        errs.push(max_len(253));
    }
    if !is_subdomain(s) {
        errs.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            SUBDOMAIN_RE,
            &["example.com"],
        ));
    }
    errs
}

/// A subdomain in which underscores are allowed too.
pub fn dns1123_subdomain_with_underscore(s: &str) -> Errors {
    let label = |l: &str| {
        let l = l.strip_prefix('_').unwrap_or(l);
        ends_ok(l, lower_alnum, |b| lower_alnum(b) || b == b'-' || b == b'_')
    };
    let mut errs = Errors::new();
    if s.len() > 253 {
        errs.push(max_chars(253));
    }
    if !s.split('.').all(label) {
        errs.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character",
            "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    errs
}

/// DNS-1035 label: as RFC 1123, but starting with a letter (Service names).
pub fn dns1035_label(s: &str) -> Errors {
    let mut errs = Errors::new();
    if s.len() > 63 {
        errs.push(max_chars(63));
    }
    if !(is_label(s) && s.as_bytes()[0].is_ascii_lowercase()) {
        errs.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    errs
}

/// `*.` and a subdomain.
pub fn wildcard_dns1123_subdomain(s: &str) -> Errors {
    let mut errs = Errors::new();
    if s.len() > 253 {
        errs.push(max_chars(253));
    }
    if !s.strip_prefix("*.").is_some_and(is_subdomain) {
        errs.push(regex_error(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!("\\*\\.{SUBDOMAIN_RE}"),
            &["*.example.com"],
        ));
    }
    errs
}

/// Label and annotation keys, extended resources, finalizers: an optional prefix, `/`, a name.
pub fn qualified_name(s: &str) -> Errors {
    let mut errs = Errors::new();
    let examples = ["MyName", "my.name", "123-abc"];
    let parts: Vec<&str> = s.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errs.push("prefix part must be non-empty".into());
            } else {
                errs.extend(dns1123_subdomain(prefix).into_iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
        _ => {
            errs.push(format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                regex_error(QUALIFIED_TEXT, QUALIFIED_RE, &examples)
            ));
            return errs;
        }
    };
    if name.is_empty() {
        errs.push("name part must be non-empty".into());
    } else if name.len() > 63 {
        errs.push(format!("name part {}", max_len(63)));
    }
    if !is_qualified_part(name) {
        errs.push(format!("name part {}", regex_error(QUALIFIED_TEXT, QUALIFIED_RE, &examples)));
    }
    errs
}

/// Values of labels: empty, or as the name part of a key.
pub fn label_value(s: &str) -> Errors {
    let mut errs = Errors::new();
    if s.len() > 63 {
        errs.push(max_len(63));
    }
    if !(s.is_empty() || is_qualified_part(s)) {
        errs.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            &format!("({QUALIFIED_RE})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    errs
}

/// What every name must be to stand in a URL and in etcd.
pub fn path_segment(s: &str) -> Errors {
    if s == "." || s == ".." {
        return vec![format!("may not be '{s}'")];
    }
    path_segment_prefix(s)
}

/// As [`path_segment`] for `generateName`.
pub fn path_segment_prefix(s: &str) -> Errors {
    ["/", "%"].iter().filter(|c| s.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// Names of container and service ports.
pub fn port_name(s: &str) -> Errors {
    let mut errs = Errors::new();
    if s.len() > 15 {
        errs.push(max_chars(15));
    }
    if s.is_empty() || !s.bytes().all(|b| lower_alnum(b) || b == b'-') {
        errs.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !s.bytes().any(|b| b.is_ascii_lowercase()) {
        errs.push("must contain at least one letter (a-z)".into());
    }
    if s.contains("--") {
        errs.push("must not contain consecutive hyphens".into());
    }
    if s.starts_with('-') || s.ends_with('-') {
        errs.push("must not begin or end with a hyphen".into());
    }
    errs
}

/// 1 to 65535.
pub fn port_number(n: i64) -> Errors {
    if (1..=65535).contains(&n) { vec![] } else { vec![between(1, 65535)] }
}

/// `93%`
pub fn percent(s: &str) -> Errors {
    match s.strip_suffix('%') {
        Some(n) if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) => vec![],
        _ => vec![regex_error(
            "a valid percent string must be a numeric string followed by an ending '%'",
            "[0-9]+%",
            &["1%", "93%"],
        )],
    }
}

/// Keys of ConfigMaps and Secrets.
pub fn config_map_key(s: &str) -> Errors {
    let mut errs = Errors::new();
    if s.len() > 253 {
        errs.push(max_chars(253));
    }
    if s.is_empty() || !s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        errs.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    errs.extend(dots(s));
    errs
}

/// Names of environment variables, as validated since they may hold any printable ASCII but `=`.
pub fn env_var_name(s: &str) -> Errors {
    if s.is_empty() {
        return vec!["environment variable name must be non-empty".into()];
    }
    if s.chars().all(|c| (' '..='~').contains(&c) && c != '=') {
        return vec![];
    }
    vec![
        "a valid environment variable name must consist only of printable ASCII characters other than '='"
            .into(),
    ]
}

/// C identifiers, the older and stricter rule for environment variables.
pub fn c_identifier(s: &str) -> Errors {
    let ok = |i: usize, b: u8| b == b'_' || b.is_ascii_alphabetic() || (i > 0 && b.is_ascii_digit());
    if !s.is_empty() && s.bytes().enumerate().all(|(i, b)| ok(i, b)) {
        return vec![];
    }
    vec![regex_error(
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'",
        "[A-Za-z_][A-Za-z0-9_]*",
        &["my_name", "MY_NAME", "MyName"],
    )]
}

/// Header names of HTTP probes.
pub fn http_header_name(s: &str) -> Errors {
    if !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return vec![];
    }
    vec![regex_error(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

fn dots(s: &str) -> Option<String> {
    match s {
        "." => Some("must not be '.'".into()),
        ".." => Some("must not be '..'".into()),
        _ if s.starts_with("..") => Some("must not start with '..'".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_well_formed() {
        type Check = fn(&str) -> Errors;
        let cases: &[(Check, &[&str], &[&str])] = &[
            (dns1123_label, &["a", "0", "a-b", "1a"], &["", "-a", "a-", "A", "a.b", "a_b"]),
            (dns1123_subdomain, &["a", "a.b", "a-1.b"], &["", "a..b", ".a", "a.-b", "é"]),
            (dns1035_label, &["a", "a1"], &["", "1a", "a.b"]),
            (qualified_name, &["a", "A.b_c", "x.y/Z"], &["", "/a", "a/", "a/b/c", "X/y", "-a"]),
            (label_value, &["", "a", "A-1_b.c"], &["-", "a b", "a/b"]),
            (path_segment, &["a:b"], &[".", "..", "a/b", "a%b"]),
            (port_name, &["http", "a-1"], &["", "1", "a--b", "-a", "abcdefghijklmnop"]),
            (config_map_key, &["a", ".a", "A_b"], &["", ".", "..", "..a", "a/b"]),
        ];
        for (check, good, bad) in cases {
            for s in *good {
                assert!(check(s).is_empty(), "{s:?}: {:?}", check(s));
            }
            for s in *bad {
                assert!(!check(s).is_empty(), "{s:?}");
            }
        }
        assert!(!dns1123_label(&"a".repeat(64)).is_empty());
    }

    #[test]
    fn texts_are_upstreams() {
        assert_eq!(
            dns1123_subdomain("A"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(
            label_value("-"),
            [
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue', or 'my_value', or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
            ]
        );
    }
}

//! Named formats: `format.dns1123Label().validate(name)`.

use crate::error::{Fault, Result};
use crate::value::Val;
use api::names;

/// A format by its name.
pub struct Format {
    pub name: &'static str,
    check: fn(&str) -> Vec<String>,
    /// The longest pattern it may match, for what checking costs.
    pub regex_size: u64,
}

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

static FORMATS: [Format; 13] = [
    Format { name: "dns1123Label", check: names::dns_label, regex_size: 30 },
    Format { name: "dns1123Subdomain", check: names::dns_subdomain, regex_size: 60 },
    Format { name: "dns1035Label", check: names::dns1035_label, regex_size: 30 },
    Format { name: "qualifiedName", check: names::qualified_name, regex_size: 60 },
    Format { name: "dns1123LabelPrefix", check: |s| names::dns_label(masked(s).as_str()), regex_size: 30 },
    Format {
        name: "dns1123SubdomainPrefix",
        check: |s| names::dns_subdomain(masked(s).as_str()),
        regex_size: 60,
    },
    Format {
        name: "dns1035LabelPrefix",
        check: |s| names::dns1035_label(masked(s).as_str()),
        regex_size: 30,
    },
    Format { name: "labelValue", check: names::label_value, regex_size: 40 },
    Format { name: "uri", check: uri, regex_size: 128 },
    Format { name: "uuid", check: uuid, regex_size: 128 },
    Format { name: "byte", check: byte, regex_size: 128 },
    Format { name: "date", check: date, regex_size: 128 },
    Format { name: "datetime", check: datetime, regex_size: 128 },
];

/// A prefix of a generated name may end in a dash.
fn masked(s: &str) -> String {
    match s.strip_suffix('-') {
        Some(rest) if s.len() > 1 => format!("{rest}a"),
        _ => s.to_owned(),
    }
}

fn one(good: bool, text: &str) -> Vec<String> {
    if good { Vec::new() } else { vec![text.to_owned()] }
}

fn uri(s: &str) -> Vec<String> {
    one(super::url::parse(s).is_some(), "invalid URI for request")
}

fn uuid(s: &str) -> Vec<String> {
    let hex: Vec<&str> = s.split('-').collect();
    let sizes: Vec<usize> = hex.iter().map(|p| p.len()).collect();
    let good = (sizes == [8, 4, 4, 4, 12] || sizes == [32])
        && hex.iter().all(|p| p.bytes().all(|b| b.is_ascii_hexdigit()));
    one(good, "does not match the UUID format")
}

fn byte(s: &str) -> Vec<String> {
    use base64::Engine;
    one(base64::engine::general_purpose::STANDARD.decode(s).is_ok(), "invalid base64")
}

fn date(s: &str) -> Vec<String> {
    let good = s.len() == 10 && s.parse::<jiff::civil::Date>().is_ok();
    one(good, "invalid date")
}

fn datetime(s: &str) -> Vec<String> {
    one(crate::time::parse_timestamp(s).is_some(), "invalid datetime")
}

fn find(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|f| f.name == name)
}

pub fn named<'a>(name: &str, args: &[Val<'a>]) -> Result<Val<'a>> {
    match (name, args) {
        ("named", [Val::Str(s)]) => Ok(Val::Optional(find(s).map(|f| Val::Format(f).into()))),
        (name, []) => find(name).map(Val::Format).ok_or_else(Fault::no_such_overload),
        _ => Err(Fault::no_such_overload()),
    }
}

pub fn validate<'a>(args: &[Val<'a>]) -> Result<Val<'a>> {
    let [Val::Format(format), Val::Str(s)] = args else { return Err(Fault::no_such_overload()) };
    let errors = (format.check)(s);
    if errors.is_empty() {
        return Ok(Val::Optional(None));
    }
    Ok(Val::some(Val::list(errors.into_iter().map(Val::str).collect())))
}

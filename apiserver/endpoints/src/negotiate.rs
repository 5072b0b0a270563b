//! Which form of an answer a client wants: media type, `as=Table`, `as=PartialObjectMetadata`, `pretty`.
//!
//! There are two gates, as upstream has them. The router ([`routable`]) looks only for a media type by its exact name
//! or `*/*`. Then the clauses of `Accept` are taken in order of their `q`, and the first that the endpoint can serve
//! decides ([`negotiate`]). Nothing acceptable is a 406 that lists what is.

use crate::query::Query;
use api::status::{Result, Status};
use http::HeaderMap;
use http::header::{ACCEPT, USER_AGENT};

pub const JSON: &str = "application/json";
pub const YAML: &str = "application/yaml";
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
pub const CBOR: &str = "application/cbor";
/// Watches in CBOR: one document after the other.
pub const CBOR_SEQ: &str = "application/cbor-seq";
const OFFERED: [(&str, Media); 4] =
    [(JSON, Media::Json), (YAML, Media::Yaml), (PROTOBUF, Media::Protobuf), (CBOR, Media::Cbor)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    Json,
    Yaml,
    Protobuf,
    Cbor,
}

impl Media {
    pub fn name(self) -> &'static str {
        OFFERED.iter().find(|(_, m)| *m == self).map_or(JSON, |(n, _)| n)
    }
}

/// What an object is turned into before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Object,
    Table,
    /// Only type and metadata.
    Partial,
    /// The same, asked for in the list form.
    PartialList,
}

/// The outcome of negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub media: Media,
    pub shape: Shape,
    /// `meta.k8s.io` version of a Table or PartialObjectMetadata.
    pub version: &'static str,
    pub pretty: bool,
}

impl Accepted {
    pub const PLAIN_JSON: Accepted =
        Accepted { media: Media::Json, shape: Shape::Object, version: "v1", pretty: false };
}

/// What an endpoint is able to answer with.
#[derive(Clone, Copy)]
pub struct Offers {
    pub protobuf: bool,
    /// Tables and PartialObjectMetadata of objects.
    pub shapes: bool,
    /// Frames of a watch, which have no YAML form.
    pub stream: bool,
}

impl Offers {
    pub const ALL: Offers = Offers { protobuf: true, shapes: true, stream: false };
    pub const PLAIN: Offers = Offers { protobuf: true, shapes: false, stream: false };
    pub const TEXT: Offers = Offers { protobuf: false, shapes: false, stream: false };
    pub const WATCH: Offers = Offers { protobuf: true, shapes: true, stream: true };

    fn has(self, media: Media, cbor: bool) -> bool {
        match media {
            Media::Json => true,
            Media::Yaml => !self.stream,
            Media::Protobuf => self.protobuf,
            Media::Cbor => cbor && self.protobuf,
        }
    }

    fn names(self, cbor: bool) -> Vec<&'static str> {
        if self.stream {
            return stream_names(cbor);
        }
        OFFERED.iter().filter(|(_, m)| self.has(*m, cbor)).map(|(n, _)| *n).collect()
    }
}

fn stream_names(cbor: bool) -> Vec<&'static str> {
    let mut out = vec!["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
    if cbor {
        out.push(CBOR_SEQ);
    }
    out
}

/// What the client prefers cannot be a watch.
pub fn no_stream(cbor: bool) -> Status {
    Status::not_acceptable(&stream_names(cbor))
}

/// The router's own look at `Accept`: a collection can also be watched, which it tells of.
pub fn routable(headers: &HeaderMap, collection: bool, cbor: bool) -> Result<()> {
    let Some(accept) = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).filter(|v| !v.is_empty()) else {
        return Ok(());
    };
    let mut names = Offers::PLAIN.names(cbor);
    if collection {
        names.extend(stream_names(cbor));
    }
    one_of(accept, &names)
}

/// The router's check of an Accept header against what a path offers.
pub fn one_of(accept: &str, names: &[&str]) -> Result<()> {
    let fits = |clause: &str| {
        let media = clause.split(';').next().unwrap_or_default().trim();
        media == "*/*" || names.contains(&media)
    };
    if accept.is_empty() || accept.split(',').any(fits) {
        return Ok(());
    }
    let message = format!("406: Not Acceptable\n\nAvailable representations: {}", names.join(", "));
    Err(router_status(406, "NotAcceptable", message))
}

/// A status of the router: it knows of no object, and says so with empty details.
pub fn router_status(code: u16, reason: &'static str, message: impl Into<String>) -> Status {
    let mut s = Status::new(code, reason, message);
    s.details = Some(Box::default());
    s
}

/// Decides the form of the answer. `cbor` says whether it is spoken at all.
pub fn negotiate(headers: &HeaderMap, query: &Query, offers: Offers, cbor: bool) -> Result<Accepted> {
    let pretty = pretty(headers, query);
    let header = match headers.get(ACCEPT) {
        None => return Ok(Accepted { pretty, ..Accepted::PLAIN_JSON }),
        Some(h) => h.to_str().unwrap_or_default(),
    };
    if header == JSON || header.is_empty() {
        return Ok(Accepted { pretty, ..Accepted::PLAIN_JSON });
    }
    let mut clauses: Vec<Clause<'_>> = header.split(',').filter_map(Clause::parse).collect();
    clauses.sort_by(|a, b| b.q.total_cmp(&a.q));
    clauses
        .iter()
        .find_map(|c| c.accept(offers, cbor))
        .map(|a| Accepted { pretty: a.pretty || pretty, ..a })
        .ok_or_else(|| Status::not_acceptable(&offers.names(cbor)))
}

/// `?pretty=true`, or a client that is a person's.
fn pretty(headers: &HeaderMap, query: &Query) -> bool {
    if let Some(v) = query.get("pretty").filter(|v| !v.is_empty()) {
        return matches!(v, "1" | "t" | "T" | "true" | "TRUE" | "True");
    }
    let agent = headers.get(USER_AGENT).map(|v| v.as_bytes()).unwrap_or_default();
    [b"curl".as_slice(), b"Wget", b"Mozilla/5.0"].iter().any(|p| agent.starts_with(p))
}

struct Clause<'a> {
    main: &'a str,
    sub: &'a str,
    q: f32,
    as_kind: &'a str,
    group: &'a str,
    version: &'a str,
    pretty: bool,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let range = parts.next().filter(|r| !r.is_empty())?;
        let (main, sub) = if range == "*" { ("*", "*") } else { range.split_once('/')? };
        let mut c = Clause { main, sub, q: 1.0, as_kind: "", group: "", version: "", pretty: false };
        for p in parts {
            let (k, v) = p.split_once('=').unwrap_or((p, ""));
            let v = v.trim().trim_matches('"');
            match k.trim() {
                "q" => c.q = v.parse().unwrap_or(1.0),
                "as" => c.as_kind = v,
                "g" => c.group = v,
                "v" => c.version = v,
                "pretty" => c.pretty = v == "1",
                _ => {}
            }
        }
        Some(c)
    }

    fn accept(&self, offers: Offers, cbor: bool) -> Option<Accepted> {
        let seq = offers.stream && self.matches(CBOR_SEQ) && self.sub != "*";
        let (_, media) = OFFERED
            .iter()
            .filter(|(_, m)| offers.has(*m, cbor))
            .find(|(name, m)| self.matches(name) || (seq && *m == Media::Cbor))?;
        let (shape, version) = self.shape(offers)?;
        // A Table has no protobuf form.
        if shape == Shape::Table && *media == Media::Protobuf {
            return None;
        }
        Some(Accepted { media: *media, shape, version, pretty: self.pretty })
    }

    fn matches(&self, name: &str) -> bool {
        let (main, sub) = name.split_once('/').unwrap_or((name, ""));
        (self.main == "*" && self.sub == "*") || (self.main == main && (self.sub == "*" || self.sub == sub))
    }

    fn shape(&self, offers: Offers) -> Option<(Shape, &'static str)> {
        if self.as_kind.is_empty() {
            return (self.group.is_empty() && self.version.is_empty() || !offers.shapes)
                .then_some((Shape::Object, "v1"));
        }
        if !offers.shapes || self.group != "meta.k8s.io" {
            return None;
        }
        let version = match self.version {
            "v1" => "v1",
            "v1beta1" => "v1beta1",
            _ => return None,
        };
        match self.as_kind {
            "Table" => Some((Shape::Table, version)),
            "PartialObjectMetadata" => Some((Shape::Partial, version)),
            "PartialObjectMetadataList" => Some((Shape::PartialList, version)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(text: &str) -> HeaderMap {
        let mut h = HeaderMap::new();
        h.insert(ACCEPT, text.parse().unwrap());
        h
    }

    fn ask(text: &str, offers: Offers) -> Option<(Media, Shape)> {
        negotiate(&accept(text), &Query::default(), offers, true).ok().map(|a| (a.media, a.shape))
    }

    #[test]
    fn the_best_clause_that_can_be_served_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        let table = [
            (kubectl, Offers::ALL, Some((Media::Json, Shape::Table))),
            (kubectl, Offers::PLAIN, Some((Media::Json, Shape::Object))),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                Offers::ALL,
                Some((Media::Protobuf, Shape::Object)),
            ),
            ("application/vnd.kubernetes.protobuf, */*", Offers::TEXT, Some((Media::Json, Shape::Object))),
            (
                "application/json;q=0.1, application/yaml;q=0.9",
                Offers::ALL,
                Some((Media::Yaml, Shape::Object)),
            ),
            ("application/yaml", Offers::WATCH, None),
            ("application/cbor-seq", Offers::WATCH, Some((Media::Cbor, Shape::Object))),
            ("application/cbor", Offers::ALL, Some((Media::Cbor, Shape::Object))),
            ("*/*", Offers::ALL, Some((Media::Json, Shape::Object))),
            ("application/*", Offers::ALL, Some((Media::Json, Shape::Object))),
            ("text/plain", Offers::ALL, None),
            ("application/json;as=Nonsense;v=v1;g=meta.k8s.io", Offers::ALL, None),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Offers::ALL,
                Some((Media::Protobuf, Shape::PartialList)),
            ),
        ];
        for (accept, offers, want) in table {
            assert_eq!(ask(accept, offers), want, "{accept}");
        }
        assert!(negotiate(&accept(CBOR), &Query::default(), Offers::ALL, false).is_err());
    }

    #[test]
    fn the_router_wants_exact_names() {
        for (text, fits) in
            [("application/*", false), ("*/*", true), ("text/html, application/yaml;q=0.1", true)]
        {
            assert_eq!(routable(&accept(text), false, false).is_ok(), fits, "{text}");
        }
        let refused = routable(&accept("text/plain"), true, false).unwrap_err();
        assert_eq!(
            refused.message,
            "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf, application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
        );
        assert_eq!(refused.to_value()["details"], api::json!({}));
    }

    #[test]
    fn people_get_it_indented() {
        let mut h = HeaderMap::new();
        h.insert(USER_AGENT, "curl/8".parse().unwrap());
        assert!(negotiate(&h, &Query::default(), Offers::ALL, false).unwrap().pretty);
        assert!(!negotiate(&h, &Query::parse("pretty=false"), Offers::ALL, false).unwrap().pretty);
    }
}

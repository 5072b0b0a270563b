//! Events, in the core group and in `events.k8s.io` alike.

use crate::checks;
use crate::metadata::{Checks, IMMUTABLE, Names, immutable, known_finalizers, updated};
use crate::table::{since, time};
use crate::value::Get;
use crate::{Context, Kind, PLAIN};
use api::Value;
use api::field::{Error, ErrorList, Path};

pub static ROOM: Kind = Kind {
    // The core group never checked more of an event's metadata than what a path needs.
    names: Names::PathSegment,
    any_finalizer: true,
    validate,
    row: Some(row),
    create_on_update: true,
    metadata_checks: Checks::NONE,
    ..PLAIN
};

/// Both groups' field names: the newer ones carry a prefix on what is deprecated there.
fn either<'a>(o: &'a Value, core: &str, events: &str) -> &'a Value {
    if o.has(core) { o.at(core) } else { o.at(events) }
}

fn row(o: &Value) -> Vec<Value> {
    let stamp = |v: &Value| v.as_str().filter(|t| time(t).is_some()).map(str::to_owned);
    let first = stamp(either(o, "firstTimestamp", "deprecatedFirstTimestamp"))
        .or_else(|| stamp(o.at("eventTime")))
        .map_or("<unknown>".to_owned(), |t| since(&t));
    let mut last = stamp(either(o, "lastTimestamp", "deprecatedLastTimestamp"))
        .map_or_else(|| first.clone(), |t| since(&t));
    let mut count = either(o, "count", "deprecatedCount").as_i64().unwrap_or_default();
    if o.has("series") {
        last = since(o.at("series").text("lastObservedTime"));
        count = o.at("series").int("count");
    } else if count == 0 {
        count = 1;
    }
    let object = either(o, "involvedObject", "regarding");
    let kind = object.text("kind").to_lowercase();
    let target = match object.text("name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let message = either(o, "message", "note").as_str().unwrap_or_default();
    vec![
        last.into(),
        o.text("type").into(),
        o.text("reason").into(),
        target.into(),
        object.text("fieldPath").into(),
        source(o).into(),
        message.trim().into(),
        first.into(),
        count.into(),
        o.at("metadata").text("name").into(),
    ]
}

fn source(o: &Value) -> String {
    let old = either(o, "source", "deprecatedSource");
    let first = |texts: [&str; 3]| texts.into_iter().find(|t| !t.is_empty()).unwrap_or_default().to_owned();
    let component =
        first([old.text("component"), o.text("reportingComponent"), o.text("reportingController")]);
    let instance = first([old.text("host"), o.text("reportingInstance"), ""]);
    if instance.is_empty() { component } else { format!("{component}, {instance}") }
}

/// Events are stored in the core form; the stricter rules are for those that carry an `eventTime`.
fn validate(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    lenient(cx, new, e);
    if cx.api_version == "events.k8s.io/v1" {
        strict(new, old, e);
    }
}

/// What every event must satisfy.
fn lenient(cx: &Context<'_>, new: &Value, e: &mut ErrorList) {
    let object = either(new, "involvedObject", "regarding");
    let (own, about) = (new.at("metadata").text("namespace"), object.text("namespace"));
    let fits = match (new.has("eventTime"), about) {
        (false, "") => matches!(own, "" | "default"),
        (false, about) => own == about,
        (true, "") => matches!(own, "default" | "kube-system"),
        (true, _) => true,
    };
    if !fits {
        let at = Path::new("involvedObject").child("namespace");
        e.push(Error::invalid(&at, about, "does not match event.namespace"));
    }
    checks::subdomain(own, &Path::new("namespace"), e);
    if !new.has("eventTime") {
        return;
    }
    let field = if cx.api_version == "v1" { "reportingComponent" } else { "reportingController" };
    let controller = either(new, "reportingComponent", "reportingController").as_str().unwrap_or_default();
    if controller.is_empty() {
        e.push(Error::required(&Path::new(field), ""));
    }
    checks::qualified(controller, &Path::new(field), e);
    for field in ["reportingInstance", "action", "reason"] {
        match new.len(field) {
            0 => e.push(Error::required(&Path::new(field), "")),
            n if n > 128 => {
                e.push(Error::invalid(&Path::new(field), "", "can have at most 128 characters"));
            }
            _ => {}
        }
    }
    if either(new, "message", "note").as_str().is_some_and(|m| m.len() > 1024) {
        e.push(Error::invalid(&Path::new("message"), "", "can have at most 1024 characters"));
    }
}

/// What `events.k8s.io` asks beyond the core group; objects come in the core group's form.
fn strict(new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let (meta, at_meta) = (new.at("metadata"), Path::new("metadata"));
    known_finalizers(meta, &at_meta.child("finalizers"), e);
    let Some(old) = old else {
        let prefix = meta.text("generateName");
        if !prefix.is_empty() {
            for text in Names::Subdomain.check(prefix, true) {
                e.push(Error::invalid(&at_meta.child("generateName"), prefix, text));
            }
        }
        if !meta.text("name").is_empty() {
            checks::subdomain(meta.text("name"), &at_meta.child("name"), e);
        }
        series(new.at("series"), e);
        return created(new, e);
    };
    updated(meta, old.at("metadata"), &at_meta, e);
    if new.at("series") != old.at("series") {
        series(new.at("series"), e);
    }
    for (field, events, shown) in [
        ("involvedObject", "regarding", "involvedObject"),
        ("reason", "reason", "reason"),
        ("message", "note", "message"),
        ("source", "deprecatedSource", "source"),
        ("firstTimestamp", "deprecatedFirstTimestamp", "firstTimestamp"),
        ("lastTimestamp", "deprecatedLastTimestamp", "lastTimestamp"),
        ("count", "deprecatedCount", "count"),
        // Upstream looks at the reason twice.
        ("reason", "reason", "reason"),
        ("type", "type", "type"),
        ("eventTime", "eventTime", "eventTime"),
        ("action", "action", "action"),
        ("related", "related", "related"),
        ("reportingComponent", "reportingController", "reportingController"),
        ("reportingInstance", "reportingInstance", "reportingInstance"),
    ] {
        let (new, old) = (either(new, field, events), either(old, field, events));
        if crate::value::same(new, old) {
            continue;
        }
        // Shown as upstream's own form of it has it.
        let message = match shown {
            "involvedObject" | "related" => "k8s.io.api.core.v1.ObjectReference",
            "source" => "k8s.io.api.core.v1.EventSource",
            _ => "",
        };
        let at = Path::new(shown);
        if !message.is_empty() {
            e.push(Error::invalid_printed(&at, crate::shown::internal(message, new), IMMUTABLE));
        } else if new.is_null() && old.is_string() {
            e.push(Error::invalid(&at, "", IMMUTABLE));
        } else {
            immutable(new, old, &at, e);
        }
    }
}

fn series(series: &Value, e: &mut ErrorList) {
    if series.is_null() {
        return;
    }
    if series.int("count") < 2 {
        e.push(Error::invalid(&Path::new("series.count"), "", "should be at least 2"));
    }
    if !series.has("lastObservedTime") {
        e.push(Error::required(&Path::new("series.lastObservedTime"), ""));
    }
}

fn created(new: &Value, e: &mut ErrorList) {
    if !new.has("eventTime") {
        e.push(Error::required(&Path::new("eventTime"), ""));
    }
    if !matches!(new.text("type"), "Normal" | "Warning") {
        let text = format!("has invalid value: {}", new.text("type"));
        e.push(Error::invalid(&Path::new("type"), "", text));
    }
    for (field, events) in [
        ("firstTimestamp", "deprecatedFirstTimestamp"),
        ("lastTimestamp", "deprecatedLastTimestamp"),
        ("count", "deprecatedCount"),
    ] {
        if !crate::value::is_zero(either(new, field, events)) {
            e.push(Error::invalid(&Path::new(field), "", "needs to be unset"));
        }
    }
    let source = either(new, "source", "deprecatedSource");
    if source.len("component") > 0 || source.len("host") > 0 {
        e.push(Error::invalid(&Path::new("source"), "", "needs to be unset"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;
    use api::json;

    #[test]
    fn namespaces_fit() {
        for (own, about, time, good) in [
            ("default", "", None, true),
            ("ns", "", None, false),
            ("ns", "ns", None, true),
            ("a", "b", None, false),
            ("kube-system", "", Some("t"), true),
        ] {
            let o = json!({"metadata": {"namespace": own}, "involvedObject": {"namespace": about}, "eventTime": time,
                "reportingComponent": "c", "reportingInstance": "i", "action": "a", "reason": "r", "apiVersion": "v1"});
            let got = ROOM.validate(&Context::default(), &o, None);
            assert_eq!(got.is_empty(), good, "{o} {got:?}");
        }
    }

    #[test]
    fn the_new_group_is_strict() {
        let cx = Context { api_version: "events.k8s.io/v1", ..Context::default() };
        let event = |change: fn(&mut Value)| {
            let mut o = json!({"metadata": {"namespace": "default", "resourceVersion": "1"}, "involvedObject": {"namespace": "default"},
                "eventTime": "2020-01-01T00:00:00.000000Z", "type": "Normal", "reportingComponent": "c",
                "reportingInstance": "i", "action": "a", "reason": "r"});
            change(&mut o);
            o
        };
        let old = event(|_| ());
        for (new, old, want) in [
            (event(|_| ()), None, ""),
            (event(|o| o["type"] = "x".into()), None, "type: Invalid value: \"\": has invalid value: x"),
            (event(|o| o["count"] = 1.into()), None, "count: Invalid value: \"\": needs to be unset"),
            (
                event(|o| o["series"] = json!({"count": 1, "lastObservedTime": "t"})),
                None,
                "series.count: Invalid",
            ),
            (
                event(|o| o["message"] = "m".into()),
                Some(&old),
                "message: Invalid value: \"m\": field is immutable",
            ),
            (event(|o| o["reportingComponent"] = "b c".into()), None, "reportingController: Invalid value"),
        ] {
            let got = ROOM.validate(&cx, &new, old);
            let first = got.first().map(ToString::to_string).unwrap_or_default();
            assert!(first.starts_with(want) && first.is_empty() == want.is_empty(), "{first}");
            assert!(
                ROOM.validate(&Context { api_version: "v1", ..cx }, &event(|o| o["count"] = 1.into()), None)
                    .is_empty()
            );
        }
    }
}

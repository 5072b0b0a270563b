//! Events, in the core group and in `events.k8s.io` alike.

use crate::table::{since, time};
use crate::value::Get;
use crate::{Kind, PLAIN};
use api::Value;

pub static ROOM: Kind = Kind { row: Some(row), create_on_update: true, ..PLAIN };

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

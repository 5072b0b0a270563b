//! What is fuzzed. A target ends normally on every input, whether it decodes or is refused; where it decodes, the
//! result is encoded again, so that writers meet everything that readers let through.

use crate::seeds;
use api::decode::{self, Format};
use api::{GroupVersionKind, Value, protobuf, schema};
use merge::managed::OneVersion;
use merge::{Manager, Set, Type, apply, managed, patch, reset::Filter};

/// A decoder with inputs to start from.
pub struct Target {
    pub name: &'static str,
    pub seeds: fn() -> Vec<Vec<u8>>,
    pub run: fn(&[u8]),
}

pub const TARGETS: &[Target] = &[
    Target { name: "json", seeds: seeds::json, run: json },
    Target { name: "yaml", seeds: seeds::yaml, run: yaml },
    Target { name: "protobuf", seeds: seeds::protobuf, run: protobuf },
    Target { name: "cbor", seeds: seeds::cbor, run: cbor },
    Target { name: "json-patch", seeds: seeds::json_patches, run: json_patch },
    Target { name: "merge-patch", seeds: seeds::patches, run: merge_patch },
    Target { name: "strategic-patch", seeds: seeds::patches, run: strategic_patch },
    Target { name: "apply", seeds: seeds::patches, run: apply_patch },
    Target { name: "field-set", seeds: seeds::field_sets, run: field_set },
    Target { name: "label-selector", seeds: seeds::label_selectors, run: label_selector },
    Target { name: "field-selector", seeds: seeds::field_selectors, run: field_selector },
    Target { name: "quantity", seeds: seeds::quantities, run: quantity },
    Target { name: "time", seeds: seeds::durations, run: time },
    Target { name: "continue-token", seeds: seeds::continue_tokens, run: continue_token },
    Target { name: "expression", seeds: seeds::expressions, run: expression },
];

fn decoded(format: Format, input: &[u8]) {
    let Ok(object) = decode::decode(format, input, None) else { return };
    let mut json = Vec::new();
    api::json::write(&object.value, &mut json);
    let Some(message) = schema::for_kind(&object.gvk) else { return };
    if let Ok(raw) = protobuf::encode(message, &object.value) {
        let again = protobuf::to_value(message, Some(&object.gvk), &raw);
        assert!(again.is_ok(), "what was encoded is decoded: {again:?}");
    }
}

fn json(input: &[u8]) {
    decoded(Format::Json, input);
}

fn yaml(input: &[u8]) {
    decoded(Format::Yaml, input);
}

fn cbor(input: &[u8]) {
    decoded(Format::Cbor, input);
}

fn protobuf(input: &[u8]) {
    decoded(Format::Protobuf, input);
    let Ok(unwrapped) = protobuf::unenvelope(input) else { return };
    let Some(message) = schema::for_kind(&unwrapped.gvk()) else { return };
    let mut out = Vec::new();
    let _ = protobuf::to_json(message, Some(&unwrapped.gvk()), None, unwrapped.raw, &mut out);
    let _ = protobuf::peek::meta(unwrapped.raw);
    let _ = protobuf::set_resource_version(unwrapped.raw, "7");
    let _ = protobuf::envelope::partial_metadata(unwrapped.raw, "7");
}

fn pod_kind() -> GroupVersionKind {
    GroupVersionKind::new("", "v1", "Pod")
}

/// A body as a tree.
fn tree(input: &[u8]) -> Option<Value> {
    decode::parse(Format::Json, input).ok().map(|p| p.value)
}

fn json_patch(input: &[u8]) {
    let _ = patch::json_patch(&mut seeds::pod(), input);
}

fn merge_patch(input: &[u8]) {
    if let Some(p) = tree(input) {
        let _ = patch::merge_patch(&mut seeds::pod(), &p);
    }
}

fn strategic_patch(input: &[u8]) {
    if let (Some(p), Some(message)) = (tree(input), schema::for_kind(&pod_kind())) {
        let _ = patch::strategic(message, &mut seeds::pod(), &p);
    }
}

fn apply_patch(input: &[u8]) {
    let (Some(p), Some(message)) = (tree(input), schema::for_kind(&pod_kind())) else { return };
    let versions = OneVersion(Type::of(message));
    let applier = Manager::apply("fuzz", "v1", "");
    let now = "2026-01-01T00:00:00Z";
    let applied = apply::apply(
        &versions,
        &pod_kind(),
        Some(&seeds::pod()),
        &p,
        &applier,
        true,
        &Filter::default(),
        now,
    );
    if let Ok(mut object) = applied {
        let writer = Manager::update("other", "v1", "");
        managed::update(&versions, Some(&seeds::pod()), &mut object, &writer, &Filter::default(), now);
    }
}

fn field_set(input: &[u8]) {
    if let Some(Ok(set)) = tree(input).map(|v| Set::from_value(&v)) {
        let again = Set::from_value(&set.to_value());
        assert!(again.is_ok(), "a set that was written is read: {again:?}");
        let _ = set.paths();
    }
}

fn text(input: &[u8]) -> Option<&str> {
    std::str::from_utf8(input).ok()
}

fn label_selector(input: &[u8]) {
    if let Some(Ok(selector)) = text(input).map(api::selectors::Selector::parse) {
        let labels = seeds::pod()["metadata"]["labels"].as_object().cloned().unwrap_or_default();
        let _ = selector.matches(&labels);
    }
}

fn field_selector(input: &[u8]) {
    if let Some(Ok(selector)) = text(input).map(api::selectors::FieldSelector::parse) {
        let _ = selector.matches(|_| Some("a"));
    }
}

fn quantity(input: &[u8]) {
    let Some(Ok(q)) = text(input).map(api::quantity::Quantity::parse) else { return };
    let _ = (q.value(), q.milli_value(), q.nano_value(), q.as_f64());
    let _ = (q.add(q).to_string(), q.sub(q).to_string(), q.mul(3).to_string());
    let again = api::quantity::Quantity::parse(&q.to_string());
    assert!(again.is_ok(), "a quantity that was written is read: {q} {again:?}");
}

fn time(input: &[u8]) {
    let Some(text) = text(input) else { return };
    let _ = api::time::parse_duration(text).map(api::time::format_duration);
    let _ = api::time::parse_rfc3339(text).map(|(secs, _)| api::time::format_rfc3339(secs));
    let _ = api::time::age(Some(text));
}

fn continue_token(input: &[u8]) {
    if let Some(token) = text(input) {
        let prefix = "/registry/pods/";
        if let Ok(read) = storage::Continue::decode(token, prefix) {
            assert!(read.start.starts_with(prefix), "a token leads nowhere else: {read:?}");
        }
    }
}

/// Compiled, and run with little to spend: what a hostile expression costs is bounded all along.
fn expression(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let env = expressions::Env::new().with("object", expressions::Type::Dyn);
    let Ok(program) = expressions::Program::compile(text, &env) else { return };
    let shape = expressions::Shape::of(&api::json!({"type": "object"}), true);
    shape.iter().for_each(|s| {
        program.cost(&[("object", s)]);
    });
    let object =
        api::json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"n": 3, "list": [1, 2, "c"]}});
    let mut activation = expressions::Activation::new();
    activation.set("object", expressions::Val::json(&object));
    let (result, _) = program.evaluate(&activation, 10_000);
    if let Ok(value) = result {
        value.to_json();
    }
}

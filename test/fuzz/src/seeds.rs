//! What inputs start from.

use api::{Value, json};
use flate2::read::GzDecoder;
use std::io::Read;

/// One object of every kind, each as JSON and as protobuf.
static OBJECTS: &[u8] = include_bytes!("../../../api/testdata/roundtrip.tar.gz");

fn objects(extension: &str) -> Vec<Vec<u8>> {
    let mut archive = tar::Archive::new(GzDecoder::new(OBJECTS));
    let Ok(entries) = archive.entries() else { return Vec::new() };
    let wanted = entries
        .flatten()
        .filter(|e| e.path().ok().and_then(|p| p.extension().map(|x| x == extension)).unwrap_or_default());
    wanted
        .filter_map(|mut e| {
            let mut bytes = Vec::new();
            e.read_to_end(&mut bytes).ok().map(|_| bytes)
        })
        .collect()
}

pub fn json() -> Vec<Vec<u8>> {
    objects("json")
}

pub fn cbor() -> Vec<Vec<u8>> {
    let parsed = json().into_iter().filter_map(|j| api::decode::parse(api::decode::Format::Json, &j).ok());
    parsed.map(|p| api::cbor::encode(&p.value)).collect()
}

pub fn protobuf() -> Vec<Vec<u8>> {
    objects("pb")
}

/// JSON is YAML, but YAML has more ways to go wrong.
pub fn yaml() -> Vec<Vec<u8>> {
    let mut out = objects("yaml");
    out.extend(json().into_iter().step_by(8));
    out.extend(texts(&[
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: &n a\n  labels: {<<: *n}\ndata:\n  k: |\n    text\n",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n",
        "? complex\n: key\n!!int \"1\": 0x1f\nt: 2001-12-14t21:59:43.10-05:00\n",
    ]));
    out
}

fn texts(list: &[&str]) -> Vec<Vec<u8>> {
    list.iter().map(|t| t.as_bytes().to_vec()).collect()
}

pub fn json_patches() -> Vec<Vec<u8>> {
    texts(&[
        r#"[{"op":"add","path":"/metadata/labels","value":{"a":"b"}},{"op":"test","path":"/kind","value":"Pod"}]"#,
        r#"[{"op":"copy","from":"/spec","path":"/spec/containers/-"},{"op":"move","from":"/a~1b","path":"/a~0b"}]"#,
        r#"[{"op":"replace","path":"/spec/containers/0/image","value":"x"},{"op":"remove","path":"/status"}]"#,
    ])
}

/// Merge patches, strategic patches and configurations to apply, all of pods.
pub fn patches() -> Vec<Vec<u8>> {
    let mut out = texts(&[
        r#"{"spec":{"containers":[{"name":"a","$patch":"delete"},{"name":"b","ports":[{"containerPort":80}]}]}}"#,
        r#"{"spec":{"$setElementOrder/containers":[{"name":"b"},{"name":"a"}],"volumes":[{"name":"v","$retainKeys":["name","emptyDir"],"emptyDir":{}}]}}"#,
        r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["x"],"labels":{"$patch":"replace","a":"b"}}}"#,
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"a","image":"i"}]}}"#,
    ]);
    out.extend(json().into_iter().filter(|j| serde_kind(j).as_deref() == Some("Pod")));
    out
}

fn serde_kind(bytes: &[u8]) -> Option<String> {
    let parsed = api::decode::parse(api::decode::Format::Json, bytes).ok()?;
    parsed.value.get("kind").and_then(Value::as_str).map(str::to_owned)
}

pub fn field_sets() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{".":{},"f:image":{}}}}}"#,
        r#"{"f:metadata":{"f:finalizers":{".":{},"v:\"x\"":{}}},"f:status":{"i:0":{}}}"#,
    ])
}

pub fn label_selectors() -> Vec<Vec<u8>> {
    texts(&["a=b,c!=d", "x in (a,b), y notin (c), z, !w", "a.b/c==d", "n>5,m<3", ""])
}

pub fn field_selectors() -> Vec<Vec<u8>> {
    texts(&["metadata.name=a,spec.nodeName!=b", "a=b\\,c\\=d\\\\", ""])
}

pub fn quantities() -> Vec<Vec<u8>> {
    texts(&[
        "1",
        "100m",
        "1.5Gi",
        "-12e6",
        "1E",
        "0.000000001n",
        "9223372036854775807",
        "123456789012345678901234567890Ei",
    ])
}

pub fn durations() -> Vec<Vec<u8>> {
    texts(&[
        "1h2m3.5s",
        "-100ms",
        "2540400h10m10s",
        "2024-02-29T23:59:60Z",
        "2024-01-01T00:00:00.000000001+23:59",
        "1µs",
    ])
}

pub fn continue_tokens() -> Vec<Vec<u8>> {
    let prefix = "/registry/pods/";
    let token = |start: &str| {
        storage::Continue { revision: 7, start: format!("{prefix}{start}") }.encode(prefix).into_bytes()
    };
    vec![token("default/a\0"), token("a/b/c"), b"eyJ2IjoibWV0YS5rOHMuaW8vdjEifQ".to_vec()]
}

/// A pod for patches to work on.
pub fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "labels": {"app": "a"}, "finalizers": ["x", "y"]},
        "spec": {
            "containers": [{"name": "a", "image": "i", "env": [{"name": "E", "value": "1"}]}, {"name": "b", "image": "j"}],
            "volumes": [{"name": "v", "configMap": {"name": "c"}}],
        },
        "status": {"phase": "Running"},
    })
}

pub fn expressions() -> Vec<Vec<u8>> {
    let texts = [
        "object.spec.list.all(x, x > 1) && has(object.metadata.labels) || object.spec.n in [1, 2, 3]",
        "object.?spec.?nope.orValue('a').matches('^[a-z]+$') ? {'a': 1u, 'b': 2.5} : {}",
        "[1, 2, 3].map(x, x * 2).filter(x, x % 2 == 0).sum() == quantity('10Mi').asInteger()",
        "'%s %d'.format([dyn('a'), dyn(1)]).split(' ').join('-').replace('a', 'b', 2).substring(1, 2)",
        "cidr('10.0.0.0/8').containsIP(ip('10.1.2.3')) && url('https://a:1/b?c=d').getQuery()['c'][0] == 'd'",
        "timestamp('2024-01-02T03:04:05Z') + duration('1h30m') > timestamp(0) && semver('1.2.3').major() == 1",
        "{'a': 1}.transformMap(k, v, v + 1).exists(k, v, v == 2) && [3, 1].sortBy(x, -x)[?0].hasValue()",
        "lists.range(100).map(x, lists.range(100).map(y, x * y)).flatten().distinct().size()",
        "b'abc' == bytes('abc') && string(1.5e10) == r'1.5e+10' && type(object) == map && !(1 != 2)",
    ];
    texts.iter().map(|t| t.as_bytes().to_vec()).collect()
}

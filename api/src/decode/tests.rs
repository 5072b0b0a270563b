use super::*;
use crate::json;

fn pod(body: &str) -> Result<Decoded, Failure> {
    decode(Format::Json, body.as_bytes(), Some(&GroupVersionKind::new("", "v1", "Pod")))
}

#[test]
fn values_become_canonical() {
    let d = pod(r#"{"metadata": {"name": "a", "labels": {}, "annotations": null, "creationTimestamp": null},
        "spec": {"hostNetwork": false, "containers": [{"name": "c", "resources": {"limits": {"cpu": "1000m", "memory": 0.5}},
          "ports": [{"containerPort": 80}], "livenessProbe": {"httpGet": {"port": "http"}}}]}}"#)
    .unwrap();
    assert_eq!(
        d.value,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "status": {},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1", "memory": "500m"}},
                "ports": [{"containerPort": 80}], "livenessProbe": {"httpGet": {"port": "http"}}}]}})
    );
    assert!(d.strict.is_empty());
    let d = decode(
        Format::Json,
        br#"{"apiVersion":"v1","kind":"Event","eventTime":"2024-01-01T01:00:00.000001+01:00","firstTimestamp":"2024-01-01T01:00:00.9+01:00"}"#,
        None,
    )
    .unwrap();
    assert_eq!(d.value["eventTime"], "2024-01-01T00:00:00.000001Z");
    assert_eq!(d.value["firstTimestamp"], "2024-01-01T00:00:00Z");
}

/// The promise that lets trees from clients and from storage be compared.
#[test]
fn conformed_trees_equal_stored_ones() {
    for message in schema::table().messages().filter(|m| m.type_meta && m.special.is_none()) {
        let mut value = json!({});
        conform(message, &mut value).unwrap();
        let bytes = protobuf::encode(message, &value).unwrap();
        assert_eq!(protobuf::to_value(message, None, &bytes).unwrap(), value, "{}", message.name);
    }
}

#[test]
fn unknown_and_duplicate_fields_are_noted() {
    let d = pod(r#"{"foo": 1, "spec": {"containers": [{"name": "a", "name": "b", "Image": "x"}], "bar": {}}, "metadata": {"labels": {"a": "b", "a": "c"}}}"#).unwrap();
    assert_eq!(
        d.strict,
        [
            "unknown field \"foo\"",
            "duplicate field \"spec.containers[0].name\"",
            "unknown field \"spec.containers[0].Image\"",
            "unknown field \"spec.bar\"",
            "duplicate field \"metadata.labels.a\"",
        ]
    );
    assert_eq!(d.value["spec"]["containers"][0]["name"], "b");
    assert_eq!(
        strict_error(&d.strict[2..4]),
        "strict decoding error: unknown field \"spec.containers[0].Image\", unknown field \"spec.bar\""
    );
}

#[test]
fn wrong_values_have_gos_texts() {
    for (body, want) in [
        (
            r#"{"spec": {"containers": "x"}}"#,
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            r#"{"spec": {"containers": [{"ports": [{"containerPort": "x"}]}]}}"#,
            "json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            r#"{"spec": {"containers": [{"ports": [{"containerPort": 3000000000}]}]}}"#,
            "json: cannot unmarshal number 3000000000 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            r#"{"metadata": {"labels": {"a": 1}}}"#,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            r#"{"spec": {"containers": [{"resources": {"limits": {"cpu": "x"}}}]}}"#,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            r#"{"metadata": {"creationTimestamp": "x"}}"#,
            "parsing time \"x\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"x\" as \"2006\"",
        ),
    ] {
        let failure = pod(body).unwrap_err();
        assert_eq!(failure.error.to_string(), want);
        assert_eq!(
            failure.message("Pod", b""),
            format!("Pod in version \"v1\" cannot be handled as a Pod: {want}")
        );
    }
    assert!(pod("{\"spec\": ").unwrap_err().message("Pod", b"{\"spec\": ").starts_with(
        "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: "
    ));
    let e = decode(Format::Json, br#"{"apiVersion":"v7","kind":"Pod"}"#, None).unwrap_err();
    assert!(e.error.to_string().starts_with("no kind \"Pod\" is registered for version \"v7\""));
    assert!(pod(&"[".repeat(100_000)).is_err());
    assert!(pod("[]").is_err());
}

#[test]
fn yaml_is_read_as_json_would_be() {
    let p = parse_yaml(b"kind: Pod\nmetadata:\n  labels: {on: 'yes', 1: a}\nspec:\n  hostNetwork: yes\n  mode: 0644\n  x: ~\n  n: 1.5\n  s: \"1\"\n").unwrap();
    assert_eq!(p.value["spec"], json!({"hostNetwork": true, "mode": 420, "x": null, "n": 1.5, "s": "1"}));
    assert_eq!(p.value["metadata"]["labels"]["1"], "a");
    assert_eq!(
        parse_yaml(b"a: 1\na: 2\n").unwrap().duplicates,
        ["yaml: unmarshal errors:\n  line 2: key \"a\" already set in map"]
    );
    assert_eq!(
        parse_yaml(b"x: {a: 1, \"a\": 2}\nb: 1\ny:\n- c: 1\n  c: 2\nb: 2\n").unwrap().duplicates,
        [
            "yaml: unmarshal errors:\n  line 1: key \"a\" already set in map\n  line 5: key \"c\" already set in map\n  line 6: key \"b\" already set in map"
        ]
    );
    assert_eq!(
        parse_yaml(b"a: 1\n b: 2\n").map(|_| ()).map_err(|e| e.to_string()),
        Err("yaml: line 2: mapping values are not allowed in this context".to_owned())
    );
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..12 {
        bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(","));
    }
    assert!(parse_yaml(bomb.as_bytes()).is_err(), "alias bomb");
    assert!(parse_yaml("[".repeat(100_000).as_bytes()).is_err());
}

#[test]
fn protobuf_bodies_are_decoded_too() {
    let gvk = GroupVersionKind::new("", "v1", "ConfigMap");
    let message = schema::for_kind(&gvk).unwrap();
    let raw = protobuf::encode(message, &json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).unwrap();
    let d = decode(Format::Protobuf, &protobuf::envelope(&gvk, &raw), None).unwrap();
    assert_eq!(
        d.value,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}})
    );
    assert!(decode(Format::Protobuf, b"{}", None).is_err());
}

#[test]
fn the_deepest_objects_that_are_read_can_be_handled() {
    use crate::protobuf::wire;
    let props = "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
    let props = schema::message(props).unwrap();
    let mut schema_bytes = Vec::new();
    for _ in 0..protobuf::MAX_DEPTH - 20 {
        let inner = std::mem::take(&mut schema_bytes);
        wire::put_bytes(&mut schema_bytes, props.field("not").unwrap().number, &inner);
    }
    let mut value = protobuf::to_value(props, None, &schema_bytes).unwrap();
    conform(props, &mut value).unwrap();
    let bytes = protobuf::encode(props, &value).unwrap();
    assert_eq!(protobuf::to_value(props, None, &bytes).unwrap(), value);
    assert!(crate::json::to_string(&value).len() > 1000);
}

#[test]
fn yaml_that_is_nested_too_deeply_is_refused() {
    for opening in ["[", "- ", "a: {", "{a: "] {
        let text = opening.repeat(20_000);
        assert!(parse(Format::Yaml, text.as_bytes()).is_err(), "{opening}");
    }
    let nested = format!("{}x{}", "[".repeat(100), "]".repeat(100));
    assert!(parse(Format::Yaml, nested.as_bytes()).is_ok());
}

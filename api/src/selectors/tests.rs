use super::*;
use crate::json;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

#[test]
fn label_selectors_parse_match_and_print() {
    let l = labels(&[("a", "1"), ("tier", "web"), ("in", "x")]);
    for (text, printed, matches) in [
        ("", "", true),
        ("a=1", "a=1", true),
        ("a==1,tier!=db", "a==1,tier!=db", true),
        ("tier in (web, api)", "tier in (api,web)", true),
        ("tier notin (web)", "tier notin (web)", false),
        ("!zone,a", "a,!zone", true),
        ("a>0", "a>0", true),
        ("a<0", "a<0", false),
        ("x notin ()", "x notin ()", true),
        ("a in (,1)", "a in (,1)", true),
        ("in in (in,x)", "in in (in,x)", true),
        ("a=", "a=", false),
    ] {
        let s = Selector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(s.to_string(), printed, "{text}");
        assert_eq!(s.matches(&l), matches, "{text}");
    }
}

#[test]
fn label_selector_errors_are_upstreams() {
    for (text, want) in [
        ("a,", "found '', expected: identifier after ','"),
        ("a=1 b", "found 'b', expected: ',' or 'end of string'"),
        (",a", "found ',', expected: !, identifier, or 'end of string'"),
        ("a in x", "unable to parse requirement: found 'x' expected: '('"),
        ("a in (x", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("a (", "unable to parse requirement: found '(', expected: in, notin, =, ==, !=, gt, lt"),
        ("a=(", "unable to parse requirement: found '(', expected: identifier"),
    ] {
        assert_eq!(Selector::parse(text).unwrap_err(), want, "{text}");
    }
    let e = Selector::parse("-a=1").unwrap_err();
    assert!(
        e.starts_with("unable to parse requirement: <nil>: Invalid value: \"-a\": name part must"),
        "{e}"
    );
    let e = Selector::parse("a=-").unwrap_err();
    assert!(
        e.starts_with("unable to parse requirement: values[0][a]: Invalid value: \"-\": a valid label"),
        "{e}"
    );
}

#[test]
fn selector_objects() {
    let object =
        json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]});
    let s = Selector::from_label_selector(Some(&object)).unwrap();
    assert_eq!(s.to_string(), "a=1,!b");
    assert!(s.matches(&labels(&[("a", "1")])) && !s.matches(&labels(&[("a", "1"), ("b", "")])));
    assert!(!Selector::from_label_selector(None).unwrap().matches(&labels(&[])));
    assert!(Selector::from_label_selector(Some(&json!({}))).unwrap().matches(&labels(&[])));
    let bad = json!({"matchExpressions": [{"key": "b", "operator": "Near"}]});
    assert_eq!(
        Selector::from_label_selector(Some(&bad)).unwrap_err(),
        "\"Near\" is not a valid label selector operator"
    );
}

#[test]
fn field_selectors() {
    let table = crate::resources::Table::defaults();
    let pods = table.get("", "v1", "pods").unwrap();
    let s = FieldSelector::parse("spec.host=n1,status.phase!=Running").unwrap().resolve(pods).unwrap();
    assert_eq!(s.exact("spec.nodeName"), Some("n1"));
    assert!(s.matches(|f| if f == "spec.nodeName" { Some("n1") } else { None }));
    assert_eq!(FieldSelector::parse(r"a=x\,y").unwrap().terms[0].value, "x,y");
    assert_eq!(
        FieldSelector::parse("nope").unwrap_err(),
        "invalid selector: 'nope'; can't understand 'nope'"
    );
    assert_eq!(
        FieldSelector::parse("a=b").unwrap().resolve(pods).unwrap_err(),
        "field label not supported: a"
    );
    let cm = table.get("", "v1", "configmaps").unwrap();
    assert_eq!(
        FieldSelector::parse("a=b").unwrap().resolve(cm).unwrap_err(),
        "\"a\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
    );
}

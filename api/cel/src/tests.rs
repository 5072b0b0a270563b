//! What Kubernetes documents of its expressions, as tables.

use crate::{Activation, Env, Program, Shape, Type, Val};
use api::json;

fn run(text: &str) -> Result<api::Value, String> {
    let env = Env::new().with("object", Type::Dyn).with("self", Type::Dyn);
    let program = Program::compile(text, &env).map_err(|e| e.to_string())?;
    let object = json!({
        "metadata": {"name": "web", "labels": {"app": "web", "a.b/c": "d"}},
        "spec": {"replicas": 3, "ports": [80, 443], "ratio": 0.5, "names": ["b", "a"],
                 "list": [{"k": "x", "v": 1}, {"k": "y", "v": 2}]},
    });
    let mut activation = Activation::new();
    activation.set("object", Val::json(&object));
    let (result, _) = program.evaluate(&activation, crate::PER_CALL_LIMIT);
    let value = result.map_err(|e| e.to_string())?;
    value.to_json().ok_or_else(|| "no JSON".to_owned())
}

#[test]
fn expressions_that_hold() {
    let all = [
        "object.spec.replicas <= 5 && object.metadata.name.startsWith('w')",
        "has(object.metadata.labels) && 'app' in object.metadata.labels",
        "!has(object.metadata.annotations)",
        "object.spec.ports.all(p, p < 1000)",
        "object.spec.ports.exists(p, p == 443)",
        "object.spec.ports.exists_one(p, p == 443)",
        "object.spec.ports.map(p, p + 1) == [81, 444]",
        "object.spec.ports.filter(p, p > 100) == [443]",
        "object.spec.names.map(n, n != 'a', n + '!') == ['b!']",
        "object.?spec.?missing.orValue(7) == 7",
        "object.metadata.labels[?'nope'].hasValue() == false",
        "object.?metadata.labels['app'].optMap(v, v + '1').orValue('') == 'web1'",
        "[1, 2, 3].all(i, v, i < v)",
        "{'a': 1, 'b': 2}.transformMap(k, v, v > 1, v * 2) == {'b': 4}",
        "[1, 2].transformList(i, v, i + v) == [1, 3]",
        "[1, 2].transformMapEntry(i, v, {string(v): i}) == {'1': 0, '2': 1}",
        "['a', 'b'].existsOne(i, v, v == 'b' && i == 1)",
        "dyn(1) == 1.0 && dyn(1u) == 1 && 2 > 1.5",
        "[1, 2, 3].sum() == 6 && [3, 1].min() == 1 && ['a', 'c'].max() == 'c'",
        "[1, 2, 2].indexOf(2) == 1 && [1, 2, 2].lastIndexOf(2) == 2",
        "['a', 'b', 'b'].isSorted()",
        "[3, 1, 2].sort() == [1, 2, 3] && ['aa', 'b'].sortBy(s, size(s)) == ['b', 'aa']",
        "[[1], [2, 3]].flatten() == [1, 2, 3] && lists.range(3) == [0, 1, 2]",
        "[1, 1, 2].distinct() == [1, 2] && [1, 2].reverse() == [2, 1] && [1, 2, 3].slice(1, 2) == [2]",
        "sets.contains([1, 2, 3], [2]) && sets.equivalent([1, 1], [1]) && sets.intersects([1], [1, 2])",
        "'abc 123'.find('[0-9]+') == '123' && '1 2 3'.findAll('[0-9]', 2) == ['1', '2']",
        "'a,b'.split(',') == ['a', 'b'] && ['a', 'b'].join('-') == 'a-b'",
        "'tacocat'.substring(4) == 'cat' && 'tacocat'.charAt(3) == 'o' && ' x '.trim() == 'x'",
        "'TaCo'.lowerAscii() == 'taco' && 'hello'.replace('l', 'L', 1) == 'heLlo' && 'hello'.indexOf('l') == 2",
        "'%s is %d, %.2f %x'.format(['it', 5, 1.0, 255]) == 'it is 5, 1.00 ff'",
        "strings.quote('a\"b') == '\"a\\\\\"b\"'",
        "url('https://example.com:80/path?k=v&k=w').getHost() == 'example.com:80'",
        "url('https://[::1]:80/p').getHostname() == '::1' && url('https://e.com:80/').getPort() == '80'",
        "url('https://e.com/a?k1=a&k2=b').getQuery()['k1'] == ['a'] && isURL('/absolute') && !isURL('../relative')",
        "url('https://e.com/path with spaces/').getEscapedPath() == '/path%20with%20spaces/'",
        "quantity('500Mi').isLessThan(quantity('1Gi')) && isQuantity('1.3Gi') && !isQuantity('1,3')",
        "quantity('50k').add(20) == quantity('50020') && quantity('5').sub(quantity('3')).asInteger() == 2",
        "quantity('200M').compareTo(quantity('0.2G')) == 0 && quantity('-5').sign() == -1",
        "ip('192.168.0.1').family() == 4 && ip('::1').isLoopback() && isIP('::1') && !isIP('1.2.3')",
        "ip.isCanonical('127.0.0.1') && !ip.isCanonical('2001:DB8::1') && string(ip('::1')) == '::1'",
        "cidr('192.168.0.0/24').containsIP('192.168.0.1') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16')",
        "cidr('192.168.1.5/24').masked() == cidr('192.168.1.0/24') && cidr('::1/128').prefixLength() == 128",
        "isCIDR('10.0.0.0/8') && cidr('10.0.0.0/8').ip() == ip('10.0.0.0')",
        "semver('1.2.3').isGreaterThan(semver('1.2.3-rc.1')) && isSemver('v1.0', true) && !isSemver('v1.0')",
        "semver('1.2.3').major() == 1 && semver('1.2.3').compareTo(semver('1.3.0')) == -1",
        "!format.dns1123Label().validate('my-label').hasValue()",
        "format.named('dns1123Label').value().validate('A b').hasValue()",
        "timestamp('2024-01-02T03:04:05Z').getFullYear() == 2024 && duration('1h30m').getMinutes() == 90",
        "timestamp('2024-01-02T00:00:00Z') + duration('24h') == timestamp('2024-01-03T00:00:00Z')",
        "timestamp('2024-01-02T03:04:05Z').getHours('+02:00') == 5",
        "type(1) == int && type('a') == string && type(object) == map",
        "string(1.5) == '1.5' && int('7') == 7 && double('1e3') == 1000.0 && bytes('a') == b'a'",
        "false && object.missing == 1 ? false : true",
        "object.missing == 1 || true",
        "[1, 0].exists(x, 1 / x == 1)",
        "![0, 2].all(x, 4 / x == 1)",
        "optional.of(1).or(optional.none()).value() == 1 && [?optional.none(), ?optional.of(2)] == [2]",
        "{?'a': optional.of(1), ?'b': optional.none()} == {'a': 1}",
        "'a' in {'a': 1} && !(3 in [1, 2]) && object.spec.list.filter(e, e.k == 'x')[0].v == 1",
        "object.metadata.labels['a.b/c'] == 'd' && 'x'.matches('^[a-z]$')",
    ];
    for text in all {
        assert_eq!(run(text), Ok(json!(true)), "{text}");
    }
}

#[test]
fn failures_have_upstreams_words() {
    let all = [
        ("", "compilation failed: ERROR: <input>:1:0: Syntax error: mismatched input '<EOF>' expecting {'['"),
        (
            "1 2 3",
            "compilation failed: ERROR: <input>:1:3: Syntax error: mismatched input '2' expecting <EOF>\n",
        ),
        (
            "1 ? 2",
            "compilation failed: ERROR: <input>:1:6: Syntax error: mismatched input '<EOF>' expecting ':'\n",
        ),
        ("1 +", "compilation failed: ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>'"),
        (
            "foo.bar",
            "compilation failed: ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')\n | foo.bar\n | ^",
        ),
        (
            "1 + 'a'",
            "compilation failed: ERROR: <input>:1:3: found no matching overload for '_+_' applied to '(int, string)'\n | 1 + 'a'\n | ..^",
        ),
        (
            "'a'.nope()",
            "compilation failed: ERROR: <input>:1:9: undeclared reference to 'nope' (in container '')",
        ),
        ("[1, 'a']", "compilation failed: ERROR: <input>:1:5: expected type 'int' but found 'string'"),
        (
            "1.all(x, true)",
            "compilation failed: ERROR: <input>:1:1: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)",
        ),
        (
            "duration('x') == duration('1s')",
            "compilation failed: ERROR: <input>:1:10: invalid duration argument",
        ),
        ("'a'.matches('[')", "compilation failed: ERROR: <input>:1:13: invalid matches argument"),
        ("object.missing", "no such key: missing"),
        ("object.spec.ports[9]", "index out of bounds: 9"),
        ("1 / (object.spec.replicas - 3)", "division by zero"),
        ("9223372036854775807 + object.spec.replicas", "integer overflow"),
        ("object.metadata.name + 1", "no such overload"),
        (
            "lists.range(900000).map(x, lists.range(900000)).size() > 0",
            "operation cancelled: actual cost limit exceeded",
        ),
        ("optional.none().value() == 1", "optional.none() dereference"),
    ];
    for (text, wanted) in all {
        let found = run(text).expect_err(text);
        assert!(found.starts_with(wanted), "{text}: {found}");
    }
}

#[test]
fn schemas_give_types() {
    let schema = json!({"type": "object", "properties": {
        "replicas": {"type": "integer"}, "min-size": {"type": "integer"}, "namespace": {"type": "string"},
        "when": {"type": "string", "format": "date-time"},
        "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "either": {"x-kubernetes-int-or-string": true},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
    }});
    let shape = Shape::of(&schema, true).expect("a shape");
    let env = Env::new().with("self", shape.as_type()).with("oldSelf", shape.as_type());
    let object = json!({"replicas": 2, "min-size": 1, "namespace": "n", "when": "2024-01-02T03:04:05Z",
        "tags": ["a", "b"], "either": "50%", "labels": {"x": "y"}, "metadata": {"name": "me"}});
    for (text, wanted) in [
        ("self.replicas > self.min__dash__size && self.__namespace__ == 'n'", Ok(true)),
        ("self.when < timestamp('2025-01-01T00:00:00Z')", Ok(true)),
        ("self.tags == ['b', 'a'] && (self.tags + ['a']).size() == 2", Ok(true)),
        ("type(self.either) == string && self.either == '50%'", Ok(true)),
        ("self.labels.all(k, self.labels[k] == 'y') && self.metadata.name == 'me'", Ok(true)),
        ("self.replicas > 'a'", Err("found no matching overload for '_>_' applied to '(int, string)'")),
        ("self.nope == 1", Err("undefined field 'nope'")),
        ("self.metadata.labels == {}", Err("undefined field 'labels'")),
    ] {
        match (Program::compile(text, &env), wanted) {
            (Ok(program), Ok(wanted)) => {
                let mut activation = Activation::new();
                activation.set("self", Val::shaped(&object, Some(&shape)));
                let result = program.evaluate(&activation, 1_000_000).0;
                assert!(matches!(result, Ok(Val::Bool(b)) if b == wanted), "{text}: {result:?}");
            }
            (Err(e), Err(wanted)) => assert!(e.to_string().contains(wanted), "{text}: {e}"),
            (Ok(_), Err(_)) => panic!("{text} should not compile"),
            (Err(e), Ok(_)) => panic!("{text}: {e}"),
        }
    }
}

#[test]
fn costs_are_estimated_from_schemas() {
    let schema = json!({"type": "object", "properties": {
        "bounded": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 5}},
        "free": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
    }});
    let shape = Shape::of(&schema, false).expect("a shape");
    let env = Env::new().with("self", shape.as_type());
    let cost = |text: &str| Program::compile(text, &env).expect(text).cost(&[("self", &shape)]);
    assert!(cost("self.bounded.all(x, x.contains('a'))") < 200);
    assert!(cost("self.free.all(x, x.all(y, y.contains('aaaaaaaaaaaaaaaaaaaa')))") > 100_000_000);
    assert_eq!(cost("true"), 0);
    assert_eq!(cost("self.bounded.size() > 1"), 4);
}

#[test]
fn hostile_texts_end() {
    for text in [
        "[".repeat(50_000),
        "a".to_owned() + &".a".repeat(7_900),
        "(".repeat(300),
        "[".repeat(3_000),
        "{".repeat(100),
        "true?".repeat(400),
        "f(".repeat(200),
    ] {
        assert!(Program::compile(&text, &Env::new()).is_err());
    }
}

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::{Encryption, Transformer};

const KEY: &str = "/registry/secrets/default/a";

fn config(providers: &str) -> String {
    format!(
        "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n\
         - resources: [secrets, '*.apps']\n  providers:\n{providers}"
    )
}

fn provider(scheme: &str, names: &[&str], size: usize) -> String {
    let mut text = format!("  - {scheme}:\n      keys:\n");
    for name in names {
        let secret = STANDARD.encode(vec![name.as_bytes()[0]; size]);
        text += &format!("      - name: {name}\n        secret: {secret}\n");
    }
    text
}

fn secrets(text: &str) -> Arc<dyn Transformer> {
    Encryption::parse(text).unwrap().transformer("secrets", "")
}

#[test]
fn every_scheme_round_trips_and_rotates() {
    for (scheme, size) in [
        ("aescbc", 16),
        ("aescbc", 24),
        ("aescbc", 32),
        ("aesgcm", 16),
        ("aesgcm", 24),
        ("aesgcm", 32),
        ("secretbox", 32),
    ] {
        let old = secrets(&config(&provider(scheme, &["one"], size)));
        let new = secrets(&config(&(provider(scheme, &["two", "one"], size) + "  - identity: {}\n")));
        for plain in [&b""[..], b"k8s\0value", &[7; 5000]] {
            let stored = old.transform_to_storage(KEY, Bytes::copy_from_slice(plain)).unwrap();
            assert!(stored.starts_with(format!("k8s:enc:{scheme}:v1:one:").as_bytes()));
            let read = old.transform_from_storage(KEY, stored.clone()).unwrap();
            assert_eq!((&read.bytes[..], read.stale), (plain, false));
            let read = new.transform_from_storage(KEY, stored.clone()).unwrap();
            assert_eq!((&read.bytes[..], read.stale), (plain, true), "written with a former key");
            assert!(old.transform_from_storage(KEY, stored.slice(..stored.len() - 1)).is_err());
            let moved = old.transform_from_storage("/registry/secrets/default/b", stored);
            assert_eq!(moved.is_err(), scheme == "aesgcm", "only GCM authenticates the place");
        }
        assert!(new.transform_from_storage(KEY, Bytes::from_static(b"k8s\0plain")).unwrap().stale);
        assert!(old.transform_from_storage(KEY, Bytes::from_static(b"k8s\0plain")).is_err());
    }
}

#[test]
fn a_key_of_the_same_name_is_tried_too() {
    let one = provider("aesgcm", &["k"], 16);
    let other = provider("aesgcm", &["k"], 32);
    let stored = secrets(&config(&one)).transform_to_storage(KEY, Bytes::from_static(b"v")).unwrap();
    assert!(secrets(&config(&other)).transform_from_storage(KEY, stored.clone()).is_err());
    let read = secrets(&config(&(other + &one))).transform_from_storage(KEY, stored).unwrap();
    assert_eq!((&read.bytes[..], read.stale), (&b"v"[..], true));
}

#[test]
fn the_most_specific_rule_decides() {
    let rules = |rules: &[&str]| {
        let mut text =
            "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n".to_owned();
        for (i, rule) in rules.iter().enumerate() {
            text += &format!("- resources: [{rule}]\n  providers:\n");
            text += &provider("aesgcm", &[&format!("k{i}")], 32);
        }
        text
    };
    let stored = |text: &str, resource: &str, group: &str| {
        let t = Encryption::parse(text).unwrap().transformer(resource, group);
        String::from_utf8_lossy(&t.transform_to_storage("k", Bytes::from_static(b"v")).unwrap()).into_owned()
    };
    let text = rules(&["secrets, deployments.apps", "'*.'", "'*.apps'", "'*.*'"]);
    for (resource, group, key) in [
        ("secrets", "", "k0"),
        ("configmaps", "", "k1"),
        ("deployments", "apps", "k0"),
        ("daemonsets", "apps", "k2"),
        ("secrets", "x.io", "k3"),
    ] {
        let got = stored(&text, resource, group);
        assert!(got.starts_with(&format!("k8s:enc:aesgcm:v1:{key}:")), "{resource}.{group}");
    }
    assert_eq!(stored(&rules(&["secrets"]), "configmaps", ""), "v");
    // The same resource in two entries: both can be read, the first writes.
    assert!(stored(&rules(&["secrets", "secrets"]), "secrets", "").contains("v1:k0:"));
    for (text, want) in [
        (rules(&["'*.'", "secrets"]), "resource \"secrets\" is masked by earlier rule \"*.\""),
        (rules(&["'*.*'", "'*.apps'"]), "resource \"*.apps\" is masked by earlier rule \"*.*\""),
    ] {
        let error = Encryption::parse(&text).err().unwrap();
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn refuses_bad_configurations_without_quoting_secrets() {
    let resources = |list: &str| config("  - identity: {}\n").replace("[secrets, '*.apps']", list);
    for (text, want) in [
        ("kind: [".to_owned(), "not a valid"),
        (
            "kind: Other\napiVersion: apiserver.config.k8s.io/v1\n".to_owned(),
            "no kind \"Other\" is registered",
        ),
        (
            "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources: []\n"
                .to_owned(),
            "resources: Required value: at least one resources is required",
        ),
        (config("  - {}\n"), "resources[0].providers[0]: Invalid value: {}: provider does not contain any"),
        (
            config("  - aescbc: {keys: [{name: a, secret: c2hvcnQ=}]}\n"),
            "resources[0].providers[0].aescbc.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the \
             expected length, got 5, expected one of [16 24 32]",
        ),
        (config("  - aescbc: {keys: [{name: a, secret: '!hidden'}]}\n"), "secrets must be base64 encoded"),
        (config("  - aescbc: {keys: [{name: a, secret: ''}]}\n"), "secret is a mandatory field for a key"),
        (config("  - aescbc: {keys: []}\n"), "keys: Required value: at least one keys is required"),
        (config("  - identity: {}\n    aescbc: {keys: []}\n"), "more than one provider specified"),
        (config("  - kms: {name: x, endpoint: 'unix:///x'}\n"), "KMSv1 is deprecated"),
        (
            config("  - kms: {apiVersion: v3, name: x, endpoint: 'unix:///x'}\n"),
            "only v1 and v2 are supported",
        ),
        (config("  - kms: {apiVersion: v2, name: x, endpoint: 'http://x'}\n"), "unsupported scheme \"http\""),
        (config("  - kms: {apiVersion: v2, name: 'a:b', endpoint: 'unix:///x'}\n"), "must not contain ':'"),
        (
            config("  - kms: {apiVersion: v2, name: a, endpoint: 'unix:///x', cachesize: 1}\n"),
            "not supported in v2",
        ),
        (
            config("  - kms: {apiVersion: v2, name: a, endpoint: 'unix:///x', timeout: 0s}\n"),
            "positive value",
        ),
        (
            config(&"  - kms: {apiVersion: v2, name: a, endpoint: 'unix:///x'}\n".repeat(2)),
            "duplicate KMS provider name a",
        ),
        (resources("[Secrets]"), "should not contain capital letters"),
        (resources("['*']"), "use '*.' to encrypt all"),
        (resources("[secrets, secrets]"), "cannot be specified multiple times"),
        (resources("[secrets, '*.']"), "overlapping resources"),
        (resources("[x.events.k8s.io]"), "Use 'events' instead"),
        (resources("['secrets.*']"), "same resource across groups"),
        (resources("[]"), "resources[0].resources: Required value"),
    ] {
        let error = Encryption::parse(&text).err().unwrap_or_default();
        assert!(error.contains(want) && !error.contains("hidden"), "{error}\nlacks: {want}");
    }
}

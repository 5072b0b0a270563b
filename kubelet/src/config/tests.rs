use super::*;

fn parse(value: Value) -> anyhow::Result<KubeletConfiguration> {
    let Value::Object(mut map) = value else { bail!("no object") };
    // Tests run on machines of both kinds.
    map.entry("failCgroupV1").or_insert(Value::Bool(false));
    let (config, value) = KubeletConfiguration::from_value(map)?;
    config.check(&value)?;
    Ok(config)
}

#[test]
fn zero_means_default_unless_it_says_something() {
    let config =
        parse(json!({"syncFrequency": "0s", "port": 0, "healthzPort": 0, "maxPods": 7, "logging": {},
        "failSwapOn": false, "authentication": {"webhook": {"cacheTTL": "0s"}}}))
        .unwrap();
    assert_eq!(config.sync_frequency.as_secs(), 60);
    assert_eq!((config.port, config.healthz_port, config.max_pods), (10_250, 0, 7));
    assert_eq!(config.eviction_hard["memory.available"], "100Mi");
    assert!(config.authentication.webhook.enabled && !config.fail_swap_on);
    assert_eq!(config.authentication.webhook.cache_ttl.as_secs(), 120);
    let off = parse(json!({"authentication": {"webhook": {"enabled": false}}})).unwrap();
    assert!(!off.authentication.webhook.enabled);
    let defaults = KubeletConfiguration::defaults();
    assert!(defaults.without_effect().is_empty() && parse(json!({})).is_ok());
}

#[test]
fn mistakes_are_refused() {
    for (value, words) in [
        (
            json!({"maxPods": "x"}),
            "json: cannot unmarshal string into Go struct field KubeletConfiguration.maxPods of type int32",
        ),
        (
            json!({"evictionHard": {"memory.available": 5}}),
            "json: cannot unmarshal number into Go struct field KubeletConfiguration.evictionHard of type string",
        ),
        (
            json!({"maxPods": 99_999_999_999i64}),
            "json: cannot unmarshal number 99999999999 into Go struct field KubeletConfiguration.maxPods of type int32",
        ),
        (json!({"imageMinimumGCAge": "-1s"}), "imageMinimumGCAge -1s must not be negative"),
        (json!({"registerWithTaints": [{"key": "a", "effect": "Bad"}]}), "invalid taint: {a  Bad <nil>}"),
        (
            json!({"featureGates": {"ClusterTrustBundleProjection": true}}),
            "ClusterTrustBundleProjection is enabled, but depends on features that are disabled: [ClusterTrustBundle]",
        ),
        (
            json!({"allowedUnsafeSysctls": ["vm.foo"]}),
            "the sysctls \"vm.foo\" are not known to be namespaced",
        ),
        (json!({"logging": {"format": "x"}}), "logging.format: Invalid value: \"x\": Unsupported log format"),
        (
            json!({"systemReserved": {"cpu": "-1"}}),
            "--system-reserved value failed to parse: resource quantity for \"cpu\" cannot be negative: -1",
        ),
        (json!({"authentication": {"anonymous": {"enabled": "yes"}}}), "of type bool"),
        (
            json!({"imageGCHighThresholdPercent": 10}),
            "imageGCLowThresholdPercent (--image-gc-low-threshold) 80 must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) 10",
        ),
        (json!({"containerLogMaxSize": "lots"}), "failed to parse container log max size \"lots\""),
        (json!({"cgroupDriver": "x"}), "cgroup driver"),
        (
            json!({"port": 70000}),
            "invalid configuration: port (--port) 70000 must be between 1 and 65535, inclusive",
        ),
        (
            json!({"topologyManagerScope": "x"}),
            "topologyManagerScope (--topology-manager-scope) \"x\" must be one of",
        ),
        (
            json!({"enforceNodeAllocatable": ["kube-reserved"]}),
            "kubeReservedCgroup (--kube-reserved-cgroup) must be specified",
        ),
        (
            json!({"enforceNodeAllocatable": ["none", "pods"]}),
            "may not contain additional enforcements when \"none\" is specified",
        ),
        (json!({"featureGates": {"NoSuchThing": true}}), "unrecognized feature gate: NoSuchThing"),
        (
            json!({"memorySwap": {"swapBehavior": "UnlimitedSwap"}}),
            "memorySwap.swapBehavior \"UnlimitedSwap\" must be one of",
        ),
        (json!({"podLogsDir": "logs"}), "pod logs path \"logs\" must be absolute path"),
        (json!({"runOnce": true}), "Runonce mode has been deprecated"),
        (
            json!({"shutdownGracePeriodCriticalPods": "10s"}),
            "shutdownGracePeriodCriticalPods {10s} must be <= shutdownGracePeriod {0s}",
        ),
        (
            json!({"evictionSoft": {"memory.available": "1Gi"}}),
            "grace period must be specified for the soft eviction threshold memory.available",
        ),
        (json!({"evictionHard": {"mem": "1Gi"}}), "unsupported eviction signal mem"),
        (
            json!({"reservedMemory": [{"numaNode": 0, "limits": {"cpu": "1"}}]}),
            "the limit type \"cpu\" for NUMA node 0 is not supported",
        ),
    ] {
        let error = format!("{:#}", parse(value.clone()).expect_err(&value.to_string()));
        assert!(error.contains(words), "{value}: {error}");
    }
    // An unknown field is no mistake that stops a node.
    assert!(parse(json!({"maxpods": 1})).is_ok());
}

#[test]
fn drop_ins_merge_in_the_order_of_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, body: &str| {
        let text = format!("apiVersion: {API_VERSION}\nkind: KubeletConfiguration\n{body}");
        std::fs::write(dir.path().join(name), text).unwrap();
    };
    write(
        "20-b.conf",
        "maxPods: 20\nevictionHard: {pid.available: 5%}\nauthentication: {anonymous: {enabled: null}}\n",
    );
    write(
        "10-a.conf",
        "maxPods: 10\nauthentication: {anonymous: {enabled: true}, x509: {clientCAFile: /a}}\n",
    );
    write("30-c.txt", "maxPods: 30\n");
    let mut value = defaults::with_eviction(defaults::fill(Map::new()).unwrap());
    read::drop_ins(&mut value, dir.path()).unwrap();
    let (config, _) = read::decode(value.clone()).unwrap();
    // What a drop-in says of a map is added to what is there.
    assert_eq!((&*config.eviction_hard["pid.available"], config.eviction_hard.len()), ("5%", 6));
    assert_eq!((config.max_pods, config.authentication.anonymous.enabled), (20, false));
    assert_eq!(config.authentication.x509.client_ca_file, "/a");
}

#[test]
fn what_is_shown_and_what_has_no_effect() {
    let mut config = KubeletConfiguration::defaults();
    let shown = config.shown();
    assert_eq!((&shown["kind"], &shown["memorySwap"]), (&json!("KubeletConfiguration"), &json!({})));
    assert_eq!((&shown["readOnlyPort"], &shown["maxPods"]), (&Value::Null, &json!(110)));
    config.volume_plugin_dir = "/elsewhere".into();
    assert_eq!(config.without_effect(), ["volumePluginDir"]);
    config.feature_gates = [("EventedPLEG".to_string(), true), ("MemoryQoS".to_string(), true)].into();
    assert_eq!(config.idle_gates(), ["EventedPLEG"]);
}

#[test]
fn files_are_read_as_clients_know_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kubelet.yaml");
    let load = |text: &str| {
        std::fs::write(&path, text).unwrap();
        read::file(&path.display().to_string()).map_err(|e| e.to_string())
    };
    let head = format!("apiVersion: {API_VERSION}\nkind: KubeletConfiguration\n");
    // Unknown and repeated fields do not stop a node, nor do further documents; relative paths begin at the file.
    let more = "nodeStatusUpdateFrequency: 7s\nmaxParallelImagePulls: 3\nstaticPodPath: sub/../pods\n";
    let value =
        load(&format!("{head}foo: 1\nmaxPods: 1\nmaxPods: 2\nport: null\n{more}---\na: b\n")).unwrap();
    assert_eq!((&value["maxPods"], &value["port"]), (&json!(2), &json!(10_250)));
    assert_eq!(value["nodeStatusReportFrequency"], "7s");
    assert_eq!(value["serializeImagePulls"], false);
    assert_eq!(value["staticPodPath"], json!(dir.path().join("pods").display().to_string()));
    for (text, why) in [
        ("", "was empty"),
        ("{}", "Object 'Kind' is missing in '{}'"),
        ("[1]", "cannot unmarshal array"),
        ("kind: KubeletConfiguration\n", "Object 'apiVersion' is missing"),
        ("apiVersion: v1\nkind: Pod\n", "no kind \"Pod\" is registered for version \"v1\""),
        (
            &format!("apiVersion: {API_VERSION}\nkind: SerializedNodeConfigSource\n"),
            "failed to cast object to KubeletConfiguration",
        ),
        ("\0\u{1}", "yaml:"),
    ] {
        let error = load(text).unwrap_err();
        assert!(
            error.contains(why) && error.contains("failed to load Kubelet config file"),
            "{text:?}: {error}"
        );
    }
}

use super::*;
use api::json;

#[test]
fn as_go_prints() {
    let claim = "k8s.io.api.core.v1.PodResourceClaim";
    assert_eq!(
        internal(claim, &json!({"name": "a"})),
        r#"{"Name":"a","ResourceClaimName":null,"ResourceClaimTemplateName":null}"#
    );
    let owner = "k8s.io.apimachinery.pkg.apis.meta.v1.OwnerReference";
    let v = json!([{"uid": "u", "kind": "K", "controller": true, "name": "n", "apiVersion": "v1"}]);
    assert_eq!(
        external(owner, &v),
        r#"[{"apiVersion":"v1","kind":"K","name":"n","uid":"u","controller":true}]"#
    );
}

#[test]
fn internal_structs_have_their_own_names_and_order() {
    for (message, v, want) in [
        (
            "k8s.io.api.core.v1.PersistentVolumeSource",
            json!({"rbd": {"image": "<i>"}}),
            r#""RBD":{"CephMonitors":null,"RBDImage":"\u003ci\u003e","FSType":"","RBDPool":"","RadosUser":"","Keyring":"","SecretRef":null,"ReadOnly":false},"#,
        ),
        (
            "k8s.io.api.core.v1.PodSpec",
            json!({"hostNetwork": true}),
            r#""SecurityContext":{"HostNetwork":true,"HostPID":false,"HostIPC":false,"ShareProcessNamespace":null,"#,
        ),
        (
            "k8s.io.api.core.v1.PodTemplateSpec",
            json!({"metadata": {"labels": {"b": "c", "a": "b"}}, "spec": {}}),
            r#"{"labels":{"a":"b","b":"c"},"Spec":{"Volumes":null,"#,
        ),
        (
            "k8s.io.api.core.v1.Volume",
            json!({"name": "v", "emptyDir": {}}),
            r#"{"Name":"v","HostPath":null,"EmptyDir":{"Medium":"","SizeLimit":null},"#,
        ),
        ("k8s.io.api.networking.v1.ServiceCIDRSpec", json!({"cidrs": []}), r#"{"CIDRs":[]}"#),
    ] {
        let got = internal(message, &v);
        assert!(got.contains(want), "{got}");
    }
}

#[test]
fn errors_show_the_types_of_their_places() {
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding"});
    let error =
        |path: &str, v: Value| Error::invalid(&api::field::Path::new(path), v, crate::metadata::IMMUTABLE);
    let mut errors = vec![
        error("roleRef", json!({"name": "n", "kind": "K", "apiGroup": "g"})),
        error("subjects[1]", json!({"name": "n"})),
        error("subjects", Value::Null),
        error("roleRef.name", Value::Null),
        error("nowhere", json!({"a": 1})),
    ];
    as_structs(&role, &mut errors);
    let got: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        got,
        [
            r#"roleRef: Invalid value: {"APIGroup":"g","Kind":"K","Name":"n"}: field is immutable"#,
            r#"subjects[1]: Invalid value: {"Kind":"","APIGroup":"","Name":"n","Namespace":""}: field is immutable"#,
            "subjects: Invalid value: null: field is immutable",
            r#"roleRef.name: Invalid value: "": field is immutable"#,
            r#"nowhere: Invalid value: {"a":1}: field is immutable"#,
        ]
    );
}

#[test]
fn differences_are_patches() {
    let (old, new) = (json!({"hostPath": {"path": "/p"}}), json!({}));
    assert_eq!(
        difference("k8s.io.api.core.v1.PersistentVolumeSource", &old, &new),
        "@@ -1,10 +1,7 @@\n {\n  \"GCEPersistentDisk\": null,\n  \"AWSElasticBlockStore\": null,\n- \"HostPath\": {\n-  \"Path\": \"/p\",\n-  \"Type\": null\n- },\n+ \"HostPath\": null,\n  \"Glusterfs\": null,\n  \"NFS\": null,\n  \"RBD\": null,\n"
    );
}

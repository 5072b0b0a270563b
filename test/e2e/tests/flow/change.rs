//! All ways to change objects.

use crate::common::{NODE, field, field_becomes, k, web_has};
use anyhow::{Result, ensure};
use e2e::Bed;

pub fn scale(bed: &Bed) -> Result<()> {
    k(bed, "scale deployment web --replicas=5").shows(&["deployment.apps/web scaled"])?;
    field_becomes(bed, "deployment/web", ".status.readyReplicas", "5")?;
    k(bed, "scale deployment web --current-replicas=4 --replicas=1")
        .fails("Expected replicas to be 4, was 5")?;
    k(bed, "scale deployment web --replicas=3").text()?;
    web_has(bed, 3)
}

pub fn rollout(bed: &Bed) -> Result<()> {
    bed.on_node(NODE, "ctr -n k8s.io images tag --force localhost/busybox:local localhost/busybox:next")
        .text()?;
    k(bed, "set image deployment/web web=localhost/busybox:next")
        .shows(&["deployment.apps/web image updated"])?;
    k(bed, "annotate deployment/web kubernetes.io/change-cause=second --overwrite").text()?;
    k(bed, "rollout status deployment/web --timeout=90s").shows(&["successfully rolled out"])?;
    web_has(bed, 3)?;
    k(bed, "get pods -l app=web -o jsonpath={.items[*].spec.containers[0].image}")
        .shows(&["busybox:next"])?;
    k(bed, "rollout history deployment/web").shows(&["REVISION", "1 ", "first version", "2 ", "second"])?;
    k(bed, "rollout history deployment/web --revision=2").shows(&["localhost/busybox:next"])?;
    k(bed, "rollout undo deployment/web").shows(&["rolled back"])?;
    k(bed, "rollout status deployment/web --timeout=90s").text()?;
    web_has(bed, 3)?;
    field_becomes(
        bed,
        "deployment/web",
        ".spec.template.spec.containers[0].image",
        "localhost/busybox:local",
    )?;
    k(bed, "rollout history deployment/web").shows(&["3 "])?;
    k(bed, "rollout pause deployment/web").text()?;
    k(bed, "rollout resume deployment/web").text()?;
    k(bed, "rollout restart deployment/web").text()?;
    k(bed, "rollout status deployment/web --timeout=90s").text()?;
    web_has(bed, 3)
}

pub fn label(bed: &Bed) -> Result<()> {
    k(bed, "label pod shell mood=calm").shows(&["pod/shell labeled"])?;
    k(bed, "label pod shell mood=wild").fails("already has a value (calm), and --overwrite is false")?;
    k(bed, "label pod shell mood=wild --overwrite").text()?;
    k(bed, "get pods -l mood=wild -L mood").shows(&["shell", "MOOD", "wild"])?;
    k(bed, "label pod shell mood-").shows(&["unlabeled"])?;
    k(bed, "annotate pod shell note=kept").shows(&["pod/shell annotated"])?;
    ensure!(field(bed, "pod/shell", ".metadata.annotations.note")? == "kept", "the annotation");
    k(bed, "label pod shell -- bad/key/x=1").fails("prefix")?;
    Ok(())
}

pub fn patch(bed: &Bed) -> Result<()> {
    let patch =
        |kind: &str, text: &str| k(bed, &format!("patch deployment web --type={kind} -p")).arg(text).text();
    patch("json", r#"[{"op":"add","path":"/metadata/labels/by","value":"json"}]"#)?;
    ensure!(field(bed, "deployment/web", ".metadata.labels.by")? == "json", "json patch");
    patch("merge", r#"{"metadata":{"labels":{"by":"merge"}}}"#)?;
    ensure!(field(bed, "deployment/web", ".metadata.labels.by")? == "merge", "merge patch");
    let text = r#"{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"MORE","value":"1"}]}]}}}}"#;
    patch("strategic", text)?;
    let env = field(bed, "deployment/web", ".spec.template.spec.containers[0].env[*].name")?;
    ensure!(env.contains("MORE") && env.contains("GREETING"), "strategic patch merges by name: {env}");
    k(bed, "patch deployment web --subresource=scale --type=merge -p")
        .arg(r#"{"spec":{"replicas":3}}"#)
        .text()?;
    k(bed, "patch deployment web --type=merge -p")
        .arg(r#"{"spec":{"replicas":-1}}"#)
        .fails("spec.replicas: Invalid value: -1")?;
    k(bed, "patch deployment web --type=json -p")
        .arg(r#"[{"op":"test","path":"/spec/replicas","value":9}]"#)
        .fails("")?;
    k(bed, "rollout status deployment/web --timeout=90s").text()?;
    web_has(bed, 3)
}

pub fn edit(bed: &Bed) -> Result<()> {
    k(bed, "edit configmap web")
        .env("KUBE_EDITOR", "sed -i s/moin/servus/")
        .shows(&["configmap/web edited"])?;
    ensure!(field(bed, "configmap/web", ".data.greeting")? == "servus", "the edited value");
    k(bed, "edit configmap web").env("KUBE_EDITOR", "true").shows(&[])?;
    Ok(())
}

pub fn server_side(bed: &Bed) -> Result<()> {
    let text = |value: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: owned}}\ndata: {{a: {value}, b: two}}\n")
    };
    let apply = |value: &str, more: &str| {
        let file = bed.file(&format!("owned-{value}.yaml"), &text(value))?;
        anyhow::Ok(k(bed, &format!("apply --server-side {more} -f {file}")))
    };
    apply("one", "--field-manager=first")?.shows(&["configmap/owned serverside-applied"])?;
    apply("other", "--field-manager=second")?.fails("conflict with \"first\": .data.a")?;
    apply("other", "--field-manager=second --force-conflicts")?.text()?;
    ensure!(field(bed, "configmap/owned", ".data.a")? == "other", "forced");
    k(bed, "get configmap owned -o yaml --show-managed-fields").shows(&[
        "manager: first",
        "manager: second",
        "operation: Apply",
    ])?;
    // A manager that no longer names a field gives it up; the last owner's field goes.
    let file =
        bed.file("less.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: owned}\ndata: {b: two}\n")?;
    k(bed, &format!("apply --server-side --field-manager=second -f {file}")).text()?;
    ensure!(field(bed, "configmap/owned", ".data.a")?.is_empty(), "the field without an owner");
    k(bed, &format!("apply --server-side --dry-run=server --field-manager=second -f {file}")).text()?;
    k(bed, "delete configmap owned").text()?;
    Ok(())
}

pub fn diff(bed: &Bed) -> Result<()> {
    let same = bed.sample("web.yaml");
    let text = std::fs::read_to_string(&same)?.replace("replicas: 3", "replicas: 4");
    let changed = bed.file("changed.yaml", &text)?;
    let o = k(bed, &format!("diff -f {changed}")).outcome()?;
    ensure!(o.code == Some(1), "{o:?}");
    ensure!(o.stdout.contains("-  replicas: 3") && o.stdout.contains("+  replicas: 4"), "{o:?}");
    k(bed, &format!("apply -f {same}")).text()?;
    let o = k(bed, &format!("diff -f {same}")).outcome()?;
    ensure!(o.code == Some(0), "applied, so the same: {o:?}");
    k(bed, "rollout status deployment/web --timeout=90s").text()?;
    web_has(bed, 3)
}

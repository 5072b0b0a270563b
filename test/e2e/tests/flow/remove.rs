//! Deletion in all its ways.

use crate::common::{NAMESPACE, field, k};
use anyhow::{Result, ensure};
use e2e::{Bed, eventually, wait::SOON, wait::when};

fn make(bed: &Bed, name: &str) -> Result<()> {
    k(bed, &format!("create deployment {name} --image=localhost/pause:local --replicas=2")).text()?;
    k(bed, &format!("rollout status deployment/{name} --timeout=60s")).text()?;
    Ok(())
}

fn names(bed: &Bed, what: &str, name: &str) -> Result<Vec<String>> {
    let out = k(bed, &format!("get {what} -l app={name} -o name")).text()?;
    Ok(out.lines().map(str::to_owned).collect())
}

pub fn delete(bed: &Bed) -> Result<()> {
    make(bed, "back")?;
    k(bed, "delete deployment back").shows(&["deployment.apps \"back\" deleted"])?;
    eventually("background deletion of all parts", SOON, || when(names(bed, "rs,pods", "back")?.is_empty()))?;

    make(bed, "fore")?;
    k(bed, "delete deployment fore --cascade=foreground").text()?;
    // kubectl returned once the Deployment was gone, and that waits for its parts.
    ensure!(names(bed, "rs", "fore")?.is_empty(), "foreground deletion left a ReplicaSet");

    make(bed, "orphan")?;
    k(bed, "delete deployment orphan --cascade=orphan").text()?;
    let set = names(bed, "rs", "orphan")?;
    ensure!(set.len() == 1, "the ReplicaSet should stay: {set:?}");
    eventually("the orphan to have no owner", SOON, || {
        when(field(bed, &set[0], ".metadata.ownerReferences")?.is_empty())
    })?;
    ensure!(names(bed, "pods", "orphan")?.len() == 2, "its pods should stay");
    k(bed, "delete rs -l app=orphan").text()?;
    eventually("its pods to go", SOON, || when(names(bed, "pods", "orphan")?.is_empty()))?;
    k(bed, "delete job visit").text()?;
    eventually("the job's pods to go", SOON, || when(names(bed, "pods", "visit")?.is_empty()))?;
    k(bed, "delete pod nothing").fails("pods \"nothing\" not found")?;
    k(bed, "delete pod nothing --ignore-not-found").text()?;
    k(bed, &format!("delete -f {}", bed.sample("web.yaml"))).fails("jobs.batch \"visit\" not found")?;
    eventually("all of web to go", SOON, || when(names(bed, "all,configmaps,secrets", "web")?.is_empty()))
}

pub fn namespace(bed: &Bed) -> Result<()> {
    bed.kubectl("delete namespace").arg(NAMESPACE).shows(&["deleted"])?;
    bed.kubectl("get namespace").arg(NAMESPACE).fails("not found")?;
    ensure!(
        k(bed, "get all,configmaps,secrets -o name").text()?.is_empty(),
        "objects outlived their namespace"
    );
    Ok(())
}

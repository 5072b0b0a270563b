use super::*;
use serde_json::json;

/// A hierarchy of version 2 that is only files: the kernel's part, files in each folder, is played.
#[test]
fn a_pod_on_version_2() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("cgroup.controllers"), "cpu memory pids").unwrap();
    fs::write(root.path().join("cgroup.subtree_control"), "").unwrap();
    for driver in [Driver::Cgroupfs, Driver::Systemd] {
        let cgroups = Cgroups {
            driver,
            base: vec!["kubepods".into()],
            hierarchies: vec![root.path().to_path_buf()],
            v2: true,
            per_qos: true,
            period: 100_000,
            enforce_quota: true,
            free_pinned: true,
            protection: Some(true),
            page_sizes: vec![("2Mi".into(), "2MB".into()), ("1Gi".into(), "1GB".into())],
            cpus: "0-3".into(),
            complained: Mutex::default(),
            came: tokio::sync::Notify::new(),
            units: None,
        };
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "1-2"}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": "500m", "memory": "1Mi", "hugepages-2Mi": "4Mi"},
                "limits": {"cpu": "1", "memory": "2Mi", "hugepages-2Mi": "4Mi"}}},
            {"name": "d", "resources": {"limits": {"cpu": "1", "memory": "2Mi"}}}]}}))
        .unwrap();
        let path = root.path().join(cgroups.pod_path(&pod).unwrap());
        let expected = match driver {
            Driver::Cgroupfs => "kubepods/burstable/pod1-2",
            Driver::Systemd => "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice",
        };
        assert!(path.ends_with(expected), "{}", path.display());
        fs::create_dir_all(&path).unwrap();
        let files = ["cpu.weight", "cpu.max", "memory.max", "pids.max", "hugetlb.2MB.max", "hugetlb.1GB.max"];
        let files = [&files[..], &["memory.low", "memory.min", "cpuset.cpus"]].concat();
        files.iter().for_each(|file| fs::write(path.join(file), "max\n").unwrap());
        let now = |path: &Path| -> Vec<String> {
            files.iter().map(|file| fs::read_to_string(path.join(file)).unwrap().trim().into()).collect()
        };
        cgroups.ensure_pod(&pod, 99).unwrap();
        let expected = ["59", "200000 100000", "4194304", "99", "4194304", "0", "3145728", "max", "max"];
        assert_eq!(now(&path), expected);
        assert!(cgroups.pods().contains("1-2"));
        // What is not told stays as somebody set it.
        let class = path.parent().unwrap();
        files.iter().for_each(|file| fs::write(class.join(file), "7\n").unwrap());
        cgroups.weigh_burstable(500);
        cgroups.protect(1, 2);
        assert_eq!(now(class), ["20", "7", "7", "7", "7", "7", "2", "7", "7"]);
        let all = class.parent().unwrap();
        files.iter().for_each(|file| fs::write(all.join(file), "7\n").unwrap());
        let limits =
            Limits { shares: 2048, memory: 9, hugepages: vec![("2MB".into(), 8)], ..Default::default() };
        cgroups.set_up(limits);
        cgroups.protect(1, 2);
        assert_eq!(now(all), ["79", "7", "9", "7", "8", "7", "7", "3", "0-3"]);
        for dir in [class, all] {
            files.iter().for_each(|file| fs::remove_file(dir.join(file)).unwrap());
        }
        files.iter().for_each(|file| fs::remove_file(path.join(file)).unwrap());
        assert!(cgroups.remove_pod("1-2") && !path.exists());
    }
    let told = fs::read_to_string(root.path().join("cgroup.subtree_control")).unwrap();
    assert!(told.starts_with('+') || told.is_empty());
}

/// Throttling a container that has its CPUs to itself gains nobody anything.
#[test]
fn pinned_pods_have_no_quota() {
    let pod = |cpu: &str| -> Pod {
        let list = json!({"cpu": cpu, "memory": "2Mi"});
        serde_json::from_value(json!({"metadata": {"uid": "1"}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": list, "limits": list}}]}}))
        .unwrap()
    };
    let mut cgroups = Cgroups {
        driver: Driver::Cgroupfs,
        base: vec![],
        hierarchies: vec![],
        v2: true,
        per_qos: true,
        period: 100_000,
        enforce_quota: true,
        free_pinned: true,
        protection: None,
        page_sizes: vec![],
        cpus: String::new(),
        complained: Mutex::default(),
        came: tokio::sync::Notify::new(),
        units: None,
    };
    let quota = |cgroups: &Cgroups, cpu| cgroups.limits_of(&pod(cpu), 0).quota;
    assert_eq!([quota(&cgroups, "2"), quota(&cgroups, "1500m")], [-1, 150_000]);
    cgroups.free_pinned = false;
    assert_eq!(quota(&cgroups, "2"), 200_000);
}

#[test]
fn names() {
    let parts: Vec<String> = ["kubepods", "burstable", "pod12-34"].map(String::from).into();
    assert_eq!(slice_name(&parts), "kubepods-burstable-pod12_34.slice");
    assert_eq!(uid_of("kubepods-burstable-pod12_34.slice").as_deref(), Some("12-34"));
    assert_eq!(uid_of("pod12-34").as_deref(), Some("12-34"));
    assert_eq!(uid_of("besteffort"), None);
}

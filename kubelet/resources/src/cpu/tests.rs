use super::*;
use crate::machine::samples;
use crate::topology::Manager;

fn pod(uid: &str, containers: &[(&str, ContainerKind, i64)]) -> PodRequest {
    let container = |(name, kind, milli): &(&str, ContainerKind, i64)| ContainerRequest {
        name: name.to_string(),
        kind: *kind,
        milli_cpu: *milli,
        ..Default::default()
    };
    PodRequest {
        uid: uid.into(),
        guaranteed: true,
        containers: containers.iter().map(container).collect(),
        ..Default::default()
    }
}

fn options(names: &[&str]) -> Options {
    let map = names.iter().map(|n| (n.to_string(), "true".to_string())).collect();
    Options::parse(&map, true, true).unwrap()
}

fn manager(dir: &std::path::Path, names: &[&str]) -> Result<CpuManager, String> {
    let machine = samples::machine(2, 1, 4, 2);
    CpuManager::new(machine, options(names), CpuSet::default(), 1, false, dir.join("cpu_manager_state"))
}

fn admit(cpus: &mut CpuManager, policy: &str, pod: &PodRequest) -> Result<(), Refusal> {
    let topology = Manager::new(&cpus.machine, policy, "container", &BTreeMap::new()).unwrap();
    futures::executor::block_on(topology.admit(pod, &mut [cpus]))
}

#[test]
fn whole_cpus_are_given_kept_and_taken_back() {
    use ContainerKind::{Init, Main, Sidecar};
    let dir = tempfile::tempdir().unwrap();
    let mut cpus = manager(dir.path(), &[]).unwrap();
    assert_eq!(cpus.reserved.to_string(), "0");
    let a = pod("a", &[("i", Init, 4000), ("s", Sidecar, 1000), ("m", Main, 2000), ("shares", Main, 1500)]);
    admit(&mut cpus, "none", &a).unwrap();
    let of = |cpus: &CpuManager, name| cpus.exclusive("a", name).map(ToString::to_string);
    // What the init container had is used again by those after it.
    assert_eq!(of(&cpus, "i").as_deref(), Some("1-2,9-10"));
    assert_eq!((of(&cpus, "s").as_deref(), of(&cpus, "m").as_deref()), (Some("8"), Some("1,9")));
    assert_eq!(of(&cpus, "shares"), None);
    assert_eq!(cpus.shared().to_string(), "0,3-7,11-15");
    // Another process finds the same.
    let mut cpus = manager(dir.path(), &[]).unwrap();
    admit(&mut cpus, "none", &a).unwrap();
    assert_eq!(cpus.shared().to_string(), "0,3-7,11-15");
    let b = pod("b", &[("m", Main, 12_000)]);
    let refusal = admit(&mut cpus, "none", &b).unwrap_err();
    assert_eq!(refusal.reason, "UnexpectedAdmissionError");
    assert_eq!(
        refusal.message,
        "Allocate failed due to not enough cpus available to satisfy request: requested=12, available=10, which is unexpected"
    );
    assert!(cpus.release("a") && !cpus.release("a"));
    assert_eq!(cpus.shared().len(), 16);
    admit(&mut cpus, "none", &b).unwrap();
    assert!(cpus.retain(&HashSet::new()));
    let restless = PodRequest { guaranteed: false, ..pod("c", &[("m", Main, 2000)]) };
    admit(&mut cpus, "none", &restless).unwrap();
    assert_eq!(cpus.shared().len(), 16);
}

#[test]
fn one_node_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut cpus = manager(dir.path(), &[]).unwrap();
    let six = |uid| pod(uid, &[("m", ContainerKind::Main, 6000)]);
    admit(&mut cpus, "single-numa-node", &six("a")).unwrap();
    admit(&mut cpus, "single-numa-node", &six("b")).unwrap();
    let given = cpus.exclusive("a", "m").unwrap().clone();
    assert_eq!(cpus.machine.parts_of(Part::Numa, &given).len(), 1, "{given}");
    let refusal =
        admit(&mut cpus, "single-numa-node", &pod("c", &[("m", ContainerKind::Main, 3000)])).unwrap_err();
    assert_eq!(refusal.reason, "TopologyAffinityError");
    assert_eq!(refusal.message, "Resources cannot be allocated with Topology locality");
}

#[test]
fn whole_cores_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut cpus = manager(dir.path(), &["full-pcpus-only"]).unwrap();
    let ask = |n: i64| pod("a", &[("m", ContainerKind::Main, n * 1000)]);
    let message = |r: Result<(), Refusal>| r.unwrap_err().message;
    assert_eq!(
        message(admit(&mut cpus, "none", &ask(3))),
        "SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2"
    );
    assert_eq!(
        message(admit(&mut cpus, "none", &ask(16))),
        "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = 14, requested CPUs = 16, CPUs per core = 2"
    );
    admit(&mut cpus, "none", &ask(4)).unwrap();
}

#[test]
fn strange_states_and_options_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut cpus = manager(dir.path(), &[]).unwrap();
    admit(&mut cpus, "none", &pod("a", &[("m", ContainerKind::Main, 2000)])).unwrap();
    // Another CPU is reserved now, which was given away.
    let file = dir.path().join("cpu_manager_state");
    let machine = samples::machine(2, 1, 4, 2);
    let reserved: CpuSet = "1".parse().unwrap();
    let error = CpuManager::new(machine.clone(), options(&[]), reserved, 1, false, file.clone()).err();
    assert_eq!(error.unwrap(), "not all reserved cpus: \"1\" are present in defaultCpuSet: \"0,2-8,10-15\"");
    let error =
        CpuManager::new(machine, options(&["strict-cpu-reservation"]), CpuSet::default(), 1, false, file);
    assert!(error.err().unwrap().starts_with("some of strictly reserved cpus: \"0\""));
    let parse =
        |name: &str, alpha| Options::parse(&BTreeMap::from([(name.into(), "true".into())]), alpha, true);
    assert!(parse("align-by-socket", false).unwrap_err().contains("Alpha-level Options not enabled"));
    assert!(parse("align-by-socket", true).is_ok() && parse("x", true).is_err());
}

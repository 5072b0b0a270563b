use super::*;
use crate::machine::samples;
use crate::topology::Manager;

const GI: u64 = 1 << 30;

fn pod(uid: &str, containers: &[(&str, ContainerKind, u64)]) -> PodRequest {
    let container = |(name, kind, bytes): &(&str, ContainerKind, u64)| ContainerRequest {
        name: name.to_string(),
        kind: *kind,
        others: BTreeMap::from([("memory".to_string(), *bytes)]),
        ..Default::default()
    };
    PodRequest {
        uid: uid.into(),
        guaranteed: true,
        containers: containers.iter().map(container).collect(),
        ..Default::default()
    }
}

/// Two nodes of 8 GiB, of each of which one is reserved.
fn manager(dir: &std::path::Path) -> Result<MemoryManager, String> {
    let one = || BTreeMap::from([("memory".to_string(), GI)]);
    let reserved = Reserved::from([(0, one()), (1, one())]);
    MemoryManager::new(samples::machine(2, 1, 2, 1), reserved, dir.join("memory_manager_state"))
}

fn admit(memory: &mut MemoryManager, policy: &str, pod: &PodRequest) -> Result<(), Refusal> {
    let topology = Manager::new(&memory.machine, policy, "container", &BTreeMap::new()).unwrap();
    futures::executor::block_on(topology.admit(pod, &mut [memory]))
}

#[test]
fn memory_is_given_kept_and_taken_back() {
    use ContainerKind::{Init, Main};
    let dir = tempfile::tempdir().unwrap();
    let mut memory = manager(dir.path()).unwrap();
    admit(&mut memory, "none", &pod("a", &[("i", Init, 5 * GI), ("m", Main, 4 * GI)])).unwrap();
    assert_eq!((memory.nodes("a", "m"), memory.nodes("a", "i")), (vec![0], vec![0]));
    // What the main container took over is no longer the init container's.
    assert_eq!(memory.of_container("a", "i")[0].size, GI);
    assert_eq!(memory.state.nodes[&0].memory["memory"].free, 2 * GI);
    admit(&mut memory, "single-numa-node", &pod("b", &[("m", Main, 6 * GI)])).unwrap();
    assert_eq!(memory.nodes("b", "m"), [1]);
    let refusal = admit(&mut memory, "single-numa-node", &pod("c", &[("m", Main, 3 * GI)])).unwrap_err();
    assert_eq!(refusal.reason, "TopologyAffinityError");
    let refusal = admit(&mut memory, "none", &pod("c", &[("m", Main, 3 * GI)])).unwrap_err();
    assert_eq!(
        refusal.message,
        "Allocate failed due to [memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available, which is unexpected"
    );
    // Another process finds the same.
    let mut memory = manager(dir.path()).unwrap();
    assert_eq!(memory.nodes("b", "m"), [1]);
    memory.retain(&HashSet::from(["b".to_string()]));
    assert_eq!(memory.state.nodes[&0].memory["memory"].free, 7 * GI);
    assert!(memory.release("b"));
    // More than a node has takes both.
    admit(&mut memory, "best-effort", &pod("d", &[("m", Main, 10 * GI)])).unwrap();
    assert_eq!(memory.nodes("d", "m"), [0, 1]);
    assert_eq!(manager(dir.path()).unwrap().nodes("d", "m"), [0, 1]);
}

#[test]
fn what_is_reserved_must_add_up() {
    let machine = samples::machine(2, 1, 2, 1);
    let of = |bytes| BTreeMap::from([("memory".to_string(), bytes)]);
    let check = |reserved: Reserved, expected| check_reserved(&machine, &reserved, &of(expected));
    assert!(check(Reserved::from([(0, of(1)), (1, of(2))]), 3).is_ok());
    assert!(check(Reserved::from([(0, of(1))]), 3).unwrap_err().contains("is not equal to the value \"3\""));
    assert!(check(Reserved::from([(7, of(3))]), 3).unwrap_err().contains("NUMA node 7 that does not exist"));
    assert!(check(Reserved::new(), 0).unwrap_err().contains("should specify the system reserved memory"));
}

//! Differences of plans.

use super::*;

fn plan(chains: &[(&str, &str)], elements: &[(Container, &str, &str)]) -> Plan {
    Plan {
        chains: chains.iter().map(|(n, r)| ((*n).to_owned(), vec![(*r).to_owned()])).collect(),
        elements: elements.iter().map(|(c, k, v)| ((*c, (*k).to_owned()), (*v).to_owned())).collect(),
        ..Plan::default()
    }
}

fn step(table: &mut Table, service: &str, plan: Plan) -> Vec<String> {
    let mut tx = Transaction::default();
    table.update(service, plan, &mut tx);
    tx.render(Family::V4).lines().map(|l| l.replace(" ip kube-proxy", "")).collect()
}

#[tokio::test(start_paused = true)]
async fn only_what_changed_is_written() {
    let mut table = Table::new(Family::V4);
    let ips = Container::ServiceIps;
    let first = plan(&[("service-a", "r1")], &[(ips, "k1", "goto service-a")]);
    assert_eq!(
        step(&mut table, "a", first.clone()),
        [
            "add chain service-a",
            "flush chain service-a",
            "add rule service-a r1",
            "add element service-ips { k1 : goto service-a }"
        ]
    );
    assert!(step(&mut table, "a", first.clone()).is_empty());
    let second = plan(&[("service-a", "r2")], &[(ips, "k1", "goto service-a")]);
    assert_eq!(
        step(&mut table, "a", second),
        ["add chain service-a", "flush chain service-a", "add rule service-a r2"]
    );
    assert_eq!(
        step(&mut table, "a", Plan::default()),
        ["delete element service-ips { k1 : goto service-a }", "flush chain service-a"]
    );
    assert!(table.collect_stale().is_none(), "not at once");
    tokio::time::sleep(CHAIN_GRACE).await;
    assert_eq!(table.collect_stale().as_deref(), Some("delete chain ip kube-proxy service-a\n"));
    assert!(table.collect_stale().is_none() && table.plans.is_empty() && table.wanted.is_empty());
}

#[tokio::test]
async fn an_element_of_two_services_stays_until_both_are_gone() {
    let mut table = Table::new(Family::V4);
    let claim = |value: &str| plan(&[], &[(Container::ServiceIps, "k", value)]);
    step(&mut table, "a", claim("goto a"));
    assert!(step(&mut table, "b", claim("goto b")).is_empty(), "the first has it");
    assert_eq!(
        step(&mut table, "a", Plan::default()),
        ["delete element service-ips { k : goto a }", "add element service-ips { k : goto b }"]
    );
    assert_eq!(step(&mut table, "b", Plan::default()), ["delete element service-ips { k : goto b }"]);
}

#[tokio::test]
async fn a_chain_that_comes_back_is_not_deleted() {
    let mut table = Table::new(Family::V4);
    step(&mut table, "a", plan(&[("service-a", "r")], &[]));
    step(&mut table, "a", Plan::default());
    step(&mut table, "a", plan(&[("service-a", "r")], &[]));
    assert!(table.next_stale().is_none());
}

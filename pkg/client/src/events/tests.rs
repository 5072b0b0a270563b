//! Correlation, without a server.

use super::core::{Correlator, Step};
use super::*;

fn record(message: &str) -> Record {
    let regarding = ObjectReference {
        kind: Some("Pod".into()),
        namespace: Some("ns".into()),
        name: Some("p".into()),
        ..ObjectReference::default()
    };
    Record {
        regarding,
        related: None,
        kind: "Normal".into(),
        reason: "R".into(),
        action: "R".into(),
        message: message.into(),
        annotations: Default::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn similar_messages_are_combined_and_floods_dropped() {
    let mut correlator = Correlator::default();
    let keys: Vec<Step> = (0..30).map(|i| correlator.step(&record(&format!("m{i}")))).collect();
    let Step::Send { key: first, message } = &keys[0] else { panic!("sent") };
    assert!(first.ends_with("|m0") && message == "m0");
    let Step::Send { key: tenth, message } = &keys[12] else { panic!("sent") };
    assert_eq!(message, "(combined from similar events): m12");
    assert!(matches!(&keys[13], Step::Send { key, .. } if key == tenth));
    assert_eq!(keys.iter().filter(|s| **s == Step::Drop).count(), 5);
    tokio::time::sleep(Duration::from_secs(301)).await;
    assert_ne!(correlator.step(&record("later")), Step::Drop);
}

#[test]
fn long_messages_are_cut() {
    assert_eq!(truncate(&"ä".repeat(2000)).len(), 1023);
    assert_eq!(truncate("short"), "short");
}

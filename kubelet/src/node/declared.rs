//! The features of this kubelet that the scheduler and admission ask for before they let pods use them.

use std::collections::BTreeMap;

/// Their gates, in the order of their names.
const FEATURES: [&str; 4] = [
    "ExtendWebSocketsToKubelet",
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    "RestartAllContainersOnContainerExits",
];

/// The features to declare; `None` where they are not to be declared at all.
pub fn features(set: &BTreeMap<String, bool>) -> Option<Vec<String>> {
    let gates = component::gates::Gates::default().with(set).unwrap_or_default();
    let on = FEATURES.into_iter().filter(|gate| gates.enabled(gate)).map(str::to_string);
    gates.enabled("NodeDeclaredFeatures").then(|| on.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_decide() {
        let with = |gate: &str, on| features(&BTreeMap::from([(gate.to_string(), on)]));
        assert!(features(&BTreeMap::new()).unwrap().contains(&FEATURES[3].to_string()));
        assert!(!with(FEATURES[3], false).unwrap().contains(&FEATURES[3].to_string()));
        assert_eq!(with("NodeDeclaredFeatures", false), None);
    }
}

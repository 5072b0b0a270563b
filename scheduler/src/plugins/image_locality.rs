//! ImageLocality: prefers nodes that have the pod's images, less so for images that few nodes have.

use crate::cache::Snapshot;
use crate::framework::{CycleState, MAX_NODE_SCORE, Plugin, Score};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

pub const NAME: &str = "ImageLocality";
const MB: i64 = 1024 * 1024;
const MIN: i64 = 23 * MB;
const MAX_PER_CONTAINER: i64 = 1000 * MB;

pub struct ImageLocality;

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        NAME
    }
    fn as_score(&self) -> Option<&dyn Score> {
        Some(self)
    }
}

impl Score for ImageLocality {
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> i64 {
        let Some(spec) = &pod.pod.spec else { return 0 };
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        let (mut sum, mut count) = (0, 0);
        for container in containers {
            count += 1;
            let name = normalized(container.image.as_deref().unwrap_or(""));
            if let Some(size) = node.images.get(&name) {
                let nodes = snapshot.image_nodes.get(&name).copied().unwrap_or(0) as f64;
                sum += (*size as f64 * nodes / snapshot.nodes.len().max(1) as f64) as i64;
            }
        }
        let max = MAX_PER_CONTAINER * count.max(1);
        MAX_NODE_SCORE * (sum.clamp(MIN, max) - MIN) / (max - MIN)
    }
}

/// Nodes report images with their tag.
fn normalized(image: &str) -> String {
    let after_slash = image.rfind('/').map_or(0, |i| i + 1);
    if image[after_slash..].contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

#[cfg(test)]
mod tests {
    use super::normalized;

    #[test]
    fn untagged_images_mean_latest() {
        assert_eq!(normalized("host:5000/a"), "host:5000/a:latest");
        assert_eq!(normalized("a:1"), "a:1");
    }
}

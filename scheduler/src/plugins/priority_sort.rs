//! PrioritySort: the highest priority first, then the longest waiting.

use crate::framework::{Plugin, QueueSort};
use crate::pod_info::PodInfo;

pub const NAME: &str = "PrioritySort";

pub struct PrioritySort;

impl Plugin for PrioritySort {
    fn name(&self) -> &'static str {
        NAME
    }
    fn as_queue_sort(&self) -> Option<&dyn QueueSort> {
        Some(self)
    }
}

impl QueueSort for PrioritySort {
    fn key(&self, pod: &PodInfo) -> i64 {
        -i64::from(pod.priority())
    }
}

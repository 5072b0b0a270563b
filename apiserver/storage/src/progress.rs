//! How far memory has come, and how far it must come: the two halves of a consistent read.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The revision up to which the stream has been applied, and those who wait for more.
#[derive(Default)]
pub(crate) struct Progress {
    applied: AtomicI64,
    waiting: Mutex<Vec<(i64, oneshot::Sender<()>)>>,
}

impl Progress {
    pub(crate) fn applied(&self) -> i64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Called by the stream only, after every cache holds all events up to `revision`.
    pub(crate) fn publish(&self, revision: i64) {
        self.applied.store(revision, Ordering::Release);
        let mut due = Vec::new();
        {
            let mut waiting = self.waiting.lock();
            let mut i = 0;
            while i < waiting.len() {
                if waiting[i].0 <= revision {
                    due.push(waiting.swap_remove(i).1);
                } else {
                    i += 1;
                }
            }
        }
        for waiter in due {
            let _ = waiter.send(());
        }
    }

    /// Waits until `revision` has been applied; `false` if that takes longer than `limit`.
    pub(crate) async fn reached(&self, revision: i64, limit: Duration) -> bool {
        if self.applied() >= revision {
            return true;
        }
        let receiver = {
            let mut waiting = self.waiting.lock();
            // Publishing stores first and locks second: whoever it does not find here sees its value.
            if self.applied() >= revision {
                return true;
            }
            let (sender, receiver) = oneshot::channel();
            waiting.retain(|(_, w)| !w.is_closed());
            waiting.push((revision, sender));
            receiver
        };
        let _ = tokio::time::timeout(limit, receiver).await;
        self.applied() >= revision
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn waits_for_exactly_the_revision() {
        let p = Arc::new(Progress::default());
        p.publish(5);
        assert!(p.reached(5, Duration::ZERO).await);
        assert!(!p.reached(6, Duration::from_millis(5)).await);
        let q = p.clone();
        let waiter = tokio::spawn(async move { q.reached(7, Duration::from_secs(10)).await });
        tokio::task::yield_now().await;
        p.publish(6);
        p.publish(7);
        assert!(waiter.await.unwrap());
        assert!(p.waiting.lock().is_empty());
    }
}

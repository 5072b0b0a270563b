//! One question for all who ask at the same time.
//!
//! An answer is only good for those who asked before the question was sent: otherwise it might
//! predate something that they know to have happened. So while one question is under way,
//! newcomers gather for the next one.

use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Shares questions among those who ask them.
pub struct Shared<T> {
    state: Mutex<SharedState<T>>,
}

struct SharedState<T> {
    asking: usize,
    gathered: Vec<oneshot::Sender<T>>,
}

/// Questions under way at once. More would shorten the wait a little and double what answering costs.
const IN_FLIGHT: usize = 1;

/// How often others get their turn before a question is sent. Each time the runtime also takes in what sockets have for
/// it, so that readers who were answered together ask together again. A reader on its own does not notice.
const GATHER: usize = 8;

impl<T: Clone + Send + 'static> Shared<T> {
    /// Nobody asks yet.
    pub fn new() -> Arc<Shared<T>> {
        Arc::new(Shared { state: Mutex::new(SharedState { asking: 0, gathered: Vec::new() }) })
    }

    /// Joins the next question, sent by `ask`. `None` when this process is about to end.
    pub async fn ask<F, Fut>(self: &Arc<Self>, ask: F) -> Option<T>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = T> + Send,
    {
        let (sender, receiver) = oneshot::channel();
        let start = {
            let mut state = self.state.lock();
            state.gathered.push(sender);
            let start = state.asking < IN_FLIGHT;
            state.asking += usize::from(start);
            start
        };
        if start {
            // Its owner is the question: it ends when nobody gathers any more, and every question
            // is bounded in time.
            let shared = self.clone();
            tokio::spawn(async move { shared.run(ask).await });
        }
        receiver.await.ok()
    }

    async fn run<F, Fut>(&self, ask: F)
    where
        F: Fn() -> Fut,
        Fut: Future<Output = T>,
    {
        loop {
            // Whoever is ready to ask may still join: fewer questions for the same number of readers.
            for _ in 0..GATHER {
                tokio::task::yield_now().await;
            }
            let gathered = {
                let mut state = self.state.lock();
                if state.gathered.is_empty() {
                    state.asking -= 1;
                    return;
                }
                std::mem::take(&mut state.gathered)
            };
            let answer = ask().await;
            for asker in gathered {
                let _ = asker.send(answer.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// Waits until it is so; a while, not for ever.
    async fn until(what: &str, so: impl Fn() -> bool) {
        let wait = async {
            while !so() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    #[tokio::test]
    async fn answers_only_those_who_came_before_the_question() {
        let shared = Shared::<usize>::new();
        let asked = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let ask = {
            let (asked, gate) = (asked.clone(), gate.clone());
            move || {
                let n = asked.fetch_add(1, Ordering::SeqCst);
                let gate = gate.clone();
                async move {
                    gate.acquire().await.unwrap().forget();
                    n
                }
            }
        };
        let mut early = Vec::new();
        for _ in 0..IN_FLIGHT {
            early.push(tokio::spawn({
                let (s, a) = (shared.clone(), ask.clone());
                async move { s.ask(a).await.unwrap() }
            }));
            until("asked", || asked.load(Ordering::SeqCst) >= early.len()).await;
        }
        let late: Vec<_> = (0..50)
            .map(|_| {
                let (s, a) = (shared.clone(), ask.clone());
                tokio::spawn(async move { s.ask(a).await.unwrap() })
            })
            .collect();
        until("all gathered", || shared.state.lock().gathered.len() >= 50).await;
        gate.add_permits(100);
        for l in late {
            assert_eq!(l.await.unwrap(), IN_FLIGHT, "one question for all late ones");
        }
        for e in early {
            assert!(e.await.unwrap() < IN_FLIGHT);
        }
    }
}

//! What the runtime has, read once for all who ask at the same time.
//!
//! A runtime goes through all its containers for every list, whatever its filter. When many pods begin or end together
//! their workers therefore share lists; nobody is given one that was begun before they asked.

use std::sync::Arc;

use cri::v1;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;

use crate::labels;

/// All sandboxes and containers, at one moment.
#[derive(Debug, Default)]
pub struct Listing {
    pub sandboxes: Vec<v1::PodSandbox>,
    pub containers: Vec<v1::Container>,
}

impl Listing {
    /// The sandboxes of a pod.
    pub fn sandboxes_of(&self, uid: &str) -> impl Iterator<Item = &v1::PodSandbox> {
        self.sandboxes.iter().filter(move |s| s.metadata.as_ref().is_some_and(|m| m.uid == uid))
    }

    /// The containers of a pod.
    pub fn containers_of(&self, uid: &str) -> impl Iterator<Item = &v1::Container> {
        self.containers.iter().filter(move |c| c.labels.get(labels::POD_UID).is_some_and(|u| u == uid))
    }
}

/// An answer that several wait for.
type Answer<T> = Shared<BoxFuture<'static, T>>;

/// Asks for one thing at a time. It lives as long as somebody waits for it.
pub struct Lister<T: Clone = cri::Result<Arc<Listing>>> {
    ask: Box<dyn Fn() -> BoxFuture<'static, T> + Send + Sync>,
    turn: Arc<Mutex<Turn<T>>>,
}

struct Turn<T: Clone> {
    /// Already asked: it may be older than who comes now.
    under_way: Option<WeakShared<BoxFuture<'static, T>>>,
    /// Not asked yet.
    next: Option<WeakShared<BoxFuture<'static, T>>>,
}

impl Lister {
    /// Lists what `runtime` has.
    pub fn new(runtime: cri::Runtime) -> Self {
        Self::of(move || list(runtime.clone()).boxed())
    }
}

async fn list(runtime: cri::Runtime) -> cri::Result<Arc<Listing>> {
    let (sandboxes, containers) =
        tokio::try_join!(runtime.list_pod_sandbox(None), runtime.list_containers(None))?;
    Ok(Arc::new(Listing { sandboxes, containers }))
}

impl<T: Clone + Send + Sync + 'static> Lister<T> {
    fn of(ask: impl Fn() -> BoxFuture<'static, T> + Send + Sync + 'static) -> Self {
        let turn = Turn { under_way: None, next: None };
        Self { ask: Box::new(ask), turn: Arc::new(Mutex::new(turn)) }
    }

    /// What there is now.
    pub async fn fresh(&self) -> T {
        self.join().await
    }

    fn join(&self) -> Answer<T> {
        let mut turn = self.turn.lock();
        if let Some(next) = turn.next.as_ref().and_then(WeakShared::upgrade) {
            return next;
        }
        let before = turn.under_way.as_ref().and_then(WeakShared::upgrade);
        let (asked, held) = ((self.ask)(), self.turn.clone());
        let answer = async move {
            if let Some(before) = before {
                before.await;
            }
            {
                let mut turn = held.lock();
                turn.under_way = turn.next.take();
            }
            asked.await
        };
        let answer = answer.boxed().shared();
        turn.next = answer.downgrade();
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    /// A lister whose answers are numbers, each given when the semaphore lets it.
    fn lister() -> (Arc<Lister<u32>>, Arc<Semaphore>, Arc<AtomicU32>) {
        let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::<AtomicU32>::default());
        let (g, b) = (gate.clone(), begun.clone());
        let ask = move || {
            let (gate, begun) = (g.clone(), b.clone());
            async move {
                let number = begun.fetch_add(1, Ordering::SeqCst) + 1;
                gate.acquire().await.unwrap().forget();
                number
            }
            .boxed()
        };
        (Arc::new(Lister::of(ask)), gate, begun)
    }

    #[tokio::test]
    async fn who_asks_meanwhile_shares_the_next_answer() {
        let (lister, gate, begun) = lister();
        let first = lister.join();
        assert_eq!(first.clone().now_or_never(), None);
        let later: Vec<_> = (0..10).map(|_| lister.join()).collect();
        gate.add_permits(2);
        assert_eq!(first.await, 1);
        for answer in later {
            assert_eq!(answer.await, 2);
        }
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn an_answer_serves_only_those_who_asked_before_it_was_begun() {
        let (lister, gate, _) = lister();
        gate.add_permits(3);
        for number in 1..=3 {
            assert_eq!(lister.fresh().await, number);
        }
    }

    #[tokio::test]
    async fn who_gives_up_holds_nobody_back() {
        let (lister, gate, begun) = lister();
        let given_up = lister.join();
        assert_eq!(given_up.clone().now_or_never(), None);
        let next = lister.join();
        drop(given_up);
        gate.add_permits(2);
        assert_eq!(next.await, 2);
        assert_eq!(lister.join().now_or_never(), None);
        assert_eq!(begun.load(Ordering::SeqCst), 3);
    }
}

//! The queue's promises under tokio's paused clock.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_key_is_worked_on_once_and_never_twice_at_a_time() {
    let queue = WorkQueue::new("t1");
    queue.add("a");
    queue.add("a");
    let guard = queue.get().await.unwrap();
    queue.add("a");
    assert!(tokio::time::timeout(Duration::from_secs(1), queue.get()).await.is_err(), "a is being worked on");
    drop(guard);
    assert_eq!(**queue.get().await.as_ref().unwrap(), "a");
    assert!(tokio::time::timeout(Duration::from_secs(1), queue.get()).await.is_err(), "a was queued once");
}

#[tokio::test(start_paused = true)]
async fn delays_are_kept_and_the_earliest_wins() {
    let queue = WorkQueue::new("t2");
    let begin = Instant::now();
    queue.add_after("late", Duration::from_secs(60));
    queue.add_after("soon", Duration::from_secs(30));
    queue.add_after("soon", Duration::from_secs(10));
    queue.add_after("soon", Duration::from_secs(50));
    let soon = queue.get().await.unwrap();
    assert_eq!((*soon, begin.elapsed().as_secs()), ("soon", 10));
    drop(soon);
    assert_eq!(*queue.get().await.unwrap(), "late");
    assert!(begin.elapsed().as_secs() >= 60 && queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn failures_double_the_delay_until_forgotten() {
    let queue = WorkQueue::new("t3");
    let mut waits = Vec::new();
    for _ in 0..4 {
        let begin = Instant::now();
        queue.add_rate_limited("a");
        drop(queue.get().await.unwrap());
        waits.push(begin.elapsed().as_millis());
    }
    assert!(waits.windows(2).all(|w| w[1] >= w[0] * 2 - 2), "{waits:?}");
    assert_eq!(queue.failures(&"a"), 4);
    queue.forget(&"a");
    assert_eq!(queue.failures(&"a"), 0);
}

#[tokio::test(start_paused = true)]
async fn workers_retry_and_end() {
    let queue: WorkQueue<String> = WorkQueue::new("t4");
    let shutdown = CancellationToken::new();
    let count = Arc::new(std::sync::atomic::AtomicU32::new(0));
    queue.add("a".into());
    let (seen, stop) = (count.clone(), shutdown.clone());
    let work = queue.work(3, shutdown, move |_| {
        let (seen, stop) = (seen.clone(), stop.clone());
        async move {
            if seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 2 {
                stop.cancel();
                return Ok(());
            }
            anyhow::bail!("not yet")
        }
    });
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("ends");
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 3);
    assert!(queue.get().await.is_none());
}

//! Watches: a state or a point in history to begin with, then the live changes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;

use crate::sorted::Walk;
use crate::{Error, Event, IndexHint, Predicate, ReadVersion, Result, WatchOptions, WatchStart};

use super::Resource;
use super::cache::Change;
use super::fanout::{Mailbox, Scope};
use super::read::{Source, intact};

impl Resource {
    /// Watches what lies below `key_prefix`; a `key_prefix` without a slash at its end is one key.
    pub async fn watch(self: &Arc<Self>, key_prefix: &str, options: WatchOptions) -> Result<Watcher> {
        let scope = self.scope(key_prefix, &options.index, &options.predicate);
        self.mend().await;
        match options.start {
            WatchStart::State(version) => {
                if self.fresh(version).await? == Source::Etcd {
                    return Err(Error::Timeout("the watch cache does not catch up with etcd".to_owned()));
                }
            }
            WatchStart::After(revision) => {
                self.fresh(ReadVersion::NotOlderThan(revision)).await?;
            }
        }
        self.join(scope, &options)
    }

    /// Under one lock: what has been, and the place in the queue for what comes.
    fn join(self: &Arc<Self>, scope: Scope, options: &WatchOptions) -> Result<Watcher> {
        let config = &self.cluster.config;
        let mailbox = Arc::new(Mailbox::new(config.watcher_buffer));
        let bookmark = options.bookmarks.then_some(config.bookmark_interval);
        let applied = self.cluster.progress.applied();
        let cache = self.cache.read();
        if !self.ready() || self.closed.is_cancelled() {
            return Err(Error::NotReady);
        }
        let (mut initial, mut replay, mut end_bookmark) = (None, VecDeque::new(), None);
        let mut floor = cache.last;
        match options.start {
            WatchStart::State(_) => {
                if options.initial {
                    initial = Some(Walk::new(cache.objects().clone(), &scope.prefix));
                }
                end_bookmark = options.initial_end_bookmark.then(|| applied.max(cache.last));
            }
            WatchStart::After(revision) if revision < cache.floor => {
                return Err(Error::too_old(revision, cache.floor));
            }
            WatchStart::After(revision) => {
                replay.extend(cache.since(revision).filter(|c| scope.covers(c.key())).cloned());
                floor = floor.max(revision);
            }
        }
        let id = self.fanout.lock().join(&scope, mailbox.clone(), floor, bookmark);
        drop(cache);
        let queue = VecDeque::new();
        Ok(Watcher {
            resource: self.clone(),
            scope,
            id,
            mailbox,
            initial,
            end_bookmark,
            replay,
            queue,
            ended: false,
        })
    }

    /// How many watchers there are.
    pub fn watchers(&self) -> usize {
        self.fanout.lock().len()
    }

    pub(super) fn scope(
        &self,
        prefix: &str,
        hint: &Option<IndexHint>,
        predicate: &Option<Arc<Predicate>>,
    ) -> Scope {
        let (mut index, mut field) = (None, None);
        if let Some(IndexHint { field: name, value }) = hint {
            match self.index_of(name) {
                Some(i) if !value.is_empty() => index = Some((i, value.as_str().into())),
                _ => field = Some((name.as_str().into(), value.as_str().into())),
            }
        }
        Scope { prefix: prefix.into(), index, field, predicate: predicate.clone() }
    }
}

/// A running watch. Dropping it ends it. Also a [`futures::Stream`].
///
/// It ends after an [`Event::Error`]; without one when its mailbox overflowed or the store shuts
/// down: then watching again from the last revision seen may still work.
pub struct Watcher {
    resource: Arc<Resource>,
    scope: Scope,
    id: u64,
    mailbox: Arc<Mailbox>,
    initial: Option<Walk>,
    end_bookmark: Option<i64>,
    replay: VecDeque<Arc<Change>>,
    queue: VecDeque<Event>,
    ended: bool,
}

impl Watcher {
    /// The next event; `None` when the watch is over.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// The next event if there is one already: lets a server send what is due in one write.
    pub fn try_next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = self.at_hand().or_else(|| {
            self.mailbox.take(&mut self.queue);
            self.queue.pop_front()
        })?;
        Some(self.checked(event))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if let Some(event) = self.try_next() {
            return Poll::Ready(Some(event));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        self.mailbox.waker.register(cx.waker());
        // Again, now that whoever fills the mailbox will wake us.
        let closed = self.mailbox.take(&mut self.queue);
        match self.queue.pop_front() {
            Some(event) => Poll::Ready(Some(self.checked(event))),
            None if closed => {
                self.ended = true;
                Poll::Ready(None)
            }
            None => Poll::Pending,
        }
    }

    /// The initial state and the replayed history are filtered as they are read.
    fn at_hand(&mut self) -> Option<Event> {
        let fields = &self.resource.spec.indexed_fields;
        if let Some(walk) = &mut self.initial {
            for object in walk.by_ref() {
                if !object.key.starts_with(&*self.scope.prefix) {
                    break;
                }
                if self.scope.covers(&object.key) && self.scope.selects(&object, fields) {
                    return Some(Event::Added(object));
                }
            }
            self.initial = None;
        }
        if let Some(revision) = self.end_bookmark.take() {
            return Some(Event::Bookmark { revision, initial_events_end: true });
        }
        while let Some(change) = self.replay.pop_front() {
            if let Some(event) = self.scope.event(&change, fields) {
                return Some(event);
            }
        }
        self.queue.pop_front()
    }

    /// An object that cannot be read ends the watch, as it fails a list.
    fn checked(&mut self, event: Event) -> Event {
        let event = match event {
            Event::Added(o) => intact(o).map(Event::Added),
            Event::Modified(o) => intact(o).map(Event::Modified),
            other => Ok(other),
        };
        let event = event.unwrap_or_else(Event::Error);
        self.ended |= matches!(event, Event::Error(_));
        event
    }
}

impl Stream for Watcher {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.poll(cx)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.resource.fanout.lock().leave(&self.scope, self.id);
    }
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher").field("prefix", &self.scope.prefix).finish_non_exhaustive()
    }
}

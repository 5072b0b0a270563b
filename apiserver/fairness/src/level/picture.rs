//! What operators are shown of a level and its requests.

use super::{Counts, Flow, Level};
use crate::schema::Digest;

/// A request as it is shown.
#[derive(Clone, Debug)]
pub struct Shown {
    pub schema: String,
    pub distinguisher: String,
    pub arrived: jiff::Timestamp,
    pub started: Option<jiff::Timestamp>,
    pub seats: usize,
    /// User, verb, path, namespace, name, API version, resource, subresource.
    pub details: [String; 8],
}

/// A level as it is at one moment.
pub(crate) struct Picture {
    pub counts: Counts,
    pub waiting: usize,
    pub executing: usize,
    /// Each queue's state and its requests: those that wait, with their places, then those that are worked on.
    pub queues: Vec<PictureOfQueue>,
    pub queueless: Vec<Shown>,
}

pub(crate) struct PictureOfQueue {
    pub waiting: Vec<Shown>,
    pub executing: Vec<Shown>,
    pub seats_in_use: usize,
    pub next: f64,
}

pub(super) fn shown(flow: &Flow<'_>, digest: &Digest<'_>, seats: usize) -> Shown {
    let version = match digest.group {
        "" => digest.version.to_owned(),
        group => format!("{group}/{}", digest.version),
    };
    let own = |t: &str| t.to_owned();
    Shown {
        schema: flow.schema.name.clone(),
        distinguisher: own(flow.distinguisher),
        arrived: jiff::Timestamp::now(),
        started: None,
        seats,
        details: [
            own(digest.user),
            own(digest.verb),
            own(digest.path),
            own(digest.namespace),
            own(digest.name),
            version,
            own(digest.resource),
            own(digest.subresource),
        ],
    }
}

impl Level {
    pub(crate) fn picture(&self) -> Picture {
        let state = self.state.lock();
        let of = |i: Option<usize>| {
            state.executing.values().filter(|e| e.queue == i).map(|e| e.shown.clone()).collect::<Vec<_>>()
        };
        let queues = state.queues.iter().enumerate().map(|(i, q)| PictureOfQueue {
            waiting: q.waiting.iter().map(|w| w.shown.clone()).collect(),
            executing: if q.executing > 0 { of(Some(i)) } else { Vec::new() },
            seats_in_use: q.seats_in_use,
            next: q.next,
        });
        Picture {
            counts: state.counts,
            waiting: state.waiting,
            executing: state.executing.len(),
            queues: queues.collect(),
            queueless: of(None),
        }
    }
}

//! The queues of a level, and which of them a flow is dealt.

use super::Ticket;
use super::picture::Shown;
use crate::metrics::Handles;
use sha2::{Digest as _, Sha256};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// A request that waits for its turn.
pub(super) struct Waiting {
    pub(super) id: u64,
    pub(super) seats: usize,
    pub(super) since: Instant,
    pub(super) handles: Arc<Handles>,
    pub(super) shown: Shown,
    pub(super) turn: oneshot::Sender<Ticket>,
}

/// A queue of requests, and what is worked on of it.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) executing: usize,
    pub(super) seats_in_use: usize,
    /// When its next request starts, in virtual seconds.
    pub(super) next: f64,
}

impl Queue {
    pub(super) fn is_active(&self) -> bool {
        self.executing > 0 || !self.waiting.is_empty()
    }

    pub(super) fn waiting_seats(&self) -> usize {
        self.waiting.iter().map(|w| w.seats).sum()
    }
}

pub(super) fn flow_hash(level: &str, schema: &str, distinguisher: &str) -> u64 {
    let mut hash = Sha256::new();
    for text in [level, schema, distinguisher] {
        hash.update(text.as_bytes());
        hash.update([0]);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hash.finalize()[..8]);
    u64::from_le_bytes(first)
}

/// A hand of different cards out of a deck.
pub(super) fn hand(mut hash: u64, deck: usize, size: usize) -> Vec<usize> {
    let mut out: Vec<usize> = Vec::with_capacity(size);
    for dealt in 0..size.min(deck) {
        let left = (deck - dealt) as u64;
        let mut card = usize::try_from(hash % left).unwrap_or(0);
        hash /= left;
        // The cards that are gone are counted over.
        let mut gone = out.clone();
        gone.sort_unstable();
        for g in gone {
            if card >= g {
                card += 1;
            }
        }
        out.push(card);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_have_different_cards() {
        for hash in [0, 1, 7, 12_345_678_901, u64::MAX] {
            let mut dealt = hand(hash, 8, 8);
            dealt.sort_unstable();
            assert_eq!(dealt, (0..8).collect::<Vec<_>>(), "{hash}");
        }
        assert_ne!(hand(flow_hash("l", "s", "a"), 128, 6), hand(flow_hash("l", "s", "b"), 128, 6));
    }
}

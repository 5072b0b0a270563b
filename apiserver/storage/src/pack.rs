//! Cached objects, packed: most of them are never looked at again, and most of what is in one is in
//! its neighbours too.
//!
//! Each resource keeps a dictionary of a few of its objects; what an object shares with them costs
//! next to nothing. Unpacking takes a few microseconds, so it is done again for every reader, and
//! nothing has to decide what to keep unpacked.

use std::sync::Arc;

use bytes::Bytes;
use lz4_flex::block::{compress_with_dict, decompress_with_dict};
use parking_lot::RwLock;

/// Smaller objects are left alone.
const LEAST: usize = 400;
/// A dictionary of more costs more time than it saves space.
const DICTIONARY: usize = 8 << 10;
/// Samples longer than this are cut.
const SAMPLE: usize = 4 << 10;
/// Objects that the dictionary must have failed before one of them is added to it.
const FAILURES: usize = 32;
/// Dictionaries that a resource may have had: objects keep the one that they were packed with.
const GENERATIONS: usize = 32;

/// The bytes of an object.
pub(crate) enum Packed {
    Plain(Bytes),
    Lz4 { data: Box<[u8]>, dictionary: Arc<[u8]>, len: u32 },
}

impl Packed {
    /// The bytes as they were.
    pub(crate) fn bytes(&self) -> Bytes {
        match self {
            Packed::Plain(bytes) => bytes.clone(),
            Packed::Lz4 { data, dictionary, len } => {
                match decompress_with_dict(data, *len as usize, dictionary) {
                    Ok(bytes) => bytes.into(),
                    Err(error) => {
                        tracing::error!(%error, "an object in memory is damaged");
                        Bytes::new()
                    }
                }
            }
        }
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Packed::Plain(bytes) => bytes.len(),
            Packed::Lz4 { len, .. } => *len as usize,
        }
    }

    /// What they weigh in memory.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Packed::Plain(bytes) => bytes.len(),
            Packed::Lz4 { data, .. } => data.len(),
        }
    }

    /// The same bytes; packed ones are copied, for they are small.
    pub(crate) fn duplicate(&self) -> Packed {
        match self {
            Packed::Plain(bytes) => Packed::Plain(bytes.clone()),
            Packed::Lz4 { data, dictionary, len } => {
                Packed::Lz4 { data: data.clone(), dictionary: dictionary.clone(), len: *len }
            }
        }
    }
}

/// Packs the objects of one resource.
#[derive(Default)]
pub(crate) struct Packer {
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    dictionary: Arc<[u8]>,
    generation: usize,
    failures: usize,
}

impl Packer {
    pub(crate) fn pack(&self, bytes: Bytes) -> Packed {
        let Ok(len) = u32::try_from(bytes.len()) else { return Packed::Plain(bytes) };
        if bytes.len() < LEAST {
            return Packed::Plain(bytes);
        }
        let dictionary = self.state.read().dictionary.clone();
        let data = compress_with_dict(&bytes, &dictionary);
        // An object like those of the dictionary shrinks to a fourth or less.
        if data.len() > bytes.len() / 2 && self.learn(&bytes, &dictionary) {
            return self.pack(bytes);
        }
        if data.len() > bytes.len() / 8 * 7 {
            return Packed::Plain(bytes);
        }
        Packed::Lz4 { data: data.into_boxed_slice(), dictionary, len }
    }

    /// Adds a sample that the dictionary has failed on, once it fails often. Answers whether it has.
    fn learn(&self, sample: &[u8], seen: &Arc<[u8]>) -> bool {
        let mut state = self.state.write();
        if !Arc::ptr_eq(&state.dictionary, seen) {
            return true;
        }
        state.failures += 1;
        let due = state.dictionary.is_empty() || state.failures >= FAILURES;
        if !due || state.generation >= GENERATIONS {
            return false;
        }
        state.failures = 0;
        state.generation += 1;
        let sample = &sample[..sample.len().min(SAMPLE)];
        // The newest stands last: what is nearest is found by the shortest way.
        let old = &state.dictionary;
        let kept = &old[old.len().saturating_sub(DICTIONARY - sample.len())..];
        state.dictionary = [kept, sample].concat().into();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut x = seed.wrapping_mul(2862933555777941757).wrapping_add(3037000493);
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn alike_objects_shrink_and_all_come_back() {
        let packer = Packer::default();
        let body = noise(1, 2000);
        let mut weight = 0;
        for i in 0..200u64 {
            let bytes = Bytes::from([&noise(100 + i, 40)[..], &body, &noise(900 + i, 40)].concat());
            let packed = packer.pack(bytes.clone());
            weight += packed.weight();
            assert_eq!((packed.bytes(), packed.len()), (bytes.clone(), bytes.len()));
            assert_eq!(packed.duplicate().bytes(), bytes);
        }
        assert!(weight < 200 * 200, "{weight}");
        let small = Bytes::from_static(b"small");
        assert!(matches!(packer.pack(small), Packed::Plain(_)));
    }

    #[test]
    fn what_cannot_be_packed_costs_a_bounded_number_of_dictionaries() {
        let packer = Packer::default();
        for i in 0..5000 {
            let bytes = Bytes::from(noise(i, 1000));
            assert_eq!(packer.pack(bytes.clone()).bytes(), bytes);
        }
        let state = packer.state.read();
        assert!(state.generation <= GENERATIONS && state.dictionary.len() <= DICTIONARY);
    }
}

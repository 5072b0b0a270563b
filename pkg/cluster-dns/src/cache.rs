//! Answers of others, for as long as they say but not for long, and not more than there is room for.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use parking_lot::Mutex;

/// No answer is kept for longer, so that changes elsewhere are seen soon.
const LONGEST: Duration = Duration::from_secs(30);

/// What was asked. The two flags change what a resolver answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    pub name: Name,
    pub kind: RecordType,
    pub dnssec_ok: bool,
    pub checking_disabled: bool,
}

struct Entry {
    /// As bytes, which take a fraction of the message's memory.
    bytes: Box<[u8]>,
    stored: Instant,
    expires: Instant,
}

/// The answers.
pub struct Cache {
    room: usize,
    entries: Mutex<HashMap<Question, Entry>>,
}

impl Cache {
    /// A cache of at most `room` answers.
    pub fn new(room: usize) -> Cache {
        Cache { room, entries: Mutex::default() }
    }

    /// An answer that is still good, its records' time reduced by its age.
    pub fn get(&self, question: &Question, now: Instant) -> Option<Message> {
        let entries = self.entries.lock();
        let entry = entries.get(question).filter(|e| now < e.expires)?;
        let mut message = Message::from_vec(&entry.bytes).ok()?;
        let age = u32::try_from(now.saturating_duration_since(entry.stored).as_secs()).unwrap_or(u32::MAX);
        drop(entries);
        let sections = [&mut message.answers, &mut message.authorities, &mut message.additionals];
        for record in sections.into_iter().flatten() {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(message)
    }

    /// Keeps an answer, if it may be kept.
    pub fn put(&self, question: Question, message: &Message, now: Instant) {
        let Some(time) = time_to_keep(message) else { return };
        let Ok(bytes) = message.to_vec() else { return };
        let entry = Entry { bytes: bytes.into(), stored: now, expires: now + time };
        let mut entries = self.entries.lock();
        if entries.len() >= self.room && !entries.contains_key(&question) {
            make_room(&mut entries, now);
        }
        entries.insert(question, entry);
    }
}

/// Drops what has expired, or else the one that expires first.
fn make_room(entries: &mut HashMap<Question, Entry>, now: Instant) {
    let before = entries.len();
    entries.retain(|_, e| now < e.expires);
    if entries.len() < before {
        return;
    }
    let next = entries.iter().min_by_key(|(_, e)| e.expires).map(|(q, _)| q.clone());
    if let Some(next) = next {
        entries.remove(&next);
    }
}

/// The shortest time of an answer's records; of an answer without any, the time that its SOA gives to absence.
fn time_to_keep(message: &Message) -> Option<Duration> {
    let known = matches!(message.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
    if !known || message.metadata.truncation {
        return None;
    }
    let seconds = match message.answers.iter().map(|r| r.ttl).min() {
        Some(least) if message.metadata.response_code == ResponseCode::NoError => least,
        _ => message.authorities.iter().find_map(|r| match &r.data {
            RData::SOA(soa) => Some(r.ttl.min(soa.minimum)),
            _ => None,
        })?,
    };
    Some(Duration::from_secs(u64::from(seconds)).min(LONGEST)).filter(|t| !t.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{MessageType, OpCode};
    use hickory_proto::rr::{Record, rdata::A};
    use std::net::Ipv4Addr;

    fn question(name: &str) -> Question {
        let name = Name::from_ascii(name).unwrap();
        Question { name, kind: RecordType::A, dnssec_ok: false, checking_disabled: false }
    }

    fn answer(ttl: u32) -> Message {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        let data = RData::A(A(Ipv4Addr::LOCALHOST));
        message.add_answer(Record::from_rdata(Name::from_ascii("a.test.").unwrap(), ttl, data));
        message
    }

    #[test]
    fn answers_age_and_end() {
        let (cache, now) = (Cache::new(8), Instant::now());
        let after = |s| now + Duration::from_secs(s);
        cache.put(question("a.test."), &answer(20), now);
        cache.put(question("long.test."), &answer(9999), now);
        cache.put(question("never.test."), &answer(0), now);
        assert_eq!(cache.get(&question("a.test."), after(5)).unwrap().answers[0].ttl, 15);
        assert!(cache.get(&question("a.test."), after(20)).is_none());
        assert!(cache.get(&question("long.test."), after(29)).is_some());
        assert!(cache.get(&question("long.test."), after(30)).is_none());
        assert!(cache.get(&question("never.test."), now).is_none());
        let mut failed = answer(20);
        failed.metadata.response_code = ResponseCode::ServFail;
        cache.put(question("failed.test."), &failed, now);
        assert!(cache.get(&question("failed.test."), now).is_none());
    }

    #[test]
    fn never_more_than_there_is_room_for() {
        let (cache, now) = (Cache::new(2), Instant::now());
        for (name, ttl) in [("a.test.", 20), ("b.test.", 10), ("c.test.", 15)] {
            cache.put(question(name), &answer(ttl), now);
        }
        let known = |name| cache.get(&question(name), now).is_some();
        assert_eq!([known("a.test."), known("b.test."), known("c.test.")], [true, false, true]);
    }
}

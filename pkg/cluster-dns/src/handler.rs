//! From a packet to its answer. What the records or the cache know is answered at once; the rest waits for others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use rand::seq::SliceRandom;

use crate::cache::Question;
use crate::follow::Shared;
use crate::forward::Forwarder;
use crate::message::{TCP_LIMIT, encode, format_error, reply_to, reply_with, udp_limit};
use crate::metrics::Metrics;
use crate::query::{Outcome, Zone, query};

/// Answers packets.
pub struct Handler {
    pub shared: Arc<Shared>,
    pub zone: Zone,
    pub forwarder: Forwarder,
    pub metrics: Metrics,
}

/// What a packet leads to.
pub enum Step {
    /// Nothing: it was no question.
    Ignore,
    Answer(Vec<u8>),
    /// Others have to be asked.
    Wait(Box<Waiting>),
}

/// A question that others have to be asked about.
pub struct Waiting {
    request: Message,
    tcp: bool,
    begin: Instant,
    question: Question,
    /// The alias that led out of our zone.
    link: Vec<Record>,
}

impl Handler {
    /// Reads a packet and answers it if that takes nobody else.
    pub fn begin(&self, packet: &[u8], from: SocketAddr, tcp: bool) -> Step {
        let begin = Instant::now();
        let Ok(request) = Message::from_vec(packet) else {
            return format_error(packet).map_or(Step::Ignore, Step::Answer);
        };
        if request.metadata.message_type == MessageType::Response {
            return Step::Ignore;
        }
        let [asked] = request.queries.as_slice() else {
            return self.answer(&request, reply_to(&request, ResponseCode::FormErr), tcp, begin, true);
        };
        let asked = asked.clone();
        self.metrics.request(tcp, from, asked.query_type);
        if let Some(code) = refusal(&request, &asked) {
            return self.answer(&request, reply_to(&request, code), tcp, begin, true);
        }
        self.look_up(request, asked, tcp, begin)
    }

    fn look_up(&self, request: Message, asked: Query, tcp: bool, begin: Instant) -> Step {
        let mut found = query(&self.shared.records.read(), &self.zone, &asked.name, asked.query_type);
        let outside = match &mut found.outcome {
            Outcome::Elsewhere => asked.name.to_lowercase(),
            // Until all objects are known, nobody can say what does not exist.
            Outcome::Missing | Outcome::Found if found.answers.is_empty() && !self.shared.synced() => {
                return self.answer(&request, reply_to(&request, ResponseCode::ServFail), tcp, begin, true);
            }
            Outcome::Alias(target) => std::mem::take(target).to_lowercase(),
            Outcome::Missing | Outcome::Found => {
                shuffle(&mut found.answers, &asked.name);
                return self.answer(&request, reply_with(&request, found), tcp, begin, true);
            }
        };
        if !request.metadata.recursion_desired && found.answers.is_empty() {
            return self.answer(&request, reply_to(&request, ResponseCode::Refused), tcp, begin, false);
        }
        let question = question(&request, outside, asked.query_type);
        let waiting = Waiting { request, tcp, begin, question, link: found.answers };
        match self.forwarder.cached(&waiting.question) {
            Some(answer) => Step::Answer(self.combine(waiting, Some(answer))),
            None => Step::Wait(Box::new(waiting)),
        }
    }

    /// Asks others and answers.
    pub async fn finish(&self, waiting: Waiting) -> Vec<u8> {
        let found = self.forwarder.ask(&waiting.question, waiting.tcp).await;
        self.combine(waiting, found)
    }

    /// Somebody else's answer as the answer to our client's question.
    fn combine(&self, waiting: Waiting, found: Option<Message>) -> Vec<u8> {
        let Waiting { request, tcp, begin, link, .. } = waiting;
        let own = !link.is_empty();
        let code = found.as_ref().map_or(ResponseCode::ServFail, |m| m.metadata.response_code);
        let mut reply = reply_to(&request, code);
        reply.metadata.authoritative = own;
        reply.answers = link;
        if let Some(found) = found {
            reply.metadata.truncation = found.metadata.truncation;
            reply.metadata.authentic_data = found.metadata.authentic_data && !own;
            reply.answers.extend(found.answers);
            reply.authorities = found.authorities;
            reply.additionals = found.additionals;
        }
        self.encode(&request, reply, tcp, begin, own)
    }

    fn answer(&self, request: &Message, reply: Message, tcp: bool, begin: Instant, own: bool) -> Step {
        Step::Answer(self.encode(request, reply, tcp, begin, own))
    }

    fn encode(&self, request: &Message, reply: Message, tcp: bool, begin: Instant, own: bool) -> Vec<u8> {
        let zone = &self.zone.text;
        self.metrics.response(reply.metadata.response_code, own, zone, begin.elapsed());
        encode(reply, if tcp { TCP_LIMIT } else { udp_limit(request) })
    }
}

/// Why a request is not looked at any further.
fn refusal(request: &Message, asked: &Query) -> Option<ResponseCode> {
    if request.edns.as_ref().is_some_and(|e| e.version() > 0) {
        return Some(ResponseCode::BADVERS);
    }
    if request.metadata.op_code != OpCode::Query {
        return Some(ResponseCode::NotImp);
    }
    let transfer = matches!(asked.query_type, RecordType::AXFR | RecordType::IXFR);
    (asked.query_class != DNSClass::IN || transfer).then_some(ResponseCode::Refused)
}

fn question(request: &Message, name: Name, kind: RecordType) -> Question {
    Question {
        name,
        kind,
        dnssec_ok: request.edns.as_ref().is_some_and(|e| e.flags().dnssec_ok),
        checking_disabled: request.metadata.checking_disabled,
    }
}

/// Clients take the first address: each gets them in another order. An alias stays before what it leads to.
fn shuffle(answers: &mut [Record], name: &Name) {
    let aliases =
        answers.iter().take_while(|r| r.record_type() == RecordType::CNAME && r.name == *name).count();
    answers[aliases..].shuffle(&mut rand::rng());
}

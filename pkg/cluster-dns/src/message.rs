//! Answers as messages: headers, EDNS, and what is left out where they are too long.

use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};

use crate::query::{Answer, Outcome};

/// What we tell others that we take by UDP: fits into any path's packets.
pub const UDP_PAYLOAD: u16 = 1232;
/// What a client takes that tells nothing.
const PLAIN_UDP: u16 = 512;
/// The byte of the header that says that a message is cut, and the bit.
const FLAGS: usize = 2;
const TRUNCATED: u8 = 0b10;
/// The longest message there is.
pub const TCP_LIMIT: usize = u16::MAX as usize;

/// An empty answer to a request; it has EDNS if the request has.
pub fn reply_to(request: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    reply.metadata.recursion_desired = request.metadata.recursion_desired;
    reply.metadata.checking_disabled = request.metadata.checking_disabled;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.queries.clone_from(&request.queries);
    reply.edns = request.edns.as_ref().map(|edns| {
        let mut own = Edns::new();
        own.set_max_payload(UDP_PAYLOAD);
        own.set_dnssec_ok(edns.flags().dnssec_ok);
        own.set_rcode_high(code.high());
        own
    });
    reply
}

/// An answer of the zone as a message.
pub fn reply_with(request: &Message, answer: Answer) -> Message {
    let code = match answer.outcome {
        Outcome::Missing => ResponseCode::NXDomain,
        _ => ResponseCode::NoError,
    };
    let mut reply = reply_to(request, code);
    reply.metadata.authoritative = true;
    reply.answers = answer.answers;
    reply.authorities = answer.authorities;
    reply.additionals = answer.additionals;
    reply
}

/// The answer to what cannot be read, if there is enough of it to answer at all.
pub fn format_error(packet: &[u8]) -> Option<Vec<u8>> {
    let [a, b, flags, ..] = *packet.first_chunk::<12>()?;
    // An answer is never answered: that could go on for ever.
    if flags & 0x80 != 0 {
        return None;
    }
    let id = u16::from_be_bytes([a, b]);
    Message::error_msg(id, OpCode::Query, ResponseCode::FormErr).to_vec().ok()
}

/// How long an answer by UDP may be.
pub fn udp_limit(request: &Message) -> usize {
    let payload = request.edns.as_ref().map_or(PLAIN_UDP, Edns::max_payload);
    usize::from(payload.clamp(PLAIN_UDP, 4096))
}

/// A message as bytes. If it is too long, it goes without additional records, and if that is not enough, with as many
/// answers as fit and the mark that there are more.
pub fn encode(mut message: Message, limit: usize) -> Vec<u8> {
    let more = std::mem::take(&mut message.metadata.truncation);
    if let Some(bytes) = fitting(&message, limit) {
        return marked(bytes, more);
    }
    message.additionals.clear();
    if let Some(bytes) = fitting(&message, limit) {
        return marked(bytes, more);
    }
    message.authorities.clear();
    match most_fitting(&mut message, limit) {
        Some(bytes) => marked(bytes, true),
        // A header and a question always fit; what cannot be written at all is a failure of ours.
        None => {
            let failed = Message::error_msg(message.metadata.id, OpCode::Query, ResponseCode::ServFail);
            failed.to_vec().unwrap_or_default()
        }
    }
}

/// The message with as many of its answers as fit.
fn most_fitting(message: &mut Message, limit: usize) -> Option<Vec<u8>> {
    let answers = std::mem::take(&mut message.answers);
    let mut best = None;
    let (mut least, mut above) = (0, answers.len() + 1);
    while least < above {
        let middle = (least + above) / 2;
        message.answers = answers[..middle].to_vec();
        match fitting(message, limit) {
            Some(bytes) => (best, least) = (Some(bytes), middle + 1),
            None => above = middle,
        }
    }
    best
}

fn fitting(message: &Message, limit: usize) -> Option<Vec<u8>> {
    let bytes = message.to_vec().ok()?;
    // The encoder leaves out, by itself, what is beyond the longest message, and says so in the header.
    let cut = bytes.get(FLAGS).is_some_and(|flags| flags & TRUNCATED != 0);
    (bytes.len() <= limit && !cut).then_some(bytes)
}

fn marked(mut bytes: Vec<u8>, more: bool) -> Vec<u8> {
    if let Some(flags) = bytes.get_mut(FLAGS).filter(|_| more) {
        *flags |= TRUNCATED;
    }
    bytes
}

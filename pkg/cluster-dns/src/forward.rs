//! Everything that is not the cluster's: asked of other resolvers, one after the other, until one answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::cache::{Cache, Question};
use crate::message::UDP_PAYLOAD;
use crate::metrics::Metrics;

/// How long a resolver has to answer, and how long we go on asking: clients give up after 5 seconds.
const ONE_TRY: Duration = Duration::from_secs(2);
const ALL_TRIES: Duration = Duration::from_millis(4800);
/// How long each has when none has answered lately: in a cluster without a way out, names fail soon.
const SHORT_TRY: Duration = Duration::from_millis(300);
/// So many failures in a row, and nobody expects an answer any more.
const HOPELESS: usize = 4;
/// Questions that wait for an answer at the same time; more are refused, as memory would not end.
const IN_FLIGHT: usize = 1000;
const CACHED: usize = 2048;

/// The resolvers that are asked.
pub struct Forwarder {
    upstreams: Vec<SocketAddr>,
    /// The one that answered last is asked first.
    preferred: AtomicUsize,
    /// Failures since the last answer of any of them.
    failures: AtomicUsize,
    in_flight: Semaphore,
    cache: Cache,
    metrics: Metrics,
}

impl Forwarder {
    /// Asks these resolvers.
    pub fn new(upstreams: Vec<SocketAddr>, metrics: Metrics) -> Forwarder {
        Forwarder {
            upstreams,
            preferred: AtomicUsize::new(0),
            failures: AtomicUsize::new(0),
            in_flight: Semaphore::new(IN_FLIGHT),
            cache: Cache::new(CACHED),
            metrics,
        }
    }

    /// An answer that was given not long ago.
    pub fn cached(&self, question: &Question) -> Option<Message> {
        let found = self.cache.get(question, Instant::now());
        self.metrics.cache(found.is_some());
        found
    }

    /// An answer of any resolver; a failing one's only if there is no better. `whole`: long answers are fetched by TCP.
    pub async fn ask(&self, question: &Question, whole: bool) -> Option<Message> {
        let Ok(_slot) = self.in_flight.try_acquire() else {
            tracing::warn!("Too many questions wait for resolvers");
            return None;
        };
        let mut worst = None;
        let begin = Instant::now();
        let first = self.preferred.load(Ordering::Relaxed);
        // A lost packet must not be the end where there is one resolver only.
        let tries = self.upstreams.len().max(2);
        for at in (first..first + tries).take_while(|_| !self.upstreams.is_empty()) {
            let at = at % self.upstreams.len();
            let Some(left) = ALL_TRIES.checked_sub(begin.elapsed()) else { break };
            let limit = left.min(self.one_try(tries));
            match timeout(limit, self.exchange(self.upstreams[at], question, whole)).await {
                Ok(Ok(answer)) if is_useful(&answer) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    self.cache.put(question.clone(), &answer, Instant::now());
                    return Some(answer);
                }
                Ok(Ok(answer)) => worst = Some(answer),
                Ok(Err(e)) => self.failed(at, &format!("{e:#}")),
                Err(_) => self.failed(at, "no answer in time"),
            }
        }
        worst
    }

    fn one_try(&self, tries: usize) -> Duration {
        let hopeless = self.failures.load(Ordering::Relaxed) >= HOPELESS.max(2 * tries);
        if hopeless { SHORT_TRY } else { ONE_TRY }
    }

    fn failed(&self, at: usize, reason: &str) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.metrics.forward_failed(&self.upstreams[at].to_string());
        tracing::debug!(resolver = %self.upstreams[at], reason, "A resolver failed");
    }

    async fn exchange(&self, to: SocketAddr, question: &Question, whole: bool) -> anyhow::Result<Message> {
        let begin = Instant::now();
        let request = request(question);
        let bytes = request.to_vec()?;
        let mut answer = by_udp(to, &bytes, &request).await?;
        if whole && answer.metadata.truncation {
            answer = by_tcp(to, &bytes, &request).await?;
        }
        self.failures.store(0, Ordering::Relaxed);
        let code = answer.metadata.response_code;
        self.metrics.forwarded(&to.to_string(), code, begin.elapsed());
        Ok(answer)
    }
}

fn is_useful(answer: &Message) -> bool {
    !matches!(
        answer.metadata.response_code,
        ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp | ResponseCode::FormErr
    )
}

fn request(question: &Question) -> Message {
    // Nobody who cannot see our packets may guess the id; the source port, new each time, is the other half.
    let mut request = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    request.metadata.recursion_desired = true;
    request.metadata.checking_disabled = question.checking_disabled;
    request.add_query(Query::query(question.name.clone(), question.kind));
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD);
    edns.set_dnssec_ok(question.dnssec_ok);
    request.edns = Some(edns);
    request
}

async fn by_udp(to: SocketAddr, bytes: &[u8], request: &Message) -> anyhow::Result<Message> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(to).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let n = socket.recv(&mut buffer).await?;
        // What does not fit the question may be forged, and the true answer may still come.
        if let Ok(answer) = Message::from_vec(&buffer[..n])
            && fits(&answer, request)
        {
            return Ok(answer);
        }
    }
}

async fn by_tcp(to: SocketAddr, bytes: &[u8], request: &Message) -> anyhow::Result<Message> {
    let mut stream = TcpStream::connect(to).await?;
    let length = u16::try_from(bytes.len()).context("the question is too long")?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer)?;
    if !fits(&answer, request) {
        bail!("the answer is to another question");
    }
    Ok(answer)
}

fn fits(answer: &Message, request: &Message) -> bool {
    let (a, q) = (&answer.metadata, &request.metadata);
    a.id == q.id && a.message_type == MessageType::Response && answer.queries == request.queries
}

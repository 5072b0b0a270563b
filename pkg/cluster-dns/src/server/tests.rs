use std::net::Ipv4Addr;
use std::sync::LazyLock;
use std::time::Instant;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::*;
use crate::follow::Shared;
use crate::forward::Forwarder;
use crate::metrics::Metrics;
use crate::query::tests::{cluster, zone};
use crate::records::{Endpoint, ServiceRecords};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const DEADLINE: Duration = Duration::from_secs(20);
static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::register);

/// A server on loopback that ends with the test.
struct Running {
    address: SocketAddr,
    shared: Arc<Shared>,
    _stop: tokio_util::sync::DropGuard,
}

async fn start(upstreams: Vec<SocketAddr>) -> Running {
    let shared = Arc::new(Shared::default());
    *shared.records.write() = cluster();
    let handler = Handler {
        shared: shared.clone(),
        zone: zone(),
        forwarder: Forwarder::new(upstreams, METRICS.clone()),
        metrics: METRICS.clone(),
    };
    let sockets = Sockets::bind(LOOPBACK).await.unwrap();
    let address = sockets.address().unwrap();
    let shutdown = CancellationToken::new();
    tokio::spawn(sockets.serve(Arc::new(handler), shutdown.clone()));
    Running { address, shared, _stop: shutdown.drop_guard() }
}

fn request(name: &str, kind: RecordType) -> Message {
    let mut request = Message::new(4711, MessageType::Query, OpCode::Query);
    request.metadata.recursion_desired = true;
    request.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    request
}

async fn by_udp(to: SocketAddr, request: &Message) -> (Message, usize) {
    let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
    socket.send_to(&request.to_vec().unwrap(), to).await.unwrap();
    let mut buffer = vec![0; 65536];
    let length = timeout(DEADLINE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    (Message::from_vec(&buffer[..length]).unwrap(), length)
}

async fn by_tcp(stream: &mut TcpStream, request: &Message) -> Message {
    let bytes = request.to_vec().unwrap();
    let length = u16::try_from(bytes.len()).unwrap();
    stream.write_all(&[&length.to_be_bytes(), &bytes[..]].concat()).await.unwrap();
    let mut buffer = Vec::new();
    assert!(timeout(DEADLINE, read(stream, &mut buffer)).await.unwrap().unwrap());
    Message::from_vec(&buffer).unwrap()
}

/// A Service with so many endpoints that its addresses are too many for a packet.
fn many(count: u16) -> ServiceRecords {
    let endpoint = |n: u16| {
        let [a, b] = n.to_be_bytes();
        Endpoint { ip: Ipv4Addr::new(10, 1, a, b).into(), ports: Arc::new([]) }
    };
    let endpoints = (0..count).map(|n| (format!("pod-{n}"), vec![endpoint(n)])).collect();
    ServiceRecords { endpoints, ..ServiceRecords::default() }
}

#[tokio::test]
async fn the_cluster_is_answered_by_udp_and_tcp() {
    let server = start(Vec::new()).await;
    server.shared.set_synced();
    let asked = request("plain.ns.svc.cluster.local.", RecordType::A);
    let (answer, _) = by_udp(server.address, &asked).await;
    assert_eq!(answer.metadata.id, 4711);
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    assert_eq!(answer.answers[0].data.to_string(), "10.96.0.7");
    assert!(answer.edns.is_none(), "who does not ask with EDNS does not get it");
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..2 {
        assert_eq!(by_tcp(&mut stream, &asked).await.answers.len(), 1);
    }
    let missing = request("x.ns.svc.cluster.local.", RecordType::A);
    let (answer, _) = by_udp(server.address, &missing).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(answer.authorities.len(), 1);
}

#[tokio::test]
async fn long_answers_are_cut_by_udp_and_whole_by_tcp() {
    let server = start(Vec::new()).await;
    server.shared.set_synced();
    server.shared.records.write().set("ns", "many", Some(many(300)));
    let mut asked = request("many.ns.svc.cluster.local.", RecordType::A);
    let (plain, length) = by_udp(server.address, &asked).await;
    assert!(plain.metadata.truncation && length <= 512 && plain.answers.len() > 20, "{length}");
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    asked.edns = Some(edns);
    let (more, length) = by_udp(server.address, &asked).await;
    assert!(more.metadata.truncation && length <= 1232 && more.answers.len() > plain.answers.len());
    assert!(more.edns.is_some());
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let whole = by_tcp(&mut stream, &asked).await;
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 300);
    // More than even a message by TCP can hold.
    server.shared.records.write().set("ns", "many", Some(many(6000)));
    let cut = by_tcp(&mut stream, &asked).await;
    assert!(
        cut.metadata.truncation && cut.answers.len() > 1500,
        "{} {}",
        cut.metadata.truncation,
        cut.answers.len()
    );
}

#[tokio::test]
async fn what_is_no_proper_question_is_refused() {
    let server = start(Vec::new()).await;
    server.shared.set_synced();
    let name = "plain.ns.svc.cluster.local.";
    let code = async |request: &Message| by_udp(server.address, request).await.0.metadata.response_code;
    let mut status = request(name, RecordType::A);
    status.metadata.op_code = OpCode::Status;
    assert_eq!(code(&status).await, ResponseCode::NotImp);
    let mut chaos = request(name, RecordType::A);
    chaos.queries[0].query_class = hickory_proto::rr::DNSClass::CH;
    assert_eq!(code(&chaos).await, ResponseCode::Refused);
    assert_eq!(code(&request("cluster.local.", RecordType::AXFR)).await, ResponseCode::Refused);
    let mut version = request(name, RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    version.edns = Some(edns);
    // The number has two names.
    assert_eq!(u16::from(code(&version).await), u16::from(ResponseCode::BADVERS));
    let mut two = request(name, RecordType::A);
    two.add_query(two.queries[0].clone());
    assert_eq!(code(&two).await, ResponseCode::FormErr);
    // An answer is not answered, garbage is: the first packet back is the second's.
    let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
    let mut response = request(name, RecordType::A);
    response.metadata.message_type = MessageType::Response;
    socket.send_to(&response.to_vec().unwrap(), server.address).await.unwrap();
    socket.send_to(&[9, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 255], server.address).await.unwrap();
    let mut buffer = [0; 512];
    let length = timeout(DEADLINE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!((answer.metadata.id, answer.metadata.response_code), (0x0909, ResponseCode::FormErr));
}

#[tokio::test]
async fn nothing_is_called_missing_before_all_is_known() {
    let server = start(Vec::new()).await;
    let missing = request("x.ns.svc.cluster.local.", RecordType::A);
    let code = async || by_udp(server.address, &missing).await.0.metadata.response_code;
    assert_eq!(code().await, ResponseCode::ServFail);
    server.shared.set_synced();
    assert_eq!(code().await, ResponseCode::NXDomain);
}

/// A resolver that answers everything with one address, and first with an answer to another question. Counts.
async fn resolver() -> (SocketAddr, Arc<std::sync::atomic::AtomicUsize>) {
    let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
    let (address, count) = (socket.local_addr().unwrap(), Arc::<std::sync::atomic::AtomicUsize>::default());
    let seen = count.clone();
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let mut answer = Message::from_vec(&buffer[..length]).unwrap().into_response();
            let name = answer.queries[0].name.clone();
            answer.add_answer(Record::from_rdata(name, 60, RData::A(A(Ipv4Addr::new(192, 0, 2, 1)))));
            let mut forged = answer.clone();
            forged.metadata.id = !forged.metadata.id;
            for message in [forged, answer] {
                socket.send_to(&message.to_vec().unwrap(), from).await.unwrap();
            }
        }
    });
    (address, count)
}

#[tokio::test]
async fn everything_else_is_forwarded_and_remembered() {
    let (upstream, count) = resolver().await;
    // The first one is silent: a socket that nobody reads.
    let silent = UdpSocket::bind(LOOPBACK).await.unwrap();
    let server = start(vec![silent.local_addr().unwrap(), upstream]).await;
    server.shared.set_synced();
    let asked = request("WWW.example.com.", RecordType::A);
    let (first, _) = by_udp(server.address, &asked).await;
    assert_eq!(first.metadata.id, 4711);
    assert_eq!(first.queries, asked.queries);
    assert!(!first.metadata.authoritative);
    assert_eq!(first.answers[0].data.to_string(), "192.0.2.1");
    let (again, _) = by_udp(server.address, &asked).await;
    assert_eq!(again.answers[0].data.to_string(), "192.0.2.1");
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 1, "the second answer is from the cache");
    let alias = request("out.ns.svc.cluster.local.", RecordType::A);
    let (answer, _) = by_udp(server.address, &alias).await;
    let data: Vec<String> = answer.answers.iter().map(|r| r.data.to_string()).collect();
    assert_eq!(data, ["www.example.com.", "192.0.2.1"]);
}

#[tokio::test]
async fn a_question_nobody_answers_fails() {
    let closed = UdpSocket::bind(LOOPBACK).await.unwrap().local_addr().unwrap();
    let server = start(vec![closed]).await;
    let begin = Instant::now();
    let (answer, _) = by_udp(server.address, &request("www.example.com.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(begin.elapsed() < DEADLINE);
}

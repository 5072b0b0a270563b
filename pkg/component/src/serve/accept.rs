//! The accept loop: connections in, requests to a service, a graceful end.
//!
//! A client that stalls costs one bounded slot for a bounded time: handshake, first bytes and request heads all have
//! deadlines, the number of connections is limited, and HTTP/2 has the limits that rapid-reset floods call for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::Flags;

/// Who is at the other end of a connection; every request carries it as an extension.
#[derive(Clone, Debug)]
pub struct ConnInfo {
    /// The peer's address.
    pub remote: SocketAddr,
    /// Our own address on this connection.
    pub local: Option<SocketAddr>,
    /// The client's certificate chain, leaf first; presented and proven, but verified against no authority yet.
    pub peer_certs: Arc<[CertificateDer<'static>]>,
    /// Whether the connection is TLS.
    pub secure: bool,
    /// Cancelled by a service that wants the client to connect anew; what is under way is finished first.
    pub goaway: CancellationToken,
}

impl ConnInfo {
    /// The peer's address without its port.
    pub fn remote_ip(&self) -> IpAddr {
        self.remote.ip().to_canonical()
    }
}

/// What a server spends on its clients at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; further ones wait in the kernel's queue.
    pub connections: usize,
    /// Time for a TLS handshake.
    pub handshake: Duration,
    /// Time for a request's head, also the time that an idle HTTP/1.1 connection is kept.
    pub header: Duration,
    /// Streams at a time of one HTTP/2 connection.
    pub streams: u32,
    /// Bytes of an HTTP/2 request's headers, and of HTTP/1.1's buffer.
    pub header_bytes: usize,
    /// Time for requests under way when the server ends.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 20_000,
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(90),
            streams: 250,
            header_bytes: 1 << 20,
            drain: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// The default limits with what the standard flags say (`--http2-max-streams-per-connection`).
    pub fn from_flags(flags: &Flags) -> Limits {
        const STREAMS: &str = "http2-max-streams-per-connection";
        let given = if flags.has(STREAMS) { flags.int(STREAMS) } else { 0 };
        let default = Limits::default();
        Limits { streams: u32::try_from(given).ok().filter(|n| *n > 0).unwrap_or(default.streams), ..default }
    }
}

/// How a port may be shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// Several processes may listen on it (`--permit-port-sharing`).
    pub port: bool,
    /// Listen although a wildcard of the same port does (`--permit-address-sharing`).
    pub address: bool,
}

/// Opens a listening port; the error says which and why.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    bind_shared(address, Sharing::default()).await
}

/// Opens a listening port that may be shared.
pub async fn bind_shared(address: SocketAddr, sharing: Sharing) -> anyhow::Result<TcpListener> {
    listen(address, sharing).with_context(|| {
        format!("failed to create listener: failed to listen on {address}: listen tcp {address}")
    })
}

fn listen(address: SocketAddr, sharing: Sharing) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // On Linux this only lets a server start again while old connections linger, which every server wants.
    socket.set_reuseaddr(true)?;
    if sharing.port || sharing.address {
        socket.set_reuseport(true)?;
    }
    socket.bind(address)?;
    socket.listen(1024)
}

/// Serves until shutdown, then waits for requests under way, at most `limits.drain`.
///
/// The service is cloned for each connection and again for each request.
pub async fn serve<S, B>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    service: S,
    limits: Limits,
    shutdown: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let slots = Arc::new(Semaphore::new(limits.connections));
    let tasks = TaskTracker::new();
    let abort = CancellationToken::new();
    loop {
        let Some((stream, remote, slot)) = next(&listener, &slots, &shutdown).await else { break };
        let (tls, service, shutdown) = (tls.clone(), service.clone(), shutdown.clone());
        let abort = abort.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = connection(stream, remote, tls, service, limits, shutdown) => {}
                () = abort.cancelled() => {}
            }
            drop(slot);
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(limits.drain, tasks.wait()).await.is_err() {
        abort.cancel();
        tasks.wait().await;
    }
}

type Accepted = (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

async fn next(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    shutdown: &CancellationToken,
) -> Option<Accepted> {
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return None,
            accepted = async {
                let slot = slots.clone().acquire_owned().await.ok()?;
                Some((listener.accept().await, slot))
            } => accepted?,
        };
        match accepted {
            (Ok((stream, remote)), slot) => return Some((stream, remote, slot)),
            (Err(error), _) => {
                // Out of descriptors, or a client that went away: let others finish before trying again.
                tracing::debug!(%error, "Accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection<S, B>(
    stream: TcpStream,
    remote: SocketAddr,
    tls: Option<TlsAcceptor>,
    service: S,
    limits: Limits,
    shutdown: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr().ok();
    let info = ConnInfo {
        remote,
        local,
        peer_certs: Arc::new([]),
        secure: tls.is_some(),
        goaway: CancellationToken::new(),
    };
    let Some(tls) = tls else {
        return http1(stream, info, service, limits, shutdown).await;
    };
    let stream = match tokio::time::timeout(limits.handshake, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%remote, %error, "TLS handshake error"),
        Err(_) => return tracing::debug!(%remote, "TLS handshake timed out"),
    };
    let (_, session) = stream.get_ref();
    let h2 = session.alpn_protocol() == Some(b"h2");
    let peer_certs =
        session.peer_certificates().unwrap_or_default().iter().map(|c| c.clone().into_owned()).collect();
    let info = ConnInfo { peer_certs, ..info };
    if h2 {
        http2(stream, info, service, limits, shutdown).await;
    } else {
        http1(stream, info, service, limits, shutdown).await;
    }
}

async fn http1<I, S, B>(io: I, info: ConnInfo, service: S, limits: Limits, shutdown: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(limits.header_bytes.max(8192));
    let service = WithInfo { service, info };
    let connection = builder.serve_connection(TokioIo::new(io), service).with_upgrades();
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::trace!(%error, "Connection ended");
    }
}

async fn http2<I, S, B>(io: I, info: ConnInfo, service: S, limits: Limits, shutdown: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(256 * 1024 * 4)
        // Finds clients that have vanished without a word; upstream does the same.
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(15));
    let io = FirstByte::new(io, limits.handshake);
    let goaway = info.goaway.clone();
    let connection = builder.serve_connection(TokioIo::new(io), WithInfo { service, info });
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = async { tokio::select! { () = shutdown.cancelled() => {}, () = goaway.cancelled() => {} } } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::trace!(%error, "Connection ended");
    }
}

/// Puts the connection's [`ConnInfo`] on every request.
#[derive(Clone)]
struct WithInfo<S> {
    service: S,
    info: ConnInfo,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for WithInfo<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = tower::util::Oneshot<S, Request<Incoming>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.info.clone());
        tower::ServiceExt::oneshot(self.service.clone(), request)
    }
}

/// An HTTP/2 preface that does not come in time ends the connection: hyper itself waits for it without limit.
struct FirstByte<I> {
    io: I,
    deadline: Option<std::pin::Pin<Box<tokio::time::Sleep>>>,
}

impl<I> FirstByte<I> {
    fn new(io: I, limit: Duration) -> FirstByte<I> {
        FirstByte { io, deadline: Some(Box::pin(tokio::time::sleep(limit))) }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for FirstByte<I> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        use std::task::Poll;
        let this = &mut *self;
        let polled = std::pin::Pin::new(&mut this.io).poll_read(cx, buf);
        if polled.is_ready() {
            this.deadline = None;
        } else if let Some(deadline) = &mut this.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for FirstByte<I> {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

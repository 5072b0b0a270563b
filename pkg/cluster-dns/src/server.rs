//! The sockets: UDP and TCP on the same address, until shutdown.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::handler::{Handler, Step};

/// Connections at the same time, and how long one may be idle or slow.
const CONNECTIONS: usize = 512;
const IDLE: Duration = Duration::from_secs(10);
/// Questions by UDP that wait for other resolvers.
const WAITING: usize = 2000;
/// After an error of a listening socket (out of files, say), before the next try.
const PAUSE: Duration = Duration::from_millis(20);

/// Both sockets of an address.
pub struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Opens both. With port 0 the kernel chooses one that is free for both.
    pub async fn bind(address: SocketAddr) -> anyhow::Result<Sockets> {
        let open = async || -> io::Result<Sockets> {
            let tcp = TcpListener::bind(address).await?;
            let udp = UdpSocket::bind(tcp.local_addr()?).await?;
            Ok(Sockets { udp, tcp })
        };
        open().await.with_context(|| format!("cannot listen on {address}"))
    }

    /// Where they listen.
    #[cfg(test)]
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Serves until shutdown.
    pub async fn serve(self, handler: Arc<Handler>, shutdown: CancellationToken) {
        let udp = serve_udp(Arc::new(self.udp), handler.clone());
        let tcp = serve_tcp(self.tcp, handler);
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = udp => {}
            () = tcp => {}
        }
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, handler: Arc<Handler>) {
    let mut buffer = vec![0; 4096];
    // Ends with this future: dropping the set ends its tasks.
    let mut waiting = JoinSet::new();
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            Some(_) = waiting.join_next() => continue,
        };
        let (length, from) = match received {
            Ok(received) => received,
            Err(e) => {
                tracing::warn!("Cannot receive: {e}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match handler.begin(&buffer[..length], from, false) {
            Step::Ignore => {}
            Step::Answer(bytes) => send(&socket, &bytes, from).await,
            // The client asks again; by then there may be room.
            Step::Wait(_) if waiting.len() >= WAITING => {}
            Step::Wait(question) => {
                let (socket, handler) = (socket.clone(), handler.clone());
                waiting.spawn(async move {
                    let bytes = handler.finish(*question).await;
                    send(&socket, &bytes, from).await;
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) {
    if let Err(e) = socket.send_to(bytes, to).await {
        tracing::debug!(%to, "Cannot send: {e}");
    }
}

async fn serve_tcp(listener: TcpListener, handler: Arc<Handler>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                tracing::warn!("Cannot accept: {e}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = room.clone().try_acquire_owned() else { continue };
        let handler = handler.clone();
        connections.spawn(async move {
            let _permit = permit;
            if let Err(e) = serve_connection(stream, from, &handler).await {
                tracing::debug!(%from, "Connection ended: {e}");
            }
        });
    }
}

/// Answers one question after the other until the client ends or is idle.
async fn serve_connection(mut stream: TcpStream, from: SocketAddr, handler: &Handler) -> io::Result<()> {
    let mut buffer = Vec::new();
    while timeout(IDLE, read(&mut stream, &mut buffer)).await?? {
        let bytes = match handler.begin(&buffer, from, true) {
            Step::Ignore => return Ok(()),
            Step::Answer(bytes) => bytes,
            Step::Wait(question) => handler.finish(*question).await,
        };
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        timeout(IDLE, stream.write_all(&[&length.to_be_bytes(), &bytes[..]].concat())).await??;
    }
    Ok(())
}

/// Reads one message; `false` at the connection's end.
async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(e) => return Err(e),
    };
    buffer.resize(usize::from(length), 0);
    stream.read_exact(buffer).await.map(|_| true)
}

#[cfg(test)]
mod tests;

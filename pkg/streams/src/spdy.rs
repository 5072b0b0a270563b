//! The client's half of SPDY/3.1, as far as container runtimes use it: streams with headers, data, half-close, reset,
//! ping. Peers of this use do no flow control, so neither does this: backpressure is that of the connection.

mod frame;

use crate::{Error, Result};
use bytes::Bytes;
use frame::Frame;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// Frames that may wait for the connection, and pieces that may wait for a reader.
const WAITING: usize = 32;
/// A larger piece of data is split.
const MAX_DATA: usize = 1 << 16;

struct Entry {
    data: Option<mpsc::Sender<Bytes>>,
    reply: Option<oneshot::Sender<Result<()>>>,
}

type Table = Arc<Mutex<HashMap<u32, Entry>>>;

/// A connection that streams can be opened on. Dropping it ends it with all its streams.
pub struct Connection {
    frames: mpsc::Sender<Frame>,
    table: Table,
    next_id: u32,
    _tasks: JoinSet<()>,
}

/// One stream: an independent flow of bytes in both directions.
pub struct Stream {
    id: u32,
    frames: mpsc::Sender<Frame>,
    data: mpsc::Receiver<Bytes>,
}

/// The writing half of a stream.
#[derive(Clone)]
pub struct Sender {
    id: u32,
    frames: mpsc::Sender<Frame>,
}

fn gone() -> Error {
    Error::Protocol("the SPDY connection has ended".into())
}

impl Connection {
    /// Speaks SPDY on a connection that has been upgraded.
    pub fn client<S>(io: S) -> Connection
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (mut reader, mut writer) = tokio::io::split(io);
        let (frames, mut outgoing) = mpsc::channel::<Frame>(WAITING);
        let table = Table::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut encoder = frame::Encoder::default();
            while let Some(f) = outgoing.recv().await {
                if writer.write_all(&encoder.encode(&f)).await.is_err() {
                    return;
                }
            }
            // The other side may have closed already.
            let _ = writer.shutdown().await;
        });
        let (known, pongs) = (table.clone(), frames.clone());
        tasks.spawn(async move {
            if let Err(e) = receive(&mut reader, &known, &pongs).await {
                tracing::debug!("SPDY connection: {e}");
            }
            // Readers see the end of their streams, openers an error.
            lock(&known).clear();
        });
        Connection { frames, table, next_id: 1, _tasks: tasks }
    }

    /// Opens a stream and waits until the other side has accepted it.
    pub async fn open(&mut self, headers: &[(&str, &str)]) -> Result<Stream> {
        let id = self.next_id;
        self.next_id += 2;
        let (data, receiver) = mpsc::channel(WAITING);
        let (reply, replied) = oneshot::channel();
        lock(&self.table).insert(id, Entry { data: Some(data), reply: Some(reply) });
        let headers = headers.iter().map(|(k, v)| (k.to_ascii_lowercase(), (*v).to_owned())).collect();
        self.frames.send(Frame::SynStream { id, headers }).await.map_err(|_| gone())?;
        replied.await.map_err(|_| gone())??;
        Ok(Stream { id, frames: self.frames.clone(), data: receiver })
    }
}

impl Stream {
    /// The next piece; `None` when the other side has finished or the stream is gone.
    pub async fn read(&mut self) -> Option<Bytes> {
        self.data.recv().await
    }

    /// The writing half and what is left for reading.
    pub fn split(self) -> (Sender, mpsc::Receiver<Bytes>) {
        (Sender { id: self.id, frames: self.frames }, self.data)
    }
}

impl Sender {
    pub async fn write(&self, mut data: Bytes) -> Result<()> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(MAX_DATA));
            self.send(Frame::Data { id: self.id, data: piece, fin: false }).await?;
        }
        Ok(())
    }

    /// Half-close: nothing more will be written.
    pub async fn finish(&self) -> Result<()> {
        self.send(Frame::Data { id: self.id, data: Bytes::new(), fin: true }).await
    }

    async fn send(&self, frame: Frame) -> Result<()> {
        self.frames.send(frame).await.map_err(|_| gone())
    }
}

fn lock(table: &Table) -> std::sync::MutexGuard<'_, HashMap<u32, Entry>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn receive<R>(reader: &mut R, table: &Table, frames: &mpsc::Sender<Frame>) -> Result<()>
where
    R: AsyncRead + Unpin,
{
    while let Some(f) = frame::read(reader).await? {
        match f {
            Frame::Data { id, data, fin } => {
                let sender = lock(table).get(&id).and_then(|e| e.data.clone());
                if let Some(sender) = sender.filter(|_| !data.is_empty()) {
                    // A reader that has gone wants no more.
                    let _ = sender.send(data).await;
                }
                if fin && let Some(e) = lock(table).get_mut(&id) {
                    e.data = None;
                }
            }
            Frame::SynReply { id, fin } => {
                if let Some(e) = lock(table).get_mut(&id) {
                    if let Some(reply) = e.reply.take() {
                        // The opener may have given up waiting.
                        let _ = reply.send(Ok(()));
                    }
                    if fin {
                        e.data = None;
                    }
                }
            }
            Frame::Reset { id, status } => {
                if let Some(e) = lock(table).remove(&id)
                    && let Some(reply) = e.reply
                {
                    let _ = reply
                        .send(Err(Error::Protocol(format!("the stream was refused with status {status}"))));
                }
            }
            // Pings of the client's own have odd numbers; only the peer's are answered.
            Frame::Ping { id } if id % 2 == 0 => {
                frames.send(Frame::Ping { id }).await.map_err(|_| gone())?;
            }
            Frame::GoAway => return Ok(()),
            Frame::Ping { .. } | Frame::SynStream { .. } | Frame::Other => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

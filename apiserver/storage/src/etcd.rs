//! The connection to one etcd cluster: bounded in time, and with errors in our own words.

use std::future::Future;
use std::time::Duration;

use etcd_client::{
    Client, ConnectOptions, GetOptions, GetResponse, KvClient, LeaseClient, MaintenanceClient, TlsOptions,
    Txn, TxnResponse, WatchClient,
};
use tonic::Code;

use crate::{Config, Error, Result, Tls};

/// Clients over two connections: one for the watch, one for questions and writes, so that a flood
/// of events does not stand in the way of an answer.
#[derive(Clone)]
pub(crate) struct Etcd {
    kv: KvClient,
    lease: LeaseClient,
    watch: WatchClient,
    maintenance: MaintenanceClient,
    timeout: Duration,
    /// How often a call is tried when members may be down: a dead member fails only its share.
    attempts: usize,
}

/// An error of a read or watch at some revision.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The revision has been compacted away.
    Compacted,
    /// The revision has not happened yet.
    Future,
    /// Anything else.
    Other(Error),
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Error {
        match fault {
            Fault::Compacted => Error::Expired {
                message: "The resourceVersion for the provided list is too old.".to_owned(),
                next: None,
            },
            Fault::Future => {
                Error::Internal("etcdserver: mvcc: required revision is a future revision".to_owned())
            }
            Fault::Other(e) => e,
        }
    }
}

impl Etcd {
    pub(crate) async fn connect(endpoints: &[String], config: &Config) -> Result<Etcd> {
        let options = options(endpoints, &config.tls).await?;
        let unary = client(endpoints, options.clone()).await?;
        // A member that has lost its leader must not keep us on a stream that stands still.
        let watch = client(endpoints, options.with_require_leader(true)).await?;
        Ok(Etcd {
            kv: unary.kv_client().max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX),
            lease: unary.lease_client(),
            maintenance: unary.maintenance_client(),
            watch: watch.watch_client().max_decoding_message_size(usize::MAX),
            timeout: config.request_timeout,
            attempts: if endpoints.len() > 1 { 3 * endpoints.len() } else { 1 },
        })
    }

    pub(crate) fn kv(&self) -> KvClient {
        self.kv.clone()
    }

    pub(crate) fn lease(&self) -> LeaseClient {
        self.lease.clone()
    }

    pub(crate) fn watch(&self) -> WatchClient {
        self.watch.clone()
    }

    /// Runs one call within the request timeout.
    pub(crate) async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Fault> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(e)) => Err(fault(e)),
            Err(_) => Err(Fault::Other(Error::Timeout("etcdserver: request timed out".to_owned()))),
        }
    }

    /// A read. It may be repeated freely, so another member is asked when one cannot answer.
    pub(crate) async fn get(&self, key: &str, options: Option<GetOptions>) -> Result<GetResponse, Fault> {
        let mut attempt = 1;
        loop {
            match self.call(self.kv().get(key, options.clone())).await {
                Err(Fault::Other(Error::Unavailable(_))) if attempt < self.attempts => attempt += 1,
                answer => return answer,
            }
        }
    }

    /// A transaction: sent once. Only one that found no connection is tried on another member.
    pub(crate) async fn txn(&self, txn: Txn) -> Result<TxnResponse, Fault> {
        let mut attempt = 1;
        loop {
            match self.call(self.kv().txn(txn.clone())).await {
                Err(Fault::Other(Error::Unavailable(text)))
                    if attempt < self.attempts && never_sent(&text) =>
                {
                    attempt += 1;
                }
                answer => return answer,
            }
        }
    }

    /// Bytes of the database of the member that answers.
    pub(crate) async fn size(&self) -> Result<i64> {
        let mut maintenance = self.maintenance.clone();
        Ok(self.call(maintenance.status()).await?.db_size())
    }

    /// The current revision, by a read that goes through etcd's leader.
    pub(crate) async fn revision(&self) -> Result<i64> {
        // Any single key will do; this one exists on most clusters and is tiny.
        let answer = self.get(crate::compact::KEY, None).await?;
        Ok(answer.header().map_or(0, |h| h.revision()))
    }
}

async fn client(endpoints: &[String], options: ConnectOptions) -> Result<Client> {
    Client::connect(endpoints, Some(options)).await.map_err(|e| Error::Internal(format!("etcd client: {e}")))
}

async fn options(endpoints: &[String], tls: &Tls) -> Result<ConnectOptions> {
    let mut options = ConnectOptions::new()
        .with_keep_alive(Duration::from_secs(30), Duration::from_secs(10))
        .with_keep_alive_while_idle(true)
        .with_connect_timeout(Duration::from_secs(3))
        .with_tcp_keepalive(Duration::from_secs(30));
    if endpoints.iter().any(|e| e.starts_with("https://")) {
        let mut with = TlsOptions::new();
        if let Some(path) = &tls.ca_file {
            with = with.ca_certificate(etcd_client::Certificate::from_pem(read(path).await?));
        }
        if let (Some(cert), Some(key)) = (&tls.cert_file, &tls.key_file) {
            with = with.identity(etcd_client::Identity::from_pem(read(cert).await?, read(key).await?));
        }
        options = options.with_tls(with);
    }
    Ok(options)
}

async fn read(path: &std::path::Path) -> Result<Vec<u8>> {
    tokio::fs::read(path).await.map_err(|e| Error::Internal(format!("{}: {e}", path.display())))
}

/// Sorts an error of the client library.
pub(crate) fn fault(e: etcd_client::Error) -> Fault {
    let etcd_client::Error::GRpcStatus(status) = e else {
        return Fault::Other(Error::Unavailable(format!("etcd: {e}")));
    };
    let text = status.message();
    match status.code() {
        Code::OutOfRange if text.contains("compacted") => Fault::Compacted,
        Code::OutOfRange if text.contains("future") => Fault::Future,
        Code::InvalidArgument if text.contains("request is too large") => Fault::Other(Error::TooLarge),
        // Beyond twice etcd's limit it is gRPC that refuses.
        Code::ResourceExhausted if text.contains("message larger than max") => Fault::Other(Error::TooLarge),
        Code::DeadlineExceeded | Code::Cancelled => Fault::Other(Error::Timeout(text.to_owned())),
        // Without a connection tonic says Unknown or Unavailable and keeps the reason as source.
        Code::Unavailable | Code::Unknown | Code::Aborted | Code::ResourceExhausted => {
            Fault::Other(Error::Unavailable(describe(&status)))
        }
        _ => Fault::Other(Error::Internal(describe(&status))),
    }
}

/// Whether the error says that no connection could be made.
fn never_sent(text: &str) -> bool {
    ["error trying to connect", "tcp connect error", "Connection refused"].iter().any(|t| text.contains(t))
}

pub(crate) fn describe(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(e) = source {
        let next = e.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        source = e.source();
    }
    text
}

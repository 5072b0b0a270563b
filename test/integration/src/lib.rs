//! One real kube-apiserver over one real etcd, in a temporary folder, for one test. Both end with the value.
//!
//! Other binaries can take their places: `KUBE_APISERVER` is the server under test, `BINNACLE_PEER_APISERVER` the one
//! that stands beside it on the same etcd, `BINNACLE_ETCD` the etcd.

pub mod extension;
mod raw;

pub use raw::{Raw, Said};

use anyhow::{Context, Result, bail};
use http::{Method, Request};
use http_body_util::BodyExt;
use kube::client::Body;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long anything may take on a slow machine.
pub const LIMIT: Duration = Duration::from_secs(60);
/// The user who may do everything.
pub const ADMIN: &str = "admin-token";
/// A user without any rights.
pub const NOBODY: &str = "nobody-token";

/// A process that ends with its owner.
struct Process(Child);

impl Process {
    fn start(command: &mut Command, log: &Path) -> Result<Process> {
        let log = File::options().create(true).append(true).open(log)?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        child.map(Process).with_context(|| format!("cannot start {:?}", command.get_program()))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.0.id() as i32), signal)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An apiserver and its etcd.
pub struct Server {
    dir: Arc<tempfile::TempDir>,
    /// None also for a server that stands beside the one that owns it.
    etcd: Option<Process>,
    apiserver: Option<Process>,
    binary: PathBuf,
    /// What tells files of servers in one folder apart.
    name: &'static str,
    etcd_ports: (u16, u16),
    port: u16,
    flags: Vec<String>,
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The binary that was built beside this test.
fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("KUBE_APISERVER") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    let found = own.ancestors().map(|d| d.join("kube-apiserver")).find(|p| p.is_file());
    found.context("kube-apiserver is not built (cargo build -p kube-apiserver)")
}

impl Server {
    /// Starts both and waits until the apiserver is ready.
    pub async fn start() -> Result<Server> {
        Self::start_with(&[]).await
    }

    /// As [`Server::start`], with more flags.
    pub async fn start_with(flags: &[&str]) -> Result<Server> {
        let dir = Arc::new(tempfile::tempdir()?);
        let keys = pki::service_account_keys()?;
        std::fs::write(dir.path().join("sa.key"), keys.private_pem)?;
        std::fs::write(dir.path().join("sa.pub"), keys.public_pem)?;
        let tokens = format!("{ADMIN},admin,1,\"system:masters\"\n{NOBODY},nobody,2\n");
        std::fs::write(dir.path().join("tokens.csv"), tokens)?;
        let etcd_ports = (free_port()?, free_port()?);
        let authority = pki::Ca::new("clients")?;
        std::fs::write(dir.path().join("clients.crt"), authority.cert_pem())?;
        std::fs::write(dir.path().join("clients.key"), authority.key_pem())?;
        let flags = flags.iter().map(|f| (*f).to_owned()).collect();
        let (binary, port) = (binary()?, free_port()?);
        let (etcd, apiserver, name) = (None, None, "apiserver");
        let mut server = Server { dir, etcd, apiserver, binary, name, etcd_ports, port, flags };
        server.start_etcd()?;
        server.start_apiserver()?;
        server.ready().await?;
        Ok(server)
    }

    /// A second server with the same flags on the same etcd, which must not end before this value.
    pub async fn beside(&self) -> Result<Server> {
        let peer = std::env::var_os("BINNACLE_PEER_APISERVER").map(PathBuf::from);
        let mut server = Server {
            dir: self.dir.clone(),
            etcd: None,
            apiserver: None,
            binary: peer.unwrap_or_else(|| self.binary.clone()),
            name: "peer",
            etcd_ports: self.etcd_ports,
            port: free_port()?,
            flags: self.flags.clone(),
        };
        server.start_apiserver()?;
        server.ready().await?;
        Ok(server)
    }

    /// The process of the apiserver.
    pub fn pid(&self) -> Option<u32> {
        self.apiserver.as_ref().map(|p| p.0.id())
    }

    /// What etcd says of itself (`/metrics`).
    pub async fn etcd_metrics(&self) -> Result<String> {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.etcd_ports.0)).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    /// Where etcd listens.
    pub fn etcd_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.etcd_ports.0)
    }

    pub fn start_etcd(&mut self) -> Result<()> {
        let (client, peer) = self.etcd_ports;
        let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let binary = std::env::var_os("BINNACLE_ETCD").unwrap_or_else(|| "etcd".into());
        let mut command = Command::new(binary);
        command.arg("--data-dir").arg(self.dir.path().join("etcd"));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}"), "--log-level", "error"]);
        self.etcd = Some(Process::start(&mut command, &self.dir.path().join("etcd.log"))?);
        Ok(())
    }

    /// The command line of a server that runs alone.
    pub fn start_apiserver(&mut self) -> Result<()> {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let mut command = Command::new(&self.binary);
        let usual = [
            format!("--etcd-servers={}", self.etcd_url()),
            format!("--cert-dir={}", file(&format!("{}-certs", self.name))),
            format!("--secure-port={}", self.port),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", file("sa.pub")),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/16".to_owned(),
            format!("--client-ca-file={}", file("clients.crt")),
        ];
        let name = |flag: &str| flag.split('=').next().unwrap_or_default().to_owned();
        let given: Vec<String> = self.flags.iter().map(|f| name(f)).collect();
        command.args(usual.iter().filter(|f| !given.contains(&name(f))));
        command.args(&self.flags);
        self.apiserver = Some(Process::start(&mut command, &self.log())?);
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join(format!("{}.log", self.name))
    }

    /// One more apiserver of the same flags, beside the first and on its port.
    pub fn another(&mut self) -> Result<impl Drop + use<>> {
        let first = self.apiserver.take();
        let started = self.start_apiserver();
        let second = std::mem::replace(&mut self.apiserver, first);
        started?;
        second.context("not started")
    }

    /// `kill -9`.
    pub fn kill_apiserver(&mut self) {
        self.apiserver = None;
    }

    pub fn kill_etcd(&mut self) {
        self.etcd = None;
    }

    /// SIGTERM, without waiting for what comes of it.
    pub fn signal_end(&self) -> Result<()> {
        self.apiserver.as_ref().context("not running")?.signal(Signal::SIGTERM)
    }

    /// SIGTERM, and the exit code.
    pub async fn terminate(&mut self) -> Result<Option<i32>> {
        self.signal_end()?;
        self.ended().await
    }

    /// Waits for the end of the process, and its exit code.
    pub async fn ended(&mut self) -> Result<Option<i32>> {
        let mut process = self.apiserver.take().context("not running")?;
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = process.0.try_wait()? {
                return Ok(status.code());
            }
            if Instant::now() > end {
                bail!("the apiserver does not end");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether the process has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.apiserver.as_mut().is_none_or(|p| !matches!(p.0.try_wait(), Ok(None)))
    }

    pub async fn ready(&self) -> Result<()> {
        let end = Instant::now() + LIMIT;
        loop {
            if let Ok(answer) = self.get("/readyz").await
                && answer.status == 200
            {
                return Ok(());
            }
            if Instant::now() > end {
                let log = std::fs::read_to_string(self.log()).unwrap_or_default();
                bail!("the apiserver is not ready; its log:\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A file of this server's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A new TLS connection, for what no HTTP library would send.
    pub async fn raw(&self) -> Result<Raw> {
        Raw::connect(self.port, None).await
    }

    /// The same with a client certificate and its key, in PEM.
    pub async fn raw_with(&self, cert: &str, key: &str) -> Result<Raw> {
        Raw::connect(self.port, Some((cert, key))).await
    }

    /// A client with a token; `None` sends no credentials.
    pub fn client(&self, token: Option<&str>) -> Result<kube::Client> {
        let mut config = kube::Config::new(format!("https://127.0.0.1:{}", self.port).parse()?);
        config.accept_invalid_certs = true;
        config.auth_info.token = token.map(|t| t.to_owned().into());
        Ok(client::from_config(config, "integration", 0.0, 0)?)
    }

    pub fn admin(&self) -> Result<kube::Client> {
        self.client(Some(ADMIN))
    }

    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.request(Some(ADMIN), Method::GET, path, "", Vec::new()).await
    }

    /// A request of the administrator with a JSON body; a PATCH is a merge patch.
    pub async fn send(&self, method: &str, path: &str, body: &Value) -> Result<Answer> {
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.request(Some(ADMIN), Method::from_bytes(method.as_bytes())?, path, media, body).await
    }

    /// One raw request.
    pub async fn request(
        &self,
        token: Option<&str>,
        method: Method,
        path: &str,
        media: &str,
        body: Vec<u8>,
    ) -> Result<Answer> {
        let mut request = Request::builder().method(method).uri(path);
        if !media.is_empty() {
            request = request.header("content-type", media);
        }
        let response = self.client(token)?.send(request.body(Body::from(body))?).await?;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await?.to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Answer { status, body: serde_json::from_str(&text).unwrap_or(Value::Null), text })
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
    pub text: String,
}

impl Answer {
    pub fn reason(&self) -> &str {
        self.body["reason"].as_str().unwrap_or_default()
    }
}

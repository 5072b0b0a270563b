//! A real etcd process for tests: in its own folder, on free loopback ports, gone when dropped; and a
//! key management service.

mod kms;

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

pub use kms::Kms;

/// How long etcd may take to answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// A running etcd (Debian's `etcd-server`, or whatever `ETCD` names).
pub struct Etcd {
    dir: PathBuf,
    client: u16,
    peer: u16,
    process: Option<Child>,
}

impl Etcd {
    /// Starts one with an empty folder and waits until it answers.
    ///
    /// # Panics
    /// If there is no etcd or it does not come up: a test can do nothing else.
    pub async fn start() -> Etcd {
        let dir = std::env::temp_dir().join(format!(
            "etcd-test-{}-{:08x}",
            std::process::id(),
            rand::random::<u32>()
        ));
        std::fs::create_dir_all(&dir).expect("a folder for etcd");
        let (client, peer) = (free_port(), free_port());
        let mut etcd = Etcd { dir, client, peer, process: None };
        etcd.restart().await;
        etcd
    }

    /// Its client URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts it again on the same folder and ports.
    ///
    /// # Panics
    /// Like [`Etcd::start`].
    pub async fn restart(&mut self) {
        self.start_on(self.client).await;
    }

    /// Starts it again on the same folder but where its clients do not look: what happens then
    /// happens behind their back. Answers the hidden URL.
    ///
    /// # Panics
    /// Like [`Etcd::start`].
    pub async fn restart_hidden(&mut self) -> String {
        let port = free_port();
        self.start_on(port).await;
        format!("http://127.0.0.1:{port}")
    }

    async fn start_on(&mut self, port: u16) {
        self.kill();
        let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{}", self.peer));
        let mut command = Command::new(std::env::var("BINNACLE_ETCD").unwrap_or_else(|_| "etcd".to_owned()));
        command
            .arg("--data-dir")
            .arg(self.dir.join("data"))
            .args(["--name", "test", "--logger", "zap", "--log-level", "error"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}")]);
        if knows_no_fsync() {
            command.arg("--unsafe-no-fsync");
        }
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.process = Some(process.expect("etcd can be started"));
        wait(&client).await;
    }

    /// Moves the folder's content away and starts empty: etcd that has lost everything.
    ///
    /// # Panics
    /// Like [`Etcd::start`].
    pub async fn restart_empty(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(self.dir.join("data"));
        self.restart().await;
    }

    /// A plain client to it.
    ///
    /// # Panics
    /// Like [`Etcd::start`].
    pub async fn client(&self) -> etcd_client::Client {
        etcd_client::Client::connect([self.url()], None).await.expect("a client")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A port nobody listens on at the moment.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr()).map_or(0, |a| a.port())
}

fn knows_no_fsync() -> bool {
    static KNOWS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *KNOWS.get_or_init(|| {
        let help = Command::new(std::env::var("BINNACLE_ETCD").unwrap_or_else(|_| "etcd".to_owned()))
            .arg("--help")
            .output();
        help.is_ok_and(|o| {
            [o.stdout, o.stderr].iter().any(|t| String::from_utf8_lossy(t).contains("unsafe-no-fsync"))
        })
    })
}

async fn wait(url: &str) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Ok(mut client) = etcd_client::Client::connect([url], None).await {
            let answer = tokio::time::timeout(Duration::from_secs(1), client.get("health", None)).await;
            if matches!(answer, Ok(Ok(_))) {
                return;
            }
        }
        assert!(Instant::now() < deadline, "etcd does not answer at {url}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args as ClapArgs, Parser, Subcommand, ValueEnum};

/// Load on any Kubernetes API server, and what it cost.
#[derive(Parser)]
#[command(name = "bench", version)]
pub struct Args {
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub load: LoadArgs,
    /// A process to account for (CPU seconds, memory); may be given more than once, as ID or NAME=ID.
    #[arg(long, global = true, value_parser = pid)]
    pub pid: Vec<(String, u32)>,
    /// One JSON object a line instead of the table.
    #[arg(long, global = true)]
    pub json: bool,
    /// Threads of the client.
    #[arg(long, global = true, default_value_t = 1)]
    pub threads: usize,
    #[command(subcommand)]
    pub command: Command,
}

/// Where the server is and who we are.
#[derive(ClapArgs)]
pub struct TargetArgs {
    /// Kubeconfig to take server, CA and credentials from.
    #[arg(long, global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig, if not the current one.
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// Server URL (http or https); overrides the kubeconfig's.
    #[arg(long, global = true)]
    pub server: Option<String>,
    /// Bearer token.
    #[arg(long, global = true)]
    pub token: Option<String>,
    /// CA file of the server.
    #[arg(long, global = true)]
    pub ca: Option<PathBuf>,
    /// Client certificate file.
    #[arg(long, global = true)]
    pub cert: Option<PathBuf>,
    /// Key of the client certificate.
    #[arg(long, global = true)]
    pub key: Option<PathBuf>,
    /// Do not check the server's certificate.
    #[arg(long, global = true)]
    pub insecure_skip_tls_verify: bool,
}

/// How much load.
#[derive(ClapArgs, Clone)]
pub struct LoadArgs {
    /// How many pods.
    #[arg(long, global = true, default_value_t = 10_000)]
    pub objects: usize,
    /// Size of a pod as it is sent, in bytes of JSON.
    #[arg(long, global = true, default_value_t = 1300)]
    pub object_bytes: usize,
    /// Over how many namespaces they are spread.
    #[arg(long, global = true, default_value_t = 20)]
    pub namespaces: usize,
    /// Over how many (invented) nodes they are spread; 0 leaves them unassigned.
    #[arg(long, global = true, default_value_t = 100)]
    pub nodes: usize,
    /// Begin of the namespaces' names.
    #[arg(long, global = true, default_value = "bench")]
    pub prefix: String,
    /// Connections.
    #[arg(long, global = true, default_value_t = 32)]
    pub connections: usize,
    /// HTTP/2 instead of HTTP/1.1.
    #[arg(long, global = true)]
    pub http2: bool,
    /// With HTTP/2: requests at a time on each connection.
    #[arg(long, global = true, default_value_t = 8)]
    pub streams: usize,
    /// Requests to warm up with, which are not counted.
    #[arg(long, global = true, default_value_t = 200)]
    pub warmup: usize,
}

#[derive(Subcommand)]
pub enum Command {
    /// Create the pods.
    Create,
    /// Read single pods.
    Get(GetArgs),
    /// List all pods.
    List(ListArgs),
    /// List the pods of a label or of a node.
    ListSelector(SelectorArgs),
    /// Change single pods.
    Patch(PatchArgs),
    /// Watch, while objects change at a given rate: how late events arrive.
    Watch(WatchArgs),
    /// Delete the pods.
    Delete,
    /// All of these in this order.
    All(AllArgs),
    /// Start a server (after `--`) again and again: time to ready, memory and CPU when idle.
    Start(StartArgs),
    /// Start pods on a real node: time from creation to running, and from deletion to gone.
    Pods(PodsArgs),
}

#[derive(ClapArgs, Clone)]
pub struct GetArgs {
    /// Requests.
    #[arg(long, default_value_t = 50_000)]
    pub gets: usize,
    /// Any version (resourceVersion=0) instead of the latest.
    #[arg(long)]
    pub any_version: bool,
    /// Encoding of the answers.
    #[arg(long, value_enum, default_value_t = Encoding::Json)]
    pub encoding: Encoding,
}

#[derive(ClapArgs, Clone)]
pub struct ListArgs {
    /// Requests.
    #[arg(long, default_value_t = 10)]
    pub lists: usize,
    /// Requests at a time.
    #[arg(long, default_value_t = 1)]
    pub parallel: usize,
    /// Any version (resourceVersion=0) instead of the latest.
    #[arg(long)]
    pub any_version: bool,
    /// Encoding of the answers.
    #[arg(long, value_enum, default_value_t = Encoding::Json)]
    pub encoding: Encoding,
    /// Page size (`limit`); 0 for the whole list at once. All pages count as one list.
    #[arg(long, default_value_t = 0)]
    pub limit: usize,
}

#[derive(ClapArgs, Clone)]
pub struct SelectorArgs {
    /// Requests.
    #[arg(long, default_value_t = 500)]
    pub lists: usize,
    /// Requests at a time.
    #[arg(long, default_value_t = 4)]
    pub parallel: usize,
    /// By what to select (each selects one percent of the pods).
    #[arg(long, value_enum, default_value_t = Selector::Label)]
    pub by: Selector,
    /// Any version (resourceVersion=0) instead of the latest.
    #[arg(long)]
    pub any_version: bool,
}

#[derive(ClapArgs, Clone)]
pub struct PatchArgs {
    /// Requests.
    #[arg(long, default_value_t = 5000)]
    pub patches: usize,
    /// Kind of patch.
    #[arg(long, value_enum, default_value_t = PatchType::Merge)]
    pub patch_type: PatchType,
}

#[derive(ClapArgs, Clone)]
pub struct WatchArgs {
    /// What changes and is watched.
    #[arg(long, value_enum, default_value_t = Watched::Pods)]
    pub of: Watched,
    /// Watchers, each a request of its own.
    #[arg(long, default_value_t = 1000)]
    pub watchers: usize,
    /// Changes a second.
    #[arg(long, default_value_t = 50)]
    pub rate: usize,
    /// How long, in seconds.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// Watchers on one connection (HTTP/2).
    #[arg(long, default_value_t = 50)]
    pub per_connection: usize,
}

#[derive(ClapArgs, Clone)]
pub struct AllArgs {
    #[command(flatten)]
    pub watch: WatchArgs,
    /// Make every step shorter by this factor.
    #[arg(long, default_value_t = 1)]
    pub divide: usize,
}

impl AllArgs {
    fn less(&self, n: usize) -> usize {
        (n / self.divide.max(1)).max(1)
    }

    /// Latest and any version in JSON, latest in protobuf.
    pub fn gets(&self) -> Vec<GetArgs> {
        let gets = self.less(50_000);
        [(false, Encoding::Json), (true, Encoding::Json), (false, Encoding::Protobuf)]
            .map(|(any_version, encoding)| GetArgs { gets, any_version, encoding })
            .into()
    }

    /// Every combination of encoding and version, and one in pages.
    pub fn lists(&self) -> Vec<ListArgs> {
        let lists = self.less(10);
        [
            (Encoding::Json, false, 0),
            (Encoding::Json, true, 0),
            (Encoding::Protobuf, false, 0),
            (Encoding::Protobuf, true, 0),
            (Encoding::Json, false, 500),
        ]
        .map(|(encoding, any_version, limit)| ListArgs { lists, parallel: 1, any_version, encoding, limit })
        .into()
    }

    /// By label and by node.
    pub fn selectors(&self) -> Vec<SelectorArgs> {
        let lists = self.less(500);
        [Selector::Label, Selector::Node]
            .map(|by| SelectorArgs { lists, parallel: 4, by, any_version: false })
            .into()
    }

    /// The kinds that matter most.
    pub fn patches(&self) -> Vec<PatchArgs> {
        let patches = self.less(5000);
        [PatchType::Merge, PatchType::Strategic, PatchType::Apply]
            .map(|patch_type| PatchArgs { patches, patch_type })
            .into()
    }
}

#[derive(ClapArgs, Clone)]
pub struct StartArgs {
    /// How often.
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
    /// How long to look at the idle server, in seconds.
    #[arg(long, default_value_t = 5)]
    pub idle: u64,
    /// Path that says ready.
    #[arg(long, default_value = "/readyz")]
    pub ready_path: String,
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 60)]
    pub timeout: u64,
    /// Where the server's output goes, if anywhere.
    #[arg(long)]
    pub log: Option<PathBuf>,
    /// The command.
    #[arg(last = true, required = true, action = ArgAction::Append)]
    pub cmd: Vec<String>,
}

#[derive(ClapArgs, Clone)]
pub struct PodsArgs {
    /// How many single pods, one after the other.
    #[arg(long, default_value_t = 10)]
    pub count: usize,
    /// The single pods all at once instead.
    #[arg(long)]
    pub together: bool,
    /// Pods of a ReplicaSet, all ready and then gone; 0 for no such step.
    #[arg(long, default_value_t = 30)]
    pub replicas: usize,
    /// Seconds to leave the node alone, to see what it costs then; 0 for no such step.
    #[arg(long, default_value_t = 30)]
    pub idle: u64,
    /// Pods to fill the node with, and to leave alone as long as `--idle`; 0 for no such step.
    #[arg(long, default_value_t = 0)]
    pub hold: usize,
    /// Their image. The default is the pause image of a local cluster, which does nothing and ends when it is asked to.
    #[arg(long, default_value = "localhost/pause:local")]
    pub image: String,
    /// Their command; the image's own when empty. One that does not end at SIGTERM makes the deletion last as long as the
    /// grace period.
    #[arg(long, num_args = 1..)]
    pub command: Vec<String>,
    /// The node they go to; without it the scheduler decides.
    #[arg(long)]
    pub node: Option<String>,
    /// Namespace, which must exist.
    #[arg(long, default_value = "default")]
    pub namespace: String,
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 120)]
    pub timeout: u64,
}

impl PodsArgs {
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Protobuf,
}

impl Encoding {
    pub fn accept(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Encoding::Json => "json",
            Encoding::Protobuf => "protobuf",
        }
    }
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// Objects of the usual size.
    Pods,
    /// Objects that are nearly empty.
    Configmaps,
}

impl Watched {
    pub fn resource(self) -> &'static str {
        match self {
            Watched::Pods => "pods",
            Watched::Configmaps => "configmaps",
        }
    }
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum Selector {
    Label,
    Node,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    Merge,
    Strategic,
    Json,
    Apply,
}

fn pid(text: &str) -> Result<(String, u32), String> {
    let (name, id) = text.split_once('=').unwrap_or(("", text));
    let id: u32 = id.parse().map_err(|_| format!("{id:?} is not a process id"))?;
    let name = match name {
        "" => crate::process::name(id).unwrap_or_else(|| id.to_string()),
        name => name.to_owned(),
    };
    Ok((name, id))
}

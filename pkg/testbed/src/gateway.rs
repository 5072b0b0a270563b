//! The fabric that the nodes hang on, and the only ways between them and the machine.
//!
//! One process whose own network namespace is the fabric: it makes the bridge and the nodes' links, forwards a port
//! of the machine's loopback to the apiservers, balances the apiservers for the workers, and offers each node an
//! HTTP CONNECT proxy (on the node's loopback) through which its container runtime reaches registries that the
//! machine itself can reach. No address, route or firewall rule of the machine is needed for any of it.

use crate::control;
use crate::layout::{self, API_PORT, NODE_PREFIX, Node, State};
use crate::record::Process;
use crate::spec::EGRESS_PORT;
use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

pub const RECORD: &str = "gateway";
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
const DIAL_OUT_LIMIT: Duration = Duration::from_secs(10);
const MAX_REQUEST_HEAD: usize = 8 * 1024;

/// Runs until killed; prints `ready` once all links and listeners are up.
pub fn run(state: &State) -> Result<()> {
    let cluster = state.load_cluster()?;
    let machine = File::open("/proc/self/ns/net")?;
    unshare(CloneFlags::CLONE_NEWNET)
        .context("cannot make the fabric's network namespace (root is needed)")?;
    let fabric = File::open("/proc/self/ns/net")?;
    let nodes = cluster.nodes();
    make_bridge()?;
    for (i, node) in nodes.iter().enumerate() {
        connect_node(i, node, control::process(state, &node.name)?)?;
    }
    let apiservers: Vec<SocketAddr> =
        nodes.iter().filter(|n| n.control_plane).map(|n| (n.address, API_PORT).into()).collect();
    let listeners = vec![
        listen_in(&machine, &fabric, Ipv4Addr::LOCALHOST, cluster.api_port)?,
        bind(layout::fabric_address(), API_PORT)?,
    ];
    for node in &nodes {
        let process = control::process(state, &node.name)?;
        let inside = File::open(format!("/proc/{}/ns/net", process.pid))?;
        let listener = listen_in(&inside, &fabric, Ipv4Addr::LOCALHOST, EGRESS_PORT)?;
        serve_egress(machine.try_clone()?, listener);
    }
    println!("ready");
    std::io::stdout().flush()?;
    balance(listeners, apiservers)
}

// === links ===

fn ip(args: &[&str]) -> Result<()> {
    run_ip(Command::new("ip").args(args), args)
}

fn run_ip(command: &mut Command, args: &[&str]) -> Result<()> {
    let out = command.output().context("cannot run ip (package iproute2)")?;
    ensure!(out.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim());
    Ok(())
}

fn make_bridge() -> Result<()> {
    ip(&["link", "set", "lo", "up"])?;
    ip(&["link", "add", "fabric", "type", "bridge"])?;
    ip(&["addr", "add", &format!("{}/{NODE_PREFIX}", layout::fabric_address()), "dev", "fabric"])?;
    ip(&["link", "set", "fabric", "up"])
}

fn connect_node(index: usize, node: &Node, process: Process) -> Result<()> {
    let (pid, port) = (process.pid.to_string(), format!("node{index}"));
    ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &pid])?;
    ip(&["link", "set", &port, "master", "fabric", "up"])?;
    let batch = format!(
        "link set lo up\naddr add {}/{NODE_PREFIX} dev eth0\nlink set eth0 up\nroute add default via {}\n",
        node.address,
        layout::fabric_address()
    );
    ip_batch(process.pid, &batch)?;
    let forward = control::in_network(process.pid, "sh")
        .args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
        .status()
        .context("cannot turn on forwarding")?;
    ensure!(forward.success(), "node {} cannot forward packets", node.name);
    Ok(())
}

fn ip_batch(pid: i32, lines: &str) -> Result<()> {
    let mut child = control::in_network(pid, "ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run ip (package iproute2)")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(lines.as_bytes())?;
    }
    let out = child.wait_with_output()?;
    ensure!(out.status.success(), "ip: {}", String::from_utf8_lossy(&out.stderr).trim());
    Ok(())
}

/// Cuts a node off, or takes it back, by taking its port of the bridge down or up.
pub fn set_link(state: &State, node: &str, up: bool) -> Result<()> {
    let cluster = state.load_cluster()?;
    let index = cluster.nodes().iter().position(|n| n.name == node);
    let index = index.with_context(|| format!("no node named {node}"))?;
    let gateway = Process::load(&state.processes_dir().join(RECORD)).filter(Process::alive);
    let gateway = gateway.context("the cluster is not running")?;
    let args = ["link", "set", &format!("node{index}"), if up { "up" } else { "down" }];
    run_ip(control::in_network(gateway.pid, "ip").args(args), &args)
}

// === listeners ===

fn bind(address: Ipv4Addr, port: u16) -> Result<StdListener> {
    let listener =
        StdListener::bind((address, port)).with_context(|| format!("cannot listen on {address}:{port}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A socket belongs to the namespace it was made in, wherever it is used later.
fn listen_in(namespace: &File, home: &File, address: Ipv4Addr, port: u16) -> Result<StdListener> {
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let listener = bind(address, port);
    setns(home, CloneFlags::CLONE_NEWNET)?;
    listener
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

/// Forwards each connection to the next apiserver that takes it.
fn balance(listeners: Vec<StdListener>, apiservers: Vec<SocketAddr>) -> Result<()> {
    let apiservers: Arc<[SocketAddr]> = apiservers.into();
    let turn = Arc::new(AtomicUsize::new(0));
    runtime()?.block_on(async move {
        let mut loops = tokio::task::JoinSet::new();
        for listener in listeners {
            let listener = TcpListener::from_std(listener)?;
            loops.spawn(forward_all(listener, apiservers.clone(), turn.clone()));
        }
        while loops.join_next().await.is_some() {}
        bail!("all listeners ended")
    })
}

async fn forward_all(listener: TcpListener, targets: Arc<[SocketAddr]>, turn: Arc<AtomicUsize>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => { connections.spawn(forward(stream, targets.clone(), turn.fetch_add(1, Ordering::Relaxed))); }
                Err(e) => {
                    eprintln!("accept: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn forward(mut client: TcpStream, targets: Arc<[SocketAddr]>, first: usize) {
    for i in 0..targets.len() {
        let target = targets[(first + i) % targets.len()];
        let connected = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(target)).await;
        if let Ok(Ok(mut server)) = connected {
            // No delay of small frames; a socket that refuses the option still works.
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            // Either end may go away at any time: that is the end of the connection, not an error.
            let _ = copy_bidirectional(&mut client, &mut server).await;
            return;
        }
    }
}

// === egress ===

/// One thread a node: accepts inside the node, connects from the machine.
fn serve_egress(machine: File, listener: StdListener) {
    std::thread::spawn(move || {
        let served = setns(&machine, CloneFlags::CLONE_NEWNET).map_err(anyhow::Error::from).and_then(|()| {
            runtime()?.block_on(async move {
                let listener = TcpListener::from_std(listener)?;
                let mut tunnels = tokio::task::JoinSet::new();
                loop {
                    tokio::select! {
                        accepted = listener.accept() => { tunnels.spawn(tunnel(accepted?.0)); }
                        Some(ended) = tunnels.join_next() => if let Ok(Err(e)) = ended { eprintln!("egress: {e:#}"); },
                    }
                }
            })
        });
        let ended: Result<()> = served;
        if let Err(e) = ended {
            eprintln!("egress: {e:#}");
        }
    });
}

async fn tunnel(mut client: TcpStream) -> Result<()> {
    let head = read_head(&mut client).await?;
    let mut words = head.split_whitespace();
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    if method != "CONNECT" {
        client
            .write_all(b"HTTP/1.1 405 Method Not Allowed\r\nAllow: CONNECT\r\nContent-Length: 0\r\n\r\n")
            .await?;
        return Ok(());
    }
    match tokio::time::timeout(DIAL_OUT_LIMIT, TcpStream::connect(target)).await {
        Ok(Ok(mut server)) => {
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            // The end of either side ends the tunnel.
            let _ = copy_bidirectional(&mut client, &mut server).await;
            Ok(())
        }
        failed => {
            client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").await?;
            match failed {
                Ok(Err(e)) => bail!("{target}: {e}"),
                _ => bail!("{target}: no answer in {DIAL_OUT_LIMIT:?}"),
            }
        }
    }
}

async fn read_head(client: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < MAX_REQUEST_HEAD, "request head too long");
        head.push(client.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

//! Many real nodes on one Linux machine.
//!
//! A node is a process tree of its own: PID, mount, network, UTS, IPC and cgroup namespaces, with its own
//! container runtime, kubelet and kube-proxy; control-plane nodes add etcd and the control-plane daemons. All nodes
//! hang on a bridge that lives in one more network namespace, the *fabric*. Nothing touches the machine's own
//! addresses, firewall, cgroup mounts or files outside the state folder and the cgroup folders recorded in it;
//! ending a node's first process ends everything in it.
//!
//! - [`layout`]: which file lies where, which address a node has
//! - [`spec`]: what every process of a node is started with
//! - [`launch`] and [`init`]: a node from the outside and from the inside
//! - [`gateway`]: the only ways between the nodes and the machine
//! - [`runtime`]: containerd or CRI-O
//! - [`image`]: container images without a registry
//! - [`up`] and [`down`]: whole clusters

pub mod cgroup;
pub mod control;
pub mod credentials;
pub mod down;
pub mod gateway;
pub mod image;
pub mod init;
pub mod launch;
pub mod layout;
pub mod record;
pub mod runtime;
pub mod spec;
pub mod up;

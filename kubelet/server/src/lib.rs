//! kubelet-server

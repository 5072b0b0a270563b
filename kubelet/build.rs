//! The link of the kubelet.

fn main() {
    lean_link::daemon();
}

//! Compiles the CRI and containerd-event protocols to client and server code.

fn main() -> std::io::Result<()> {
    let protos = ["proto/cri.proto", "proto/containerd-events.proto", "proto/health.proto"];
    tonic_prost_build::configure()
        .build_server(true)
        .emit_rerun_if_changed(true)
        .compile_protos(&protos, &["proto"])
}

//! Compiles the protocol of CSI drivers to client and server code.

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure()
        .build_server(true)
        .emit_rerun_if_changed(true)
        .compile_protos(&["proto/csi.proto"], &["proto"])
}

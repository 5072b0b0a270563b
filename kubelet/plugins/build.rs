//! Compiles the protocols of node plugins to client and server code.

fn main() -> std::io::Result<()> {
    let protos = [
        "proto/pluginregistration.proto",
        "proto/deviceplugin.proto",
        "proto/podresources.proto",
        "proto/podresources-v1alpha1.proto",
        "proto/dra-v1.proto",
        "proto/dra-v1beta1.proto",
        "proto/dra-health.proto",
    ];
    tonic_prost_build::configure()
        .build_server(true)
        .emit_rerun_if_changed(true)
        .compile_protos(&protos, &["proto"])
}

//! The link of the kubelet: a program of this size has over a megabyte of relative relocations, all of which the loader
//! reads, so that they stay resident; packed (DT_RELR) they are some kilobytes.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}

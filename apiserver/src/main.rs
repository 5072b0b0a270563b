//! `kube-apiserver`: the only thing that talks to etcd.
//!
//! `main` reads the flags; [`wiring`] makes a server of them; [`controllers`] is what the apiserver does of
//! its own accord once it runs.

mod attributes;
mod codec;
mod controllers;
mod health;
mod options;
mod service;
mod storing;
mod wiring;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let flags = options::command().parse();
    component::main(&flags.clone(), |shutdown| wiring::run(flags, shutdown))
}

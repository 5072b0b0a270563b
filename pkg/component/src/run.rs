//! The life of a daemon: start, signals, end.

use std::future::Future;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::Flags;

/// Runs a daemon until its work ends. The first SIGTERM or SIGINT cancels the token, the second ends the process at
/// once. An error is one line on stderr and exit code 1.
pub fn main<F, Fut>(flags: &Flags, work: F) -> ExitCode
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    if let Err(e) = crate::logging::init(flags) {
        eprintln!("Error: {e}");
        return ExitCode::FAILURE;
    }
    if flags.has("disabled-metrics") {
        crate::metrics::registry().disable(flags.list("disabled-metrics"));
    }
    announce(flags);
    // The heap of a daemon is many small things of different age. In huge pages it takes up to twice the memory and
    // gains nothing that we could measure; where the kernel refuses, it stays as it is.
    let _ = nix::sys::prctl::set_thp_disable(true);
    let runtime = match runtime() {
        Ok(r) => r,
        Err(e) => {
            eprintln!("Error: cannot start the runtime: {e}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let signals = tokio::spawn(watch_signals(shutdown.clone()));
        let result = work(shutdown).await;
        signals.abort();
        result
    });
    crate::traces::stop();
    // Threads that block on something (a file, a resolver) must not hold the end of the process.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("Error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// The multi-threaded runtime of a daemon, with the TLS provider installed.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    crate::serve::tls::install_provider();
    tokio::runtime::Builder::new_multi_thread().enable_all().on_thread_park(resident::tidy).build()
}

fn announce(flags: &Flags) {
    for warning in flags.warnings() {
        eprintln!("{warning}");
    }
    tracing::info!(version = crate::version::GIT_VERSION, component = flags.component(), "Starting");
    for flag in flags.without_effect() {
        tracing::warn!(flag, value = flags.str(flag), "Flag is accepted but has no effect yet");
    }
}

async fn watch_signals(shutdown: CancellationToken) {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("Cannot watch for signals");
        return;
    };
    let mut next = async || {
        tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = int.recv() => "SIGINT",
        }
    };
    let name = next().await;
    tracing::info!(signal = name, "Shutting down");
    shutdown.cancel();
    let name = next().await;
    tracing::error!(signal = name, "Second signal, ending at once");
    std::process::exit(1);
}

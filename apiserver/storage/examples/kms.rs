//! A key management service on a socket, to try `kms` providers with: `kms /tmp/kms.sock`.

use storage::testing::Kms;

#[tokio::main]
async fn main() {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: kms SOCKET");
        std::process::exit(2);
    };
    let _service = Kms::start(path.as_ref());
    let _ = tokio::signal::ctrl_c().await;
}

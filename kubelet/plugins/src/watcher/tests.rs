use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use super::*;
use crate::registration::registration_server::{Registration, RegistrationServer};
use crate::registration::{PluginInfo as Info, RegistrationStatusResponse};

/// A plugin that tells what it was told.
struct Plugin {
    told: mpsc::UnboundedSender<RegistrationStatus>,
    kind: &'static str,
}

#[async_trait]
impl Registration for Plugin {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<Info>, Status> {
        let supported_versions = vec!["1.0.0".into()];
        let info =
            Info { r#type: self.kind.into(), name: "p".into(), supported_versions, ..Default::default() };
        Ok(Response::new(info))
    }
    async fn notify_registration_status(
        &self,
        status: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let _ = self.told.send(status.into_inner());
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[derive(Default)]
struct Book(Mutex<Vec<String>>);

#[async_trait]
impl Handler for Book {
    async fn register(&self, plugin: &PluginInfo) -> Result<(), String> {
        self.0.lock().push(format!("+{}", plugin.name));
        Ok(())
    }
    async fn deregister(&self, plugin: &PluginInfo) {
        self.0.lock().push(format!("-{}", plugin.name));
    }
}

fn serve(path: &Path, kind: &'static str) -> mpsc::UnboundedReceiver<RegistrationStatus> {
    let (told, heard) = mpsc::unbounded_channel();
    let listener = UnixListener::bind(path).unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(RegistrationServer::new(Plugin { told, kind }))
        .serve_with_incoming(UnixListenerStream::new(listener));
    tokio::spawn(server);
    heard
}

async fn soon<T>(wanted: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), wanted).await.expect("in time")
}

#[tokio::test]
async fn plugins_come_restart_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let book = Arc::new(Book::default());
    let shutdown = CancellationToken::new();
    let watcher = Watcher::new(dir.path().into()).handle("CSIPlugin", book.clone());
    let running = tokio::spawn(watcher.run(shutdown.clone()));
    let socket = dir.path().join("p.sock");
    let mut heard = serve(&socket, "CSIPlugin");
    assert!(soon(heard.recv()).await.unwrap().plugin_registered);
    // Another plugin takes the name: the old one is out, the new one in.
    std::fs::remove_file(&socket).unwrap();
    let mut heard = serve(&socket, "CSIPlugin");
    assert!(soon(heard.recv()).await.unwrap().plugin_registered);
    let mut strange = serve(&dir.path().join("strange.sock"), "Toaster");
    let status = soon(strange.recv()).await.unwrap();
    assert!(status.error.contains("no handler registered for plugin type: Toaster"), "{status:?}");
    std::fs::remove_file(&socket).unwrap();
    let all = async {
        while book.0.lock().len() < 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(all).await;
    assert_eq!(*book.0.lock(), ["+p", "-p", "+p", "-p"]);
    shutdown.cancel();
    soon(running).await.unwrap();
}

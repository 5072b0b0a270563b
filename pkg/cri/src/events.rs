//! Tells that something changed in the runtime, so that nobody has to ask every second.
//!
//! CRI's own event stream is used where the runtime has it; containerd 1.x, which has not, is asked for its native
//! events on the same socket. What comes out is only "look again": the truth is always read from the lists.

use std::pin::Pin;

use futures::{Stream, StreamExt};

use crate::client::Runtime;
use crate::containerd::SubscribeRequest;
use crate::containerd::events_client::EventsClient;
use crate::v1::GetEventsRequest;
use crate::v1::runtime_service_client::RuntimeServiceClient;
use crate::{Error, Result};

/// The namespace in which containerd keeps what CRI made.
const CONTAINERD_NAMESPACE: &str = "k8s.io";

/// A stream of hints that something changed; it ends when the runtime goes away.
pub struct Events {
    hints: Pin<Box<dyn Stream<Item = Result<()>> + Send>>,
    source: &'static str,
}

impl Events {
    /// Subscribes to the best source the runtime has; an error when it has none or is away.
    pub async fn subscribe(runtime: &Runtime) -> Result<Self> {
        match cri_events(runtime).await {
            Ok(events) => Ok(events),
            Err(error) if error.is_unimplemented() => containerd_events(runtime).await,
            Err(error) => Err(error),
        }
    }

    /// Which source this is, for the log.
    pub fn source(&self) -> &'static str {
        self.source
    }

    /// Waits for the next hint. `None` when the stream ended.
    pub async fn next(&mut self) -> Option<Result<()>> {
        self.hints.next().await
    }
}

async fn cri_events(runtime: &Runtime) -> Result<Events> {
    let mut client = RuntimeServiceClient::new(runtime.channel());
    let opened = client.get_container_events(GetEventsRequest {}).await;
    let mut stream = opened.map_err(|s| Error::from_status("GetContainerEvents", s))?.into_inner();
    // A runtime without the call may answer its headers first and the refusal on the stream.
    let first = tokio::time::timeout(std::time::Duration::from_millis(200), stream.message()).await;
    if let Ok(Err(status)) = first {
        return Err(Error::from_status("GetContainerEvents", status));
    }
    let hints = stream.map(|m| m.map(drop).map_err(|s| Error::from_status("GetContainerEvents", s)));
    Ok(Events { hints: Box::pin(hints), source: "CRI" })
}

async fn containerd_events(runtime: &Runtime) -> Result<Events> {
    let filters = ["/tasks/exit", "/tasks/start", "/tasks/oom", "/containers/delete"]
        .map(|topic| format!("namespace=={CONTAINERD_NAMESPACE},topic==\"{topic}\""))
        .to_vec();
    let mut client = EventsClient::new(runtime.channel());
    let opened = client.subscribe(SubscribeRequest { filters }).await;
    let stream = opened.map_err(|s| Error::from_status("Subscribe", s))?.into_inner();
    let hints = stream.map(|m| m.map(drop).map_err(|s| Error::from_status("Subscribe", s)));
    Ok(Events { hints: Box::pin(hints), source: "containerd" })
}

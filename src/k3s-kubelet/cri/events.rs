//! containerd's own event stream: tells at once when a task starts, exits or runs out of memory.
//!
//! CRI events came with containerd 1.7, so this speaks `containerd.services.events.v1` on the same
//! socket. Invariant: a lost stream is reported as [`Event::Lagged`], after which the listener
//! looks at everything again.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use super::Runtime;

/// What happened in the runtime.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// The main process of a container or sandbox started.
    Started { container: String },
    /// The main process of a container or sandbox exited.
    Exited { container: String },
    /// The kernel killed something in the container for memory.
    OutOfMemory { container: String },
    /// Events may have been missed.
    Lagged,
}

#[derive(Clone, PartialEq, ::prost::Message)]
struct SubscribeRequest {
    #[prost(string, repeated, tag = "1")]
    filters: Vec<String>,
}

#[derive(Clone, PartialEq, ::prost::Message)]
struct Envelope {
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(string, tag = "3")]
    topic: String,
    #[prost(message, optional, tag = "4")]
    event: Option<Any>,
}

#[derive(Clone, PartialEq, ::prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// The fields that TaskStart, TaskExit and TaskOOM share: the container, and in TaskExit the exec.
#[derive(Clone, PartialEq, ::prost::Message)]
struct Task {
    #[prost(string, tag = "1")]
    container_id: String,
}

#[derive(Clone, PartialEq, ::prost::Message)]
struct TaskExit {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(string, tag = "2")]
    id: String,
}

/// Forwards events until `stop`, reconnecting when the runtime restarts.
pub(crate) async fn subscribe(
    runtime: Runtime,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut pause = Duration::from_millis(50);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            end = stream(&runtime, &events, &mut pause) => {
                if let Err(err) = end {
                    tracing::warn!(%err, "Runtime event stream ended, reconnecting");
                }
            }
        }
        if events.send(Event::Lagged).await.is_err() {
            return Ok(());
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

async fn stream(
    runtime: &Runtime,
    events: &mpsc::Sender<Event>,
    pause: &mut Duration,
) -> Result<(), tonic::Status> {
    let mut grpc = Grpc::new(runtime.channel.clone());
    grpc.ready().await.map_err(|err| tonic::Status::unavailable(err.to_string()))?;
    let filters = ["start", "exit", "oom"]
        .map(|kind| format!("namespace==\"k8s.io\",topic==\"/tasks/{kind}\""))
        .to_vec();
    let codec: ProstCodec<SubscribeRequest, Envelope> = ProstCodec::default();
    let path = PathAndQuery::from_static("/containerd.services.events.v1.Events/Subscribe");
    let answer =
        grpc.server_streaming(Request::new(SubscribeRequest { filters }), path, codec).await?;
    let mut stream = answer.into_inner();
    *pause = Duration::from_millis(50);
    // Whatever happened before the subscription stood is found by looking once more.
    if events.send(Event::Lagged).await.is_err() {
        return Ok(());
    }
    while let Some(envelope) = stream.message().await? {
        if let Some(event) = decode(&envelope)
            && events.send(event).await.is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}

fn decode(envelope: &Envelope) -> Option<Event> {
    use prost::Message as _;
    let bytes = envelope.event.as_ref()?.value.as_slice();
    match envelope.topic.as_str() {
        "/tasks/exit" => {
            let exit = TaskExit::decode(bytes).ok()?;
            // An exec'd process has an id of its own.
            (exit.id == exit.container_id).then_some(Event::Exited { container: exit.container_id })
        }
        "/tasks/start" => {
            Some(Event::Started { container: Task::decode(bytes).ok()?.container_id })
        }
        "/tasks/oom" => {
            Some(Event::OutOfMemory { container: Task::decode(bytes).ok()?.container_id })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn check(topic: &str, value: Vec<u8>, expected: Option<Event>) {
        let event = Some(Any { type_url: String::new(), value });
        let envelope = Envelope { namespace: "k8s.io".into(), topic: topic.into(), event };
        assert_eq!(decode(&envelope), expected);
    }

    #[test]
    fn the_end_of_an_exec_is_not_the_end_of_its_container() {
        let exit = |id: &str| TaskExit { container_id: "c".into(), id: id.into() }.encode_to_vec();
        check("/tasks/exit", exit("c"), Some(Event::Exited { container: "c".into() }));
        check("/tasks/exit", exit("exec"), None);
        check("/tasks/exit", vec![0xff], None);
        check("/images/create", Vec::new(), None);
    }
}

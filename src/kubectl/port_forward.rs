//! `kubectl port-forward`: local ports to a pod, a connection of its own for every client.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::stream::FuturesUnordered;
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::cli::PortForwardArgs;
use crate::discovery::{Types, items, text};
use crate::logs::pod_of;
use crate::select::one;
use crate::server::Server;
use crate::socket;

const RETRY: Duration = Duration::from_millis(50);

pub(crate) async fn run(server: &Server, args: &PortForwardArgs) -> Result<()> {
    let types = Types::read(server).await?;
    let (of, name) = one(&types, &args.target, "pods")?;
    let object = match of.resource.kind == "Service" {
        true => server.get(&of.path(&server.namespace, &name)).await?,
        false => Value::Null,
    };
    let pod = pod_of(server, of, &name).await?;
    if pod["status"]["phase"] != "Running" {
        bail!(
            "unable to forward port because pod is not running. Current status={}",
            text(&pod["status"]["phase"])
        );
    }
    let pod_name = text(&pod["metadata"]["name"]);
    let mut listeners = Vec::new();
    for pair in &args.ports {
        let (local, remote) = pair.split_once(':').unwrap_or((pair, pair));
        let remote = remote_port(remote, &object, &pod)?;
        let local = match local {
            "" => 0,
            _ if !pair.contains(':') && local.parse::<u16>().is_err() => remote,
            text => text.parse().with_context(|| format!("invalid port {text:?}"))?,
        };
        for address in addresses(&args.address)? {
            let listener = TcpListener::bind((address, local))
                .await
                .with_context(|| format!("unable to listen on port {local}"))?;
            println!("Forwarding from {} -> {remote}", listener.local_addr()?);
            listeners.push((listener, remote));
        }
    }
    let path = format!("/api/v1/namespaces/{}/pods/{pod_name}/portforward", server.namespace);
    let accepting =
        listeners.iter().map(|(listener, remote)| accept(server, listener, &path, *remote));
    let mut accepting: FuturesUnordered<_> = accepting.collect();
    while let Some(ended) = accepting.next().await {
        ended?;
    }
    Ok(())
}

fn addresses(given: &[String]) -> Result<Vec<IpAddr>> {
    let mut all = Vec::new();
    for text in given {
        match text.as_str() {
            "localhost" => all.push(IpAddr::from([127, 0, 0, 1])),
            other => all.push(other.parse().with_context(|| format!("--address {other}"))?),
        }
    }
    Ok(all)
}

/// The pod's port for a number or a name; of a service its target.
fn remote_port(remote: &str, service: &Value, pod: &Value) -> Result<u16> {
    let containers = || items(&pod["spec"], "containers").iter();
    let named = |name: &str| {
        let ports = containers().flat_map(|it| items(it, "ports"));
        let port = ports.into_iter().find(|it| it["name"] == name)?;
        u16::try_from(port["containerPort"].as_u64()?).ok()
    };
    let number = remote.parse::<u16>().ok();
    if service.is_object() {
        let port = items(&service["spec"], "ports")
            .iter()
            .find(|it| it["name"] == remote || number.is_some_and(|number| it["port"] == number));
        let Some(port) = port else {
            bail!(
                "Service {} does not have a service port {remote}",
                text(&service["metadata"]["name"])
            );
        };
        let target = &port["targetPort"];
        let number = target.as_u64().or(port["port"].as_u64().filter(|_| target.is_null()));
        return number
            .and_then(|it| u16::try_from(it).ok())
            .or_else(|| named(&text(target)))
            .with_context(|| format!("the pod has no port named {target}"));
    }
    number.or_else(|| named(remote)).with_context(|| {
        format!("Pod {} does not have a named port {remote:?}", text(&pod["metadata"]["name"]))
    })
}

async fn accept(server: &Server, listener: &TcpListener, path: &str, remote: u16) -> Result<()> {
    let mut connections = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, peer)) = accepted else {
                    tokio::time::sleep(RETRY).await;
                    continue;
                };
                println!("Handling connection for {}", listener.local_addr()?.port());
                connections.push(async move {
                    if let Err(err) = carry(server, stream, path, remote).await {
                        eprintln!("lost connection of {peer} to pod: {err:#}");
                    }
                });
            }
            Some(()) = connections.next() => {}
        }
    }
}

/// One client: data on channel 0, errors on channel 1, each begun with the port.
async fn carry(server: &Server, stream: TcpStream, path: &str, remote: u16) -> Result<()> {
    const DATA: u8 = 0;
    let path = format!("{path}?ports={remote}");
    let socket = socket::open(server, &path, &["v4.channel.k8s.io"]).await?;
    let (mut sink, mut messages) = socket.split();
    let (mut reader, mut writer) = stream.into_split();
    // The two directions end on their own; a task in a set ends with this function.
    let mut up = JoinSet::new();
    up.spawn(async move {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let count = reader.read(&mut buffer).await?;
            let Some(data) = buffer.get(..count).filter(|it| !it.is_empty()) else { break };
            let message = [&[DATA], data].concat();
            sink.send(Message::Binary(Bytes::from(message))).await?;
        }
        // The pod may still have something to say: only our direction is over.
        anyhow::Ok(sink)
    });
    let mut begun = [false; 2];
    while let Some(message) = messages.next().await {
        let Message::Binary(bytes) = message? else { continue };
        let Some((channel, data)) = bytes.split_first() else { continue };
        let Some(begun) = begun.get_mut(usize::from(*channel)) else { continue };
        if !*begun {
            *begun = true;
            continue;
        }
        match *channel {
            DATA => writer.write_all(data).await?,
            _ => bail!("{}", String::from_utf8_lossy(data)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_are_found_by_number_and_name() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [
            {"ports": [{"name": "http", "containerPort": 8080}]}]}});
        let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [
            {"name": "web", "port": 80, "targetPort": "http"}, {"port": 81}]}});
        let check = |remote: &str, service: &Value, expected: Option<u16>| {
            assert_eq!(remote_port(remote, service, &pod).ok(), expected, "{remote}");
        };
        check("5000", &Value::Null, Some(5000));
        check("http", &Value::Null, Some(8080));
        check("nope", &Value::Null, None);
        check("80", &service, Some(8080));
        check("web", &service, Some(8080));
        check("81", &service, Some(81));
        check("82", &service, None);
    }
}

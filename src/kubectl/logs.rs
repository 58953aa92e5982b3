//! `kubectl logs`: of a container, of all containers, of pods by label or by what owns them.

use std::io::Write;

use anyhow::{Context, Result, bail};
use futures::{AsyncReadExt, StreamExt};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::cli::LogsArgs;
use crate::discovery::{Type, Types, items, text};
use crate::select::one;
use crate::server::{Server, is_not_found, with_query};

/// One container whose log is read.
struct Source {
    pod: String,
    container: String,
}

pub(crate) async fn run(server: &Server, args: &LogsArgs) -> Result<()> {
    let pods = pods(server, args).await?;
    let mut sources = Vec::new();
    for pod in &pods {
        sources.extend(containers(pod, args)?);
    }
    if args.follow && sources.len() > 1 {
        let mut all: futures::stream::FuturesUnordered<_> =
            sources.iter().map(|source| print(server, source, args)).collect();
        while let Some(done) = all.next().await {
            done?;
        }
        return Ok(());
    }
    for source in &sources {
        print(server, source, args).await?;
    }
    Ok(())
}

async fn pods(server: &Server, args: &LogsArgs) -> Result<Vec<Value>> {
    let collection = format!("/api/v1/namespaces/{}/pods", server.namespace);
    if !args.selector.is_empty() {
        let list = with_query(&collection, &[("labelSelector", &args.selector)]);
        let list = server.get(&list).await?;
        let found = items(&list, "items").to_vec();
        if found.is_empty() {
            eprintln!("No resources found in {} namespace.", server.namespace);
        }
        return Ok(found);
    }
    let Some(target) = &args.target else {
        bail!("expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'");
    };
    let types = Types::read(server).await?;
    let (of, name) = one(&types, target, "pods")?;
    match pod_of(server, of, &name).await {
        Err(err) if is_not_found(&err) => bail!(
            "error from server (NotFound): {} {name:?} not found in namespace {:?}",
            of.plural(),
            server.namespace
        ),
        found => Ok(vec![found?]),
    }
}

/// A pod by its name, or one of those that an object selects.
pub(crate) async fn pod_of(server: &Server, of: &Type, name: &str) -> Result<Value> {
    let object = server.get(&of.path(&server.namespace, name)).await?;
    if of.resource.kind == "Pod" {
        return Ok(object);
    }
    let selector = selector(&object)
        .with_context(|| format!("{} selects no pods: give a pod", of.named(name)))?;
    let path = format!("/api/v1/namespaces/{}/pods", server.namespace);
    let list = server.get(&with_query(&path, &[("labelSelector", &selector)])).await?;
    let mut found = items(&list, "items").to_vec();
    // The one that most likely has something to say: running, then the oldest.
    found.sort_by_key(|pod| {
        (pod["status"]["phase"] != "Running", text(&pod["metadata"]["creationTimestamp"]))
    });
    let count = found.len();
    let Some(pod) = found.into_iter().next() else {
        bail!("no pods found for {}", of.named(name));
    };
    if count > 1 {
        eprintln!("Found {count} pods, using pod/{}", text(&pod["metadata"]["name"]));
    }
    Ok(pod)
}

/// The label selector of a workload or a service, as a query has it.
fn selector(object: &Value) -> Option<String> {
    let selector = &object["spec"]["selector"];
    let labels =
        match selector["matchLabels"].is_object() || selector["matchExpressions"].is_array() {
            true => selector["matchLabels"].as_object(),
            false => selector.as_object(),
        };
    let mut terms: Vec<String> =
        labels.into_iter().flatten().map(|(key, value)| format!("{key}={}", text(value))).collect();
    for term in items(selector, "matchExpressions") {
        let key = text(&term["key"]);
        let values: Vec<String> = items(term, "values").iter().map(text).collect();
        terms.push(match term["operator"].as_str()? {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key,
            _ => format!("!{key}"),
        });
    }
    (!terms.is_empty()).then(|| terms.join(","))
}

fn containers(pod: &Value, args: &LogsArgs) -> Result<Vec<Source>> {
    let name = text(&pod["metadata"]["name"]);
    let source = |container: String| Source { pod: name.clone(), container };
    if args.all_containers {
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        let all = lists.iter().flat_map(|list| items(&pod["spec"], list));
        return Ok(all.map(|it| source(text(&it["name"]))).collect());
    }
    let asked = args.container.as_deref().or(args.container_name.as_deref());
    Ok(vec![source(container(pod, asked)?)])
}

/// The container asked for, or the one that a pod's annotation or order says.
pub(crate) fn container(pod: &Value, asked: Option<&str>) -> Result<String> {
    let spec = &pod["spec"];
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let all: Vec<String> =
        lists.iter().flat_map(|list| items(spec, list)).map(|it| text(&it["name"])).collect();
    let pod_name = text(&pod["metadata"]["name"]);
    let inits: Vec<String> =
        items(spec, "initContainers").iter().map(|it| text(&it["name"])).collect();
    let shown = || {
        let name = |it: &String| match inits.contains(it) {
            true => format!("{it} (init)"),
            false => it.clone(),
        };
        all.iter().map(name).collect::<Vec<_>>().join(", ")
    };
    if let Some(asked) = asked {
        if !all.iter().any(|name| name == asked) {
            bail!("container {asked} is not valid for pod {pod_name} out of: {}", shown());
        }
        return Ok(asked.to_owned());
    }
    let said = text(&pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"]);
    if all.contains(&said) {
        return Ok(said);
    }
    let first = all.first().with_context(|| format!("pod {pod_name} has no container"))?;
    if all.len() > 1 {
        eprintln!("Defaulted container {first:?} out of: {}", shown());
    }
    Ok(first.clone())
}

async fn print(server: &Server, source: &Source, args: &LogsArgs) -> Result<()> {
    let yes = |flag: bool| if flag { "true" } else { "" };
    let tail = match args.tail {
        // kubectl's default for pods by label.
        -1 if !args.selector.is_empty() => "10".to_owned(),
        -1 => String::new(),
        tail => tail.to_string(),
    };
    let since = match &args.since {
        Some(since) => seconds(since)?.max(1).to_string(),
        None => String::new(),
    };
    let after = match &args.since_time {
        Some(time) => {
            let _: Timestamp = time.parse().with_context(|| format!("--since-time {time}"))?;
            time.as_str()
        }
        None => "",
    };
    let limit = args.limit_bytes.map(|it| it.to_string()).unwrap_or_default();
    let path = format!("/api/v1/namespaces/{}/pods/{}/log", server.namespace, source.pod);
    let path = with_query(
        &path,
        &[
            ("container", &source.container),
            ("follow", yes(args.follow)),
            ("previous", yes(args.previous)),
            ("tailLines", &tail),
            ("sinceSeconds", &since),
            ("sinceTime", after),
            ("timestamps", yes(args.timestamps)),
            ("limitBytes", &limit),
        ],
    );
    let stream = server.stream(&path, "*/*").await?;
    let prefix = match args.prefix {
        true => format!("[pod/{}/{}] ", source.pod, source.container),
        false => String::new(),
    };
    let mut stream = std::pin::pin!(stream);
    let mut buffer = vec![0; 16 << 10];
    let mut line_begins = true;
    loop {
        let count = stream.read(&mut buffer).await?;
        let Some(bytes) = buffer.get(..count).filter(|it| !it.is_empty()) else { return Ok(()) };
        let mut out = std::io::stdout().lock();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if line_begins {
                out.write_all(prefix.as_bytes())?;
            }
            out.write_all(piece)?;
            line_begins = piece.ends_with(b"\n");
        }
        out.flush()?;
    }
}

/// Go's durations: `5s`, `2m`, `3h`.
pub(crate) fn seconds(duration: &str) -> Result<i64> {
    let parsed: SignedDuration = match duration {
        "0" => SignedDuration::ZERO,
        text => text.parse().map_err(|_| anyhow::anyhow!("invalid duration {text:?}"))?,
    };
    Ok(parsed.as_secs())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_become_queries() {
        let check = |object: Value, expected: Option<&str>| {
            assert_eq!(selector(&object).as_deref(), expected, "{object}");
        };
        check(json!({"spec": {"selector": {"app": "web"}}}), Some("app=web"));
        check(
            json!({"spec": {"selector": {"matchLabels": {"app": "web"}, "matchExpressions": [
                {"key": "x", "operator": "In", "values": ["a", "b"]},
                {"key": "y", "operator": "DoesNotExist"}]}}}),
            Some("app=web,x in (a,b),!y"),
        );
        check(json!({"spec": {}}), None);
    }

    #[test]
    fn the_container_is_the_one_asked_for_or_the_default() {
        let pod = json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]},
        });
        assert_eq!(container(&pod, None).unwrap(), "a");
        assert_eq!(container(&pod, Some("i")).unwrap(), "i");
        assert!(container(&pod, Some("z")).is_err());
        let mut annotated = pod;
        annotated["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] =
            "b".into();
        assert_eq!(container(&annotated, None).unwrap(), "b");
    }

    #[test]
    fn durations_are_gos() {
        for (text, expected) in [("5s", 5), ("2m", 120), ("1h30m", 5400), ("0", 0), ("0s", 0)] {
            assert_eq!(seconds(text).unwrap(), expected, "{text}");
        }
        assert!(seconds("soon").is_err());
    }
}

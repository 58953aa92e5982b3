//! Reading metrics: `metrics.k8s.io`, `custom.metrics.k8s.io` and `external.metrics.k8s.io`, which
//! aggregated servers serve. Errors are upstream's words.

use client::{Labels, null_default};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, de::DeserializeOwned};

use super::replicas::{Sample, Samples};
use crate::{
    Cx,
    amounts::{Amount, Amounts},
    types::{Selector, autoscaling::MetricIdentifier},
};

#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
struct Items<T> {
    #[serde(default = "Vec::new", deserialize_with = "null_default")]
    items: Vec<T>,
}

#[derive(Deserialize)]
struct PodMetrics {
    metadata: Named,
    timestamp: Timestamp,
    #[serde(default)]
    window: String,
    #[serde(default, deserialize_with = "null_default")]
    containers: Vec<ContainerMetrics>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ContainerMetrics {
    name: String,
    #[serde(deserialize_with = "null_default")]
    usage: Amounts,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricValue {
    #[serde(default)]
    described_object: Named,
    timestamp: Timestamp,
    window_seconds: Option<i64>,
    value: Amount,
}

const DEFAULT_WINDOW: SignedDuration = SignedDuration::from_mins(1);

/// What each pod (or this container of each) uses of a resource.
pub(super) async fn resource(
    cx: &Cx,
    namespace: &str,
    selector: &str,
    resource: &str,
    container: &str,
) -> Result<Samples, String> {
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods");
    let path = with(path, &[("labelSelector", selector)]);
    let context = |err| format!("unable to get metrics for resource {resource}: {err}");
    let list: Items<PodMetrics> = get(cx, &path, "pods.metrics.k8s.io").await.map_err(|err| {
        context(format!("unable to fetch metrics from resource metrics API: {err}"))
    })?;
    if list.items.is_empty() {
        return Err(context("no metrics returned from resource metrics API".into()));
    }
    let mut samples = Samples::new();
    for pod in list.items {
        let mut value = 0;
        let mut known = !pod.containers.is_empty();
        let wanted = |it: &&ContainerMetrics| container.is_empty() || it.name == container;
        let mut found = container.is_empty();
        for it in pod.containers.iter().filter(wanted) {
            found = true;
            match it.usage.get(resource) {
                Some(usage) => value += usage.0.milli_value(),
                None => known = false,
            }
        }
        if !found {
            let name = &pod.metadata.name;
            return Err(context(format!(
                "container {container} not present in metrics for pod {namespace}/{name}"
            )));
        }
        if known {
            let window = apimachinery::duration::parse(&pod.window).ok();
            let window = window.filter(|it| *it > 0).map(SignedDuration::from_nanos);
            let sample =
                Sample { value, at: pod.timestamp, window: window.unwrap_or(DEFAULT_WINDOW) };
            samples.insert(pod.metadata.name, sample);
        }
    }
    Ok(samples)
}

/// A custom metric of each pod.
pub(super) async fn pods(
    cx: &Cx,
    namespace: &str,
    selector: &str,
    metric: &MetricIdentifier,
) -> Result<Samples, String> {
    let labels = metric_selector(metric);
    let path = custom(namespace, &format!("pods/*/{}", metric.name));
    let path = with(path, &[("labelSelector", selector), ("metricLabelSelector", &labels)]);
    let context = |err| {
        format!(
            "unable to get metric {}: unable to fetch metrics from custom metrics API: {err}",
            metric.name
        )
    };
    let list: Items<MetricValue> =
        get(cx, &path, "pods.custom.metrics.k8s.io").await.map_err(context)?;
    if list.items.is_empty() {
        return Err(context("no metrics returned from custom metrics API".into()));
    }
    let sample = |it: &MetricValue| Sample {
        value: it.value.0.milli_value(),
        at: it.timestamp,
        window: it.window_seconds.map_or(DEFAULT_WINDOW, SignedDuration::from_secs),
    };
    Ok(list.items.iter().map(|it| (it.described_object.name.clone(), sample(it))).collect())
}

/// A custom metric of one object, in thousandths. `plural` is the object's resource with its group.
pub(super) async fn object(
    cx: &Cx,
    namespace: &str,
    plural: &str,
    name: &str,
    metric: &MetricIdentifier,
) -> Result<i64, String> {
    let labels = metric_selector(metric);
    let path = match plural {
        "namespaces" => custom("", &format!("namespaces/{namespace}/metrics/{}", metric.name)),
        _ => custom(namespace, &format!("{plural}/{name}/{}", metric.name)),
    };
    let path = with(path, &[("metricLabelSelector", &labels)]);
    let context = |err| {
        format!(
            "unable to get metric {}: {plural} on {namespace} {name}/unable to fetch metrics from custom metrics API: {err}",
            metric.name
        )
    };
    let what = format!("{plural}.custom.metrics.k8s.io");
    let list: Items<MetricValue> = get(cx, &path, &what).await.map_err(context)?;
    let first = list.items.first().map(|it| it.value.0.milli_value());
    first.ok_or_else(|| context("no metrics returned from custom metrics API".into()))
}

/// The sum of an external metric, in thousandths.
pub(super) async fn external(
    cx: &Cx,
    namespace: &str,
    metric: &MetricIdentifier,
) -> Result<i64, String> {
    let labels = metric_selector(metric);
    let name = &metric.name;
    let path = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{name}");
    let path = with(path, &[("labelSelector", &labels)]);
    let context = |err| {
        format!(
            "unable to get external metric {namespace}/{name}/{labels}: unable to fetch metrics from external metrics API: {err}"
        )
    };
    let what = format!("{name}.external.metrics.k8s.io");
    let list: Items<MetricValue> = get(cx, &path, &what).await.map_err(context)?;
    if list.items.is_empty() {
        return Err(context("no metrics returned from external metrics API".into()));
    }
    Ok(list.items.iter().map(|it| it.value.0.milli_value()).sum())
}

fn custom(namespace: &str, rest: &str) -> String {
    match namespace {
        "" => format!("/apis/custom.metrics.k8s.io/v1beta2/{rest}"),
        _ => format!("/apis/custom.metrics.k8s.io/v1beta2/namespaces/{namespace}/{rest}"),
    }
}

fn metric_selector(metric: &MetricIdentifier) -> String {
    metric.selector.as_ref().map(query).unwrap_or_default()
}

/// A label selector in the form of a query.
pub(super) fn query(selector: &Selector) -> String {
    let equal = |labels: &Labels| -> Vec<String> {
        labels.iter().map(|(key, value)| format!("{key}={value}")).collect()
    };
    let mut parts = equal(&selector.match_labels);
    parts.extend(selector.match_expressions.iter().map(|it| {
        let (key, values) = (&it.key, it.values.join(","));
        match it.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.clone(),
        }
    }));
    parts.join(",")
}

fn with(mut path: String, query: &[(&str, &str)]) -> String {
    let given = query.iter().filter(|(_, value)| !value.is_empty());
    for (at, (name, value)) in given.enumerate() {
        path.push(if at == 0 { '?' } else { '&' });
        path.push_str(name);
        path.push('=');
        path.push_str(&client::escape(value));
    }
    path
}

async fn get<T: DeserializeOwned>(cx: &Cx, path: &str, what: &str) -> Result<T, String> {
    cx.rest.get_path(path).await.map_err(|err| match client::is_not_found(&err) {
        // A server that nobody registered answers like any unknown path.
        true => format!("the server could not find the requested resource (get {what})"),
        false => client::describe(&err),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_become_queries() {
        let selector: Selector = serde_json::from_str(
            r#"{"matchLabels":{"a":"b"},"matchExpressions":[{"key":"c","operator":"In","values":["d","e"]},{"key":"f","operator":"DoesNotExist"}]}"#,
        )
        .unwrap();
        assert_eq!(query(&selector), "a=b,c in (d,e),!f");
        let path = with("/x".into(), &[("labelSelector", ""), ("metricLabelSelector", "a=b")]);
        assert_eq!(path, "/x?metricLabelSelector=a%3Db");
    }
}

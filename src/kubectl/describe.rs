//! `kubectl describe`: every field of an object in words, and its events.

use anyhow::Result;
use jiff::Timestamp;
use serde_json::Value;

use crate::cli::DescribeArgs;
use crate::discovery::{Type, Types, items, text};
use crate::get::paths;
use crate::jsonpath::plain;
use crate::output::without_managed_fields;
use crate::select::targets;
use crate::server::{Server, with_query};
use crate::table;

pub(crate) async fn run(server: &Server, args: &DescribeArgs) -> Result<()> {
    let types = Types::read(server).await?;
    let namespace = if args.which.all_namespaces { "" } else { &server.namespace };
    let mut shown = 0;
    for target in targets(&types, &args.targets)? {
        for path in paths(&target, namespace, &args.which) {
            let answer = server.get(&path).await?;
            let objects = match target.names.is_empty() {
                true => items(&answer, "items").to_vec(),
                false => vec![answer],
            };
            for mut object in objects {
                object["apiVersion"] = target.of.resource.api_version().into();
                object["kind"] = target.of.resource.kind.as_ref().into();
                if shown > 0 {
                    println!("\n");
                }
                shown += 1;
                print!("{}", describe(&object));
                print!("{}", events(server, target.of, &object).await?);
            }
        }
    }
    if shown == 0 {
        eprintln!("No resources found in {} namespace.", server.namespace);
    }
    Ok(())
}

/// The object in lines; what is at the top of every object comes first.
fn describe(object: &Value) -> String {
    let meta = &object["metadata"];
    let mut lines = vec![("Name:".to_owned(), text(&meta["name"]))];
    if let Some(namespace) = meta["namespace"].as_str() {
        lines.push(("Namespace:".to_owned(), namespace.to_owned()));
    }
    for (label, field, sign) in [("Labels:", "labels", "="), ("Annotations:", "annotations", ": ")]
    {
        let pairs: Vec<String> = meta[field]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}{sign}{}", plain(value).trim_end()))
            .collect();
        let mut label = label;
        if pairs.is_empty() {
            lines.push((label.to_owned(), "<none>".to_owned()));
        }
        for pair in pairs {
            lines.push((label.to_owned(), pair));
            label = "";
        }
    }
    lines.push(("API Version:".to_owned(), text(&object["apiVersion"])));
    lines.push(("Kind:".to_owned(), text(&object["kind"])));
    let mut rest = without_managed_fields(object.clone());
    if let Some(fields) = rest.as_object_mut() {
        fields.retain(|key, _| key != "apiVersion" && key != "kind");
    }
    if let Some(fields) = rest["metadata"].as_object_mut() {
        let above = ["name", "namespace", "labels", "annotations"];
        fields.retain(|key, _| !above.contains(&key.as_str()));
    }
    fields(&rest, 0, &mut lines);
    let width = lines.iter().map(|(label, _)| label.len()).max().unwrap_or(0) + 2;
    let line = |(label, value): &(String, String)| match value.is_empty() {
        true => format!("{label}\n"),
        false => format!("{label:width$}{value}\n"),
    };
    lines.iter().map(line).collect()
}

fn fields(value: &Value, level: usize, lines: &mut Vec<(String, String)>) {
    let indent = "  ".repeat(level);
    for (key, value) in value.as_object().into_iter().flatten() {
        let label = format!("{indent}{}:", words(key));
        match value {
            Value::Object(_) => {
                lines.push((label, String::new()));
                fields(value, level + 1, lines);
            }
            Value::Array(list) => {
                lines.push((label, String::new()));
                for item in list {
                    match item {
                        Value::Object(_) => fields(item, level + 1, lines),
                        other => lines.push((format!("{indent}  {}", plain(other)), String::new())),
                    }
                }
            }
            Value::Null => lines.push((label, "<nil>".to_owned())),
            other => lines.push((label, plain(other))),
        }
    }
}

/// `podIP` is `Pod IP`, `creationTimestamp` is `Creation Timestamp`.
fn words(key: &str) -> String {
    if key.contains(['.', '/', '-']) {
        return key.to_owned();
    }
    let mut out = String::new();
    let letters: Vec<char> = key.chars().collect();
    for (at, letter) in letters.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| letters.get(at));
        let begins_word = letter.is_uppercase()
            && before.is_some_and(|before| {
                before.is_lowercase()
                    || (before.is_uppercase()
                        && letters.get(at + 1).is_some_and(|next| next.is_lowercase()))
            });
        if begins_word {
            out.push(' ');
        }
        match at {
            0 => out.extend(letter.to_uppercase()),
            _ => out.push(*letter),
        }
    }
    let upper = |word: &str| match word {
        "Api" | "Uid" | "Ip" | "Url" | "Id" | "Cidr" => word.to_uppercase(),
        other => other.to_owned(),
    };
    out.split(' ').map(upper).collect::<Vec<_>>().join(" ")
}

async fn events(server: &Server, of: &Type, object: &Value) -> Result<String> {
    let meta = &object["metadata"];
    let uid = text(&meta["uid"]);
    // Events of a node name it where its uid is.
    let about = format!(
        "involvedObject.kind={},involvedObject.name={}",
        of.resource.kind,
        text(&meta["name"])
    );
    let path = match meta["namespace"].as_str() {
        Some(namespace) => format!("/api/v1/namespaces/{namespace}/events"),
        None => "/api/v1/events".to_owned(),
    };
    let list = server.get(&with_query(&path, &[("fieldSelector", &about)])).await?;
    let mut found: Vec<&Value> = items(&list, "items")
        .iter()
        .filter(|it| {
            let of = text(&it["involvedObject"]["uid"]);
            of.is_empty() || of == uid || of == text(&meta["name"])
        })
        .collect();
    if found.is_empty() {
        return Ok("Events:  <none>\n".to_owned());
    }
    found.sort_by_key(|it| last_seen(it));
    let now = Timestamp::now();
    let mut rows = vec![
        ["  Type", "Reason", "Age", "From", "Message"].map(str::to_owned).to_vec(),
        ["  ----", "------", "----", "----", "-------"].map(str::to_owned).to_vec(),
    ];
    for event in found {
        let count = event["series"]["count"].as_i64().or(event["count"].as_i64()).unwrap_or(1);
        let age = age(now, last_seen(event));
        let first = event["firstTimestamp"].as_str().and_then(|it| it.parse().ok());
        let age = match (count, first) {
            (2.., Some(first)) => format!("{age} (x{count} over {})", self::age(now, first)),
            _ => age,
        };
        let source = text(&event["source"]["component"]);
        let source = if source.is_empty() { text(&event["reportingComponent"]) } else { source };
        rows.push(vec![
            format!("  {}", text(&event["type"])),
            text(&event["reason"]),
            age,
            source,
            text(&event["message"]).trim().to_owned(),
        ]);
    }
    Ok(format!("Events:\n{}", table::align(&rows)))
}

fn last_seen(event: &Value) -> Timestamp {
    let times = ["lastTimestamp", "eventTime", "firstTimestamp"];
    let series = event["series"]["lastObservedTime"].as_str();
    let given = times.iter().filter_map(|name| event[name].as_str());
    series.into_iter().chain(given).find_map(|it| it.parse().ok()).unwrap_or_default()
}

/// Kubernetes' short ages: `5s`, `3m10s`, `2h`, `4d`.
pub(crate) fn age(now: Timestamp, then: Timestamp) -> String {
    let secs = now.as_second().saturating_sub(then.as_second()).max(0);
    let (minutes, hours, days) = (secs / 60, secs / 3600, secs / 86400);
    let pair = |major: i64, unit: &str, minor: i64, small: &str| match minor {
        0 => format!("{major}{unit}"),
        minor => format!("{major}{unit}{minor}{small}"),
    };
    match secs {
        0..120 => format!("{secs}s"),
        120..600 => pair(minutes, "m", secs % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ => pair(days / 365, "y", days % 365, "d"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn field_names_become_words() {
        for (key, expected) in [
            ("podIP", "Pod IP"),
            ("creationTimestamp", "Creation Timestamp"),
            ("uid", "UID"),
            ("clusterIP", "Cluster IP"),
            ("app.kubernetes.io/name", "app.kubernetes.io/name"),
        ] {
            assert_eq!(words(key), expected, "{key}");
        }
    }

    #[test]
    fn objects_are_described_field_by_field() {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "namespace": "default", "labels": {"a": "b", "c": "d"}},
            "spec": {"containers": [{"name": "x", "args": ["1", "2"]}], "hostNetwork": true},
        });
        let expected = "Name:            web\nNamespace:       default\nLabels:          a=b\n\
                        \u{20}                c=d\nAnnotations:     <none>\nAPI Version:     v1\n\
                        Kind:            Pod\nMetadata:\nSpec:\n  Containers:\n    Args:\n      1\n\
                        \u{20}     2\n    Name:        x\n  Host Network:  true\n";
        assert_eq!(describe(&object), expected);
    }

    #[test]
    fn ages_are_short() {
        let now = Timestamp::from_second(10_000_000_000).unwrap();
        for (secs, expected) in [
            (5, "5s"),
            (119, "119s"),
            (130, "2m10s"),
            (700, "11m"),
            (3600, "60m"),
            (11_000, "3h3m"),
            (40_000, "11h"),
            (180_000, "2d2h"),
            (1_000_000, "11d"),
        ] {
            let then = Timestamp::from_second(10_000_000_000 - secs).unwrap();
            assert_eq!(age(now, then), expected, "{secs}");
        }
    }
}

//! What lies in the manifests folder: which files are manifests, and the objects in them. Pure.

use std::path::Path;

use serde_json::Value;

/// The AddOn's name for a file that is a manifest: the file's name without its ending.
pub(super) fn name(path: &Path) -> Option<&str> {
    let ending = path.extension()?.to_str()?;
    let name = path.file_stem()?.to_str()?;
    (["yaml", "yml", "json"].contains(&ending) && !name.is_empty() && !name.starts_with('.'))
        .then_some(name)
}

/// Whether `--disable` means this file: by its name, with or without ending, or by a folder that it
/// is in.
pub(super) fn is_disabled(path: &Path, folder: &Path, disabled: &[String]) -> bool {
    let inside = path.strip_prefix(folder).unwrap_or(path);
    let parts = inside.components().filter_map(|it| it.as_os_str().to_str());
    let mut names: Vec<&str> = parts.collect();
    names.extend(name(path));
    disabled.iter().any(|it| names.contains(&it.as_str()))
}

/// The objects of a manifest; lists are taken apart. The error says in which document.
pub(super) fn objects(text: &str) -> Result<Vec<Value>, String> {
    let mut objects = Vec::new();
    for (at, document) in documents(text).iter().enumerate() {
        let number = at + 1;
        let value = apimachinery::yaml::parse(document.as_bytes())
            .map_err(|err| format!("document {number}: {err}"))?
            .value;
        if !value.is_null() {
            flatten(value, &mut objects).map_err(|err| format!("document {number}: {err}"))?;
        }
    }
    Ok(objects)
}

fn flatten(value: Value, objects: &mut Vec<Value>) -> Result<(), String> {
    let kind = value["kind"].as_str().unwrap_or_default();
    let version = value["apiVersion"].as_str().unwrap_or_default();
    if kind.is_empty() || version.is_empty() {
        return Err("object without apiVersion or kind".into());
    }
    if kind.ends_with("List")
        && let Some(items) = value["items"].as_array()
    {
        return items.iter().try_for_each(|it| flatten(it.clone(), objects));
    }
    if value["metadata"]["name"].as_str().is_none_or(str::is_empty) {
        return Err(format!("{kind} without metadata.name"));
    }
    objects.push(value);
    Ok(())
}

fn documents(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        let ends = line.trim_end() == "---" || line.starts_with("--- ");
        if ends {
            documents.push(String::new());
        } else if let Some(last) = documents.last_mut() {
            last.push_str(line);
            last.push('\n');
        }
    }
    let meant = |text: &String| {
        text.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
    };
    documents.retain(meant);
    documents
}

/// What others refer to comes first.
pub(super) fn rank(object: &Value) -> u8 {
    match object["kind"].as_str().unwrap_or_default() {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        "ServiceAccount" | "PriorityClass" | "StorageClass" | "RuntimeClass" => 2,
        "ClusterRole" | "Role" | "ConfigMap" | "Secret" => 3,
        "ClusterRoleBinding" | "RoleBinding" => 4,
        _ => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_manifests_have_a_name() {
        let check = |path: &str, want: Option<&str>| assert_eq!(name(Path::new(path)), want);
        check("/m/web.yaml", Some("web"));
        check("/m/sub/web.v2.json", Some("web.v2"));
        check("/m/web.yaml.skip", None);
        check("/m/.web.yaml", None);
        check("/m/readme.txt", None);
    }

    #[test]
    fn files_are_disabled_by_name_or_folder() {
        let check = |path: &str, disabled: &str, want: bool| {
            let disabled = [disabled.to_owned()];
            let found = is_disabled(Path::new(path), Path::new("/m"), &disabled);
            assert_eq!(found, want, "{path} {disabled:?}");
        };
        check("/m/local-storage.yaml", "local-storage", true);
        check("/m/local-storage.yaml", "local-storage.yaml", true);
        check("/m/metrics-server/role.yaml", "metrics-server", true);
        check("/m/local-storage.yaml", "local", false);
        check("/m/local-storage.yaml", "m", false);
    }

    #[test]
    fn manifests_are_documents_and_lists() {
        let check = |text: &str, want: Result<&[&str], &str>| {
            let found = objects(text);
            let names: Result<Vec<&str>, &str> = match &found {
                Ok(found) => {
                    Ok(found.iter().filter_map(|it| it["metadata"]["name"].as_str()).collect())
                }
                Err(err) => Err(err),
            };
            assert_eq!(names, want.map(<[&str]>::to_vec), "{text}");
        };
        let a = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n";
        check(
            &format!("# head\n---\n{a}---\n# nothing\n---\n{}", a.replace("a}", "b}")),
            Ok(&["a", "b"]),
        );
        check("", Ok(&[]));
        check(
            r#"{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"}}]}"#,
            Ok(&["x"]),
        );
        check(&format!("{a}---\nkind: Pod"), Err("document 2: object without apiVersion or kind"));
        check("apiVersion: v1\nkind: Pod", Err("document 1: Pod without metadata.name"));
    }
}

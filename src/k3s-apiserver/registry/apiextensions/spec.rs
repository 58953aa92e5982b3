//! `spec` of a definition: names, versions, columns, subresources, conversion.

use apimachinery::field::{ErrorKind, FieldErrors, Path};
use apimachinery::jsonpath::JsonPath;
use apimachinery::structural::Structural;
use apimachinery::validation::{label_1035_problems, subdomain_problems};
use serde_json::{Value, json};

use super::super::admissionregistration::webhook::client_config;
use super::super::validate::spec;
use super::{at, flag, has, key, list, map, schema, text, texts};

/// Refuses what a definition may not be, besides its name.
pub(super) fn validate(obj: &Value, errs: &mut FieldErrors) {
    let (path, body) = (spec(), at(obj, "spec"));
    group_and_scope(&path, body, errs);
    let shared = Shared::of(body);
    let all = list(body, "versions");
    if !shared.schema || all.first().is_some_and(|first| !has(first, "schema.openAPIV3Schema")) {
        for (n, version) in all.iter().enumerate() {
            if !has(version, "schema.openAPIV3Schema") {
                let path = path.child("versions").index(n).child("schema");
                errs.required(path.child("openAPIV3Schema"), "");
            }
        }
    }
    for (n, version) in all.iter().enumerate() {
        let path = path.child("versions").index(n);
        let name = text(version, "name");
        let problems = label_1035_problems(name);
        if !problems.is_empty() {
            errs.invalid(path.child("name"), name, problems.join(","));
        }
        deprecation(&path.child("deprecationWarning"), version, errs);
        parts(&path, version, &shared, false, "schema", errs);
    }
    versions(&path.child("versions"), all, errs);
    names(&path.child("names"), key(body, "names"), errs);
    if let Some(first) = all.first() {
        parts(&path, first, &shared, true, "validation", errs);
    }
    conversion(&path.child("conversion"), at(body, "conversion"), errs);
}

/// Which parts all versions have in common: upstream looks at them once.
struct Shared {
    schema: bool,
    subresources: bool,
    columns: bool,
    fields: bool,
}

impl Shared {
    fn of(body: &Value) -> Self {
        let all = list(body, "versions");
        let same =
            |name: &str| all.windows(2).all(|pair| key(&pair[0], name) == key(&pair[1], name));
        Self {
            schema: same("schema"),
            subresources: same("subresources"),
            columns: same("additionalPrinterColumns"),
            fields: same("selectableFields"),
        }
    }
}

/// The parts of a version that may be shared; `top` says which ones are looked at now.
fn parts(
    path: &Path,
    version: &Value,
    shared: &Shared,
    top: bool,
    schema_name: &str,
    errs: &mut FieldErrors,
) {
    let has_status = has(version, "subresources.status");
    let published = at(version, "schema.openAPIV3Schema");
    if shared.schema == top && !published.is_null() {
        let path = path.child(schema_name).child("openAPIV3Schema");
        schema::validate(&path, published, has_status, errs);
    }
    if shared.subresources == top {
        scale(&path.child("subresources"), at(version, "subresources.scale"), errs);
    }
    if shared.columns == top {
        for (n, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
            self::column(&path.child("additionalPrinterColumns").index(n), column, errs);
        }
    }
    if shared.fields == top {
        let fields = list(version, "selectableFields");
        selectable(&path.child("selectableFields"), fields, published, errs);
    }
}

fn group_and_scope(path: &Path, body: &Value, errs: &mut FieldErrors) {
    let group = text(body, "group");
    let problems = subdomain_problems(group);
    if group.is_empty() {
        errs.required(path.child("group"), "");
    } else if !problems.is_empty() {
        errs.invalid(path.child("group"), group, problems.join(","));
    } else if !group.contains('.') {
        errs.invalid(path.child("group"), group, "should be a domain with at least one dot");
    }
    let scope = text(body, "scope");
    if scope.is_empty() {
        errs.required(path.child("scope"), "");
    } else if !matches!(scope, "Cluster" | "Namespaced") {
        errs.not_supported(path.child("scope"), scope, &["Cluster", "Namespaced"]);
    }
}

fn deprecation(path: &Path, version: &Value, errs: &mut FieldErrors) {
    let Some(warning) = key(version, "deprecationWarning").as_str() else { return };
    if !flag(version, "deprecated") {
        errs.invalid(path, warning, "can only be set for deprecated versions");
        return;
    }
    if warning.len() > 256 {
        errs.invalid(path, warning, "must be <= 256 characters long");
    }
    if warning.is_empty() {
        errs.invalid(path, warning, "must not be an empty string");
    }
    if let Some((at, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
        let detail = format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {at}"
        );
        errs.invalid(path, warning, detail);
    }
}

fn versions(path: &Path, all: &[Value], errs: &mut FieldErrors) {
    let shown: Value = all
        .iter()
        .map(|version| {
            let own = |name: &str| key(version, name).clone();
            json!({"Name": own("name"), "Served": flag(version, "served"),
                "Storage": flag(version, "storage"), "Deprecated": flag(version, "deprecated"),
                "DeprecationWarning": own("deprecationWarning"), "Schema": null,
                "Subresources": null, "AdditionalPrinterColumns": null, "SelectableFields": null})
        })
        .collect();
    let shown = Declared(shown).to_string();
    let mut refuse = |detail: &str| {
        errs.add(ErrorKind::Invalid, path.clone(), &shown, detail);
    };
    let mut names: Vec<&str> = all.iter().map(|version| text(version, "name")).collect();
    names.sort_unstable();
    names.dedup();
    if names.len() != all.len() {
        refuse("must contain unique version names");
    }
    if all.iter().filter(|version| flag(version, "storage")).count() != 1 {
        refuse("must have exactly one version marked as storage version");
    }
}

/// Versions with their fields in the order of their declaration.
struct Declared(Value);

impl std::fmt::Display for Declared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const ORDER: [&str; 9] = [
            "Name",
            "Served",
            "Storage",
            "Deprecated",
            "DeprecationWarning",
            "Schema",
            "Subresources",
            "AdditionalPrinterColumns",
            "SelectableFields",
        ];
        let items = self.0.as_array().map(Vec::as_slice).unwrap_or_default();
        let item = |item: &Value| {
            let fields = ORDER.map(|name| format!("{name:?}:{}", item[name])).join(",");
            format!("{{{fields}}}")
        };
        write!(f, "[{}]", items.iter().map(item).collect::<Vec<_>>().join(","))
    }
}

fn names(path: &Path, names: &Value, errs: &mut FieldErrors) {
    const REQUIRED: [&str; 4] = ["plural", "singular", "kind", "listKind"];
    for field in REQUIRED.iter().filter(|field| text(names, field).is_empty()) {
        errs.required(path.child(field), "");
    }
    let value = |field: &str| text(names, field);
    for field in REQUIRED.iter().filter(|field| !value(field).is_empty()) {
        let mixed = matches!(*field, "kind" | "listKind");
        let checked = if mixed { value(field).to_lowercase() } else { value(field).to_owned() };
        let problems = label_1035_problems(&checked).join(",");
        if problems.is_empty() {
            continue;
        }
        let detail = match mixed {
            true => format!("may have mixed case, but should otherwise match: {problems}"),
            false => problems,
        };
        errs.invalid(path.child(field), value(field), detail);
    }
    for (n, name) in texts(names, "shortNames").enumerate() {
        let problems = label_1035_problems(name);
        if !problems.is_empty() {
            errs.invalid(path.child("shortNames").index(n), name, problems.join(","));
        }
    }
    if !value("kind").is_empty() && value("kind") == value("listKind") {
        let detail = "kind and listKind may not be the same";
        errs.invalid(path.child("listKind"), value("listKind"), detail);
    }
    for (n, name) in texts(names, "categories").enumerate() {
        let problems = label_1035_problems(name);
        if !problems.is_empty() {
            errs.invalid(path.child("categories").index(n), name, problems.join(","));
        }
    }
}

fn is_simple_path(path: &Path, text: &str, errs: &mut FieldErrors) -> bool {
    if text.starts_with('.') {
        return true;
    }
    errs.invalid(path.clone(), text, "must be a simple json path starting with .");
    false
}

fn scale(path: &Path, scale: &Value, errs: &mut FieldErrors) {
    if scale.is_null() {
        return;
    }
    let path = path.child("scale");
    for (field, under) in [("specReplicasPath", ".spec"), ("statusReplicasPath", ".status")] {
        let (path, value) = (path.child(field), text(scale, field));
        if value.is_empty() {
            errs.required(path, "");
        } else if is_simple_path(&path, value, errs) && !value.starts_with(&format!("{under}.")) {
            errs.invalid(path, value, format!("should be a json path under {under}"));
        }
    }
    let (path, value) = (path.child("labelSelectorPath"), text(scale, "labelSelectorPath"));
    if !value.is_empty()
        && is_simple_path(&path, value, errs)
        && !value.starts_with(".spec.")
        && !value.starts_with(".status.")
    {
        errs.invalid(path, value, "should be a json path under either .spec or .status");
    }
}

fn column(path: &Path, column: &Value, errs: &mut FieldErrors) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 8] =
        ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    if text(column, "name").is_empty() {
        errs.required(path.child("name"), "");
    }
    let kinds = format!("must be one of {}", TYPES.join(","));
    match text(column, "type") {
        "" => errs.required(path.child("type"), kinds),
        ty if !TYPES.contains(&ty) => errs.invalid(path.child("type"), ty, kinds),
        _ => {}
    }
    let format = text(column, "format");
    if !format.is_empty() && !FORMATS.contains(&format) {
        let detail = format!("must be one of {}", FORMATS.join(","));
        errs.invalid(path.child("format"), format, detail);
    }
    let value = text(column, "jsonPath");
    if value.is_empty() {
        errs.required(path.child("JSONPath"), "");
    } else {
        is_simple_path(&path.child("JSONPath"), value, errs);
    }
}

fn selectable(path: &Path, fields: &[Value], published: &Value, errs: &mut FieldErrors) {
    const MAX: usize = 8;
    let schema = Structural::read(published);
    let mut seen: Vec<&str> = Vec::new();
    for (n, field) in fields.iter().enumerate() {
        let (path, value) = (path.index(n).child("jsonPath"), text(field, "jsonPath"));
        if value.is_empty() {
            errs.required(path, "");
            continue;
        }
        let parsed = JsonPath::parse(value);
        let steps = parsed.as_ref().and_then(JsonPath::fields).filter(|_| value.starts_with('.'));
        let found = steps.as_ref().and_then(|steps| {
            steps.iter().try_fold(&schema, |schema, step| schema.properties.get(*step))
        });
        let Some(found) = found else {
            errs.invalid(path, value, "is an invalid path: does not refer to a valid field");
            continue;
        };
        if value.starts_with(".metadata") {
            errs.invalid(path.clone(), value, "must not point to fields in metadata");
        }
        if !matches!(found.ty.as_str(), "string" | "boolean" | "integer") {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errs.invalid(path.clone(), value, detail);
        }
        if seen.contains(&value) {
            errs.duplicate(path, value);
        } else {
            seen.push(value);
        }
    }
    if seen.len() > MAX {
        errs.too_many(path.clone(), seen.len(), MAX);
    }
}

fn conversion(path: &Path, conversion: &Value, errs: &mut FieldErrors) {
    if conversion.is_null() {
        return;
    }
    let strategy = text(conversion, "strategy");
    let (client, reviews) =
        (path.child("webhookClientConfig"), path.child("conversionReviewVersions"));
    match strategy {
        "" => errs.required(path.child("strategy"), ""),
        "None" | "Webhook" => {}
        _ => errs.not_supported(path.child("strategy"), strategy, &["None", "Webhook"]),
    }
    let webhook = at(conversion, "webhook");
    if strategy == "Webhook" {
        let config = at(webhook, "clientConfig");
        if config.is_null() {
            errs.required(client, "required when strategy is set to Webhook");
        } else {
            client_config(errs, &client, config);
        }
        review_versions(&reviews, webhook, errs);
        return;
    }
    let detail = "should not be set when strategy is not set to Webhook";
    if has(webhook, "clientConfig") {
        errs.forbidden(client, detail);
    }
    if !list(webhook, "conversionReviewVersions").is_empty() {
        errs.forbidden(reviews, detail);
    }
}

fn review_versions(path: &Path, webhook: &Value, errs: &mut FieldErrors) {
    let reviews: Vec<&str> = texts(webhook, "conversionReviewVersions").collect();
    if reviews.is_empty() {
        errs.required(path, "");
        return;
    }
    for (n, version) in reviews.iter().enumerate() {
        if reviews[..n].contains(version) {
            errs.invalid(path.index(n), *version, "duplicate version");
            continue;
        }
        for problem in label_1035_problems(version) {
            errs.invalid(path.index(n), *version, problem);
        }
    }
    if !reviews.iter().any(|version| matches!(*version, "v1" | "v1beta1")) {
        errs.invalid(path, json!(reviews), "must include at least one of v1, v1beta1");
    }
}

/// Refuses stored versions that are no longer there, and a storage version that is not among them.
pub(super) fn stored_versions(obj: &Value, errs: &mut FieldErrors) {
    let path = Path::new("status").child("storedVersions");
    let stored: Vec<&str> = texts(obj, "status.storedVersions").collect();
    if stored.is_empty() {
        errs.invalid(path, Value::Null, "must have at least one stored version");
        return;
    }
    let versions = list(obj, "spec.versions");
    for version in versions.iter().filter(|version| flag(version, "storage")) {
        let name = text(version, "name");
        if !stored.contains(&name) {
            let detail = format!("must have the storage version {name}");
            errs.invalid(path.clone(), json!(stored), detail);
        }
    }
    for (n, name) in stored.iter().enumerate() {
        if !versions.iter().any(|version| text(version, "name") == *name) {
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            errs.invalid(path.index(n), *name, detail);
        }
    }
}

/// The properties of a schema.
pub(super) fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    map(schema, "properties").iter()
}

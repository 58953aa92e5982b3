//! Label and field selectors over cache entries.

use apimachinery::jsonpath::JsonPath;
use apimachinery::selector::{FieldSelector, LabelSelector};
use apimachinery::status::Status;

use serde_json::Value;

use super::options::ListOptions;
use crate::kinds::Kind;
use crate::registry::Selectable;
use crate::request::RequestInfo;
use crate::storage::entry::Entry;

/// What LIST, WATCH and deletecollection select.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Empty for all namespaces.
    pub namespace: String,
    labels: LabelSelector,
    fields: Vec<Term>,
}

/// `field op value`
#[derive(Clone, Debug)]
struct Term {
    field: Field,
    equal: bool,
    value: String,
}

#[derive(Clone, Debug)]
enum Field {
    Name,
    Namespace,
    /// The kind's n-th selectable field.
    Other(usize),
    /// A field of a custom resource, read from the object.
    Custom(JsonPath),
}

impl Filter {
    /// Reads the selectors of a request.
    pub fn read(info: &RequestInfo, kind: &Kind, options: &ListOptions) -> Result<Self, Status> {
        let labels = LabelSelector::parse(&options.label_selector).map_err(Status::bad_request)?;
        let parsed = FieldSelector::parse(&options.field_selector).map_err(Status::bad_request)?;
        let selectable = kind.strategy.selectable_fields();
        let mut fields = Vec::new();
        for term in parsed.terms {
            let field = match term.field.as_str() {
                "metadata.name" => Field::Name,
                "metadata.namespace" if kind.namespaced => Field::Namespace,
                other => match selectable.iter().position(|field| field.name == other) {
                    Some(at) => Field::Other(at),
                    None if let Some(path) = kind.strategy.selectable_path(other) => {
                        Field::Custom(path.clone())
                    }
                    None if kind.custom().is_some() => {
                        let message = format!("field label not supported: {other}");
                        return Err(Status::bad_request(message));
                    }
                    None => return Err(unknown(selectable, other)),
                },
            };
            fields.push(Term { field, equal: term.equal, value: term.value });
        }
        if options.field_selector.is_empty() && !info.name.is_empty() {
            fields.push(Term { field: Field::Name, equal: true, value: info.name.clone() });
        }
        Ok(Self { namespace: info.namespace.clone(), labels, fields })
    }

    /// The same for entries that are in another version: without what is read from the object.
    #[must_use]
    pub fn without_custom_fields(&self) -> Self {
        let mut filter = self.clone();
        filter.fields.retain(|term| !matches!(term.field, Field::Custom(_)));
        filter
    }

    /// Selects every object of a namespace?
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_empty()
    }

    /// Does the selection hold the object?
    pub fn matches(&self, entry: &Entry) -> bool {
        (self.namespace.is_empty() || entry.namespace() == self.namespace)
            && self.fields.iter().all(|term| {
                let equal = match &term.field {
                    Field::Name => entry.name() == term.value,
                    Field::Namespace => entry.namespace() == term.value,
                    Field::Other(at) => {
                        let value = entry.fields.get(*at).map(|text| &**text);
                        value.unwrap_or_default() == term.value
                    }
                    Field::Custom(path) => custom_text(entry, path) == term.value,
                };
                equal == term.equal
            })
            && (self.labels.is_everything() || self.labels.matches(|name| entry.label(name)))
    }
}

/// The text of a custom resource's field, empty when it is not there.
fn custom_text(entry: &Entry, path: &JsonPath) -> String {
    let object = entry.object();
    match path.find(&object).first() {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn unknown(selectable: &[Selectable], name: &str) -> Status {
    // `name` is the old form of `metadata.name` and no field of the kind.
    if selectable.iter().all(|field| field.name == "name") {
        let known = "\"metadata.name\", \"metadata.namespace\"";
        return Status::bad_request(format!(
            "\"{name}\" is not a known field selector: only {known}"
        ));
    }
    Status::bad_request(format!("field label not supported: {name}"))
}

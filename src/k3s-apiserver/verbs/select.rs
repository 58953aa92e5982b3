//! Label and field selectors over cache entries.

use apimachinery::selector::{FieldSelector, LabelSelector};

use super::options::ListOptions;
use crate::kinds::Kind;
use crate::registry::Selectable;
use crate::request::RequestInfo;
use crate::status::Status;
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

#[derive(Clone, Copy, Debug)]
enum Field {
    Name,
    Namespace,
    /// The kind's n-th selectable field.
    Other(usize),
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

    /// Selects every object of a namespace?
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_empty()
    }

    /// Does the selection hold the object?
    pub fn matches(&self, entry: &Entry) -> bool {
        (self.namespace.is_empty() || entry.namespace() == self.namespace)
            && self.fields.iter().all(|term| {
                let value = match term.field {
                    Field::Name => entry.name(),
                    Field::Namespace => entry.namespace(),
                    Field::Other(at) => {
                        entry.fields.get(at).map(|text| &**text).unwrap_or_default()
                    }
                };
                (value == term.value) == term.equal
            })
            && (self.labels.is_everything() || self.labels.matches(|name| entry.label(name)))
    }
}

fn unknown(selectable: &[Selectable], name: &str) -> Status {
    if selectable.is_empty() {
        let known = "\"metadata.name\", \"metadata.namespace\"";
        return Status::bad_request(format!(
            "\"{name}\" is not a known field selector: only {known}"
        ));
    }
    Status::bad_request(format!("field label not supported: {name}"))
}

//! The registry: one `Strategy` per kind, listed once.
//!
//! A strategy says what is particular about a kind and nothing else; the generic verbs do the rest
//! (object metadata, generation, status isolation, managed fields, storage). Invariant: strategies
//! are pure decisions on object trees; only `allocate` holds something, in the guard it returns.

mod admissionregistration;
pub mod apiextensions;
mod apiregistration;
mod apps;
mod autoscaling;
mod batch;
mod certificates;
mod coordination;
pub mod core;
mod discovery;
mod events;
mod flowcontrol;
mod internal;
pub mod meta;
mod networking;
mod node;
mod policy;
mod rbac;
mod resource;
mod scheduling;
mod storage;
pub(crate) mod table;
mod unified;
pub(crate) mod validate;
pub(crate) mod value;

use std::any::Any;

use apimachinery::field::FieldErrors;
use apimachinery::jsonpath::JsonPath;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::companions::Companion;
use crate::user::UserInfo;

/// An API object as a tree, with `apiVersion` and `kind`.
pub type Object = Value;

/// What a strategy may know about the request it serves.
pub struct Cx<'a> {
    /// Empty for cluster-scoped objects.
    pub namespace: &'a str,
    pub user: &'a UserInfo,
    pub now: Timestamp,
    /// Empty for the object itself, else `status`, `scale`, `binding` …
    pub subresource: &'a str,
    /// Read access to all objects, and the allocators.
    pub cluster: &'a Cluster,
    pub dry_run: bool,
}

/// What `allocate` holds while a write is under way: dropped when the write failed, or when the
/// cache has seen it. Releasing a reservation is its `Drop`.
pub type Guard = Option<Box<dyn Any + Send + Sync>>;

/// One column of `kubectl get`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `number`, `boolean`, `date`
    pub kind: &'static str,
    /// `name` for the Name column, else mostly empty.
    pub format: &'static str,
    /// 0 always shown, 1 with `-o wide`.
    pub priority: i32,
    pub description: &'static str,
}

/// A field that `fieldSelector` may name besides `metadata.name` and `metadata.namespace`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selectable {
    /// The name in the selector, `status.phase`.
    pub name: &'static str,
    /// Where the value is in the object, mostly the same; after a `|`, where it is when that is
    /// empty.
    pub path: &'static str,
    /// The text when the object does not have it: `""`, `"false"`, `"0"`.
    pub zero: &'static str,
}

/// How a DELETE goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// The object goes at once (finalizers permitting).
    Now,
    /// `deletionTimestamp` and `deletionGracePeriodSeconds` are set, the object stays until the
    /// node (or the namespace controller) confirms.
    Graceful(i64),
}

/// Everything that is particular about one kind.
pub trait Strategy: Sync + Send {
    /// Group and resource in upstream's short form: `configmaps`, `deployments.apps`.
    fn resource(&self) -> &str;

    /// Fills in defaults that the schema does not declare. Runs on every decoded body and after
    /// every patch, so it must be idempotent.
    fn default(&self, _obj: &mut Object) {}

    /// Clears what a client may not set and sets what only the server may. Status is cleared before
    /// (where the kind has the subresource).
    fn prepare_for_create(&self, _cx: &Cx<'_>, _obj: &mut Object) {}

    /// Refuses; `ObjectMeta` has been validated.
    fn validate(&self, _cx: &Cx<'_>, _obj: &Object, _errs: &mut FieldErrors) {}

    /// As for create. Status (for the object) or all but status and some metadata (for the
    /// subresource `status`) has been put back from `old`; generation is bumped afterwards.
    fn prepare_for_update(&self, _cx: &Cx<'_>, _new: &mut Object, _old: &Object) {}

    /// Refuses an update; `cx.subresource` says of what.
    fn validate_update(&self, _cx: &Cx<'_>, _new: &Object, _old: &Object, _errs: &mut FieldErrors) {
    }

    /// Texts for `Warning` headers.
    fn warnings(&self, _cx: &Cx<'_>, _obj: &Object, _old: Option<&Object>) -> Vec<String> {
        Vec::new()
    }

    /// The fields that `fieldSelector` may name besides name and namespace.
    fn selectable_fields(&self) -> &'static [Selectable] {
        &[]
    }

    /// A field that a definition makes selectable.
    fn selectable_path(&self, _field: &str) -> Option<&JsonPath> {
        None
    }

    /// Where a Scale has its numbers and its selector.
    fn scale(&self) -> ScalePaths {
        ScalePaths::default()
    }

    /// `columnDefinitions` of a Table.
    fn column_definitions(&self) -> Value {
        let definition = |column: &Column| {
            json!({
                "name": column.name, "type": column.kind, "format": column.format,
                "description": column.description, "priority": column.priority,
            })
        };
        self.columns().iter().map(definition).collect()
    }

    /// The columns of a Table.
    fn columns(&self) -> &'static [Column] {
        DEFAULT_COLUMNS
    }

    /// The cells of a Table row, one per column.
    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        default_row(obj, now)
    }

    /// Conditions of a Table row: what is done is told from what runs.
    fn row_conditions(&self, _obj: &Object) -> Option<Value> {
        None
    }

    /// Annotations in which a version of the API says what it has no field for. Rows of a Table,
    /// which are of no version, are without.
    fn annotations_of_version(&self) -> &'static [&'static str] {
        &[]
    }

    /// Reserves what the object needs cluster-wide (service IPs, node ports) and writes it into the
    /// object. Runs after admission, last before the write.
    fn allocate(
        &self,
        _cx: &Cx<'_>,
        _obj: &mut Object,
        _old: Option<&Object>,
        _errs: &mut FieldErrors,
    ) -> Guard {
        None
    }

    /// Objects that the server keeps for as long as this one is there.
    fn companions(&self, _obj: &Object) -> Vec<Companion> {
        Vec::new()
    }

    /// Decides between deletion at once and graceful deletion. `grace` is what the client asked.
    fn graceful_delete(&self, _obj: &Object, _grace: Option<i64>) -> Deletion {
        Deletion::Now
    }

    /// Marks an object that is being deleted and stays for a while (a namespace's phase).
    fn mark_deleting(&self, _obj: &mut Object) {}

    /// Does something besides `metadata.finalizers` keep a deleted object (a namespace's
    /// `spec.finalizers`)?
    fn holds_deletion(&self, _obj: &Object) -> bool {
        false
    }

    /// Is a status in the body of CREATE kept (nodes)?
    fn keeps_status_on_create(&self) -> bool {
        false
    }

    /// May PUT create a missing object?
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// May PUT go without a resourceVersion?
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// Is `metadata.generation` kept for this kind (bumped when anything but metadata and status
    /// changes)?
    fn has_generation(&self) -> bool {
        false
    }

    /// The metadata whose change makes a new generation too.
    fn generation_follows(&self) -> &'static [&'static str] {
        &[]
    }

    /// How names are checked.
    fn name_rule(&self) -> NameRule {
        NameRule::Subdomain
    }

    /// `propagationPolicy` when the client gives none: does deletion orphan dependents?
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// Completes what the store holds, before anybody sees it.
    fn complete_stored(&self, _obj: &mut Object) {}

    /// Turns an object of one served version into another (`"autoscaling/v1"` → `"autoscaling/v2"`).
    /// `apiVersion` has been set already.
    fn convert(&self, _obj: &mut Object, _from: &str, _to: &str) {}
}

/// The places of an object that its Scale shows, by field names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    pub replicas: Vec<String>,
    pub status_replicas: Vec<String>,
    /// A selector object, or the text of one; empty for none.
    pub selector: Vec<String>,
}

impl Default for ScalePaths {
    fn default() -> Self {
        let path = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        Self {
            replicas: path("spec", "replicas"),
            status_replicas: path("status", "replicas"),
            selector: path("spec", "selector"),
        }
    }
}

/// How `metadata.name` is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain (most kinds).
    Subdomain,
    /// RFC 1123 label (namespaces, …).
    Label,
    /// RFC 1035 label.
    Label1035,
    /// Anything that is one path segment (RBAC kinds).
    PathSegment,
    /// Service names: RFC 1123 label since 1.36, else 1035.
    Service,
    /// The strategy checks it in `validate`.
    Own,
}

/// Name and Age: the columns of a kind that declares none.
pub const DEFAULT_COLUMNS: &[Column] = &[NAME, CREATED_AT];

/// The Name column that every Table starts with.
pub const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    priority: 0,
    description: "Name of the object, unique among its kind in its namespace.",
};

/// The Age column that most Tables have.
pub const AGE: Column = Column {
    name: "Age",
    kind: "string",
    format: "",
    priority: 0,
    description: "Time since the server created the object.",
};

/// The last column of a kind without columns of its own.
pub const CREATED_AT: Column = Column {
    name: "Created At",
    kind: "date",
    format: "",
    priority: 0,
    description: AGE.description,
};

/// Name and creation time.
pub fn default_row(obj: &Object, _now: Timestamp) -> Vec<Value> {
    let meta = &obj["metadata"];
    vec![meta["name"].clone(), meta["creationTimestamp"].clone()]
}

/// One slice per group, each in its own folder.
static GROUPS: &[&[&dyn Strategy]] = &[
    core::STRATEGIES,
    admissionregistration::STRATEGIES,
    apiextensions::STRATEGIES,
    apiregistration::STRATEGIES,
    apps::STRATEGIES,
    autoscaling::STRATEGIES,
    batch::STRATEGIES,
    certificates::STRATEGIES,
    coordination::STRATEGIES,
    discovery::STRATEGIES,
    events::STRATEGIES,
    flowcontrol::STRATEGIES,
    networking::STRATEGIES,
    node::STRATEGIES,
    policy::STRATEGIES,
    rbac::STRATEGIES,
    resource::STRATEGIES,
    scheduling::STRATEGIES,
    storage::STRATEGIES,
];

/// The strategies that say something particular.
pub fn strategies() -> impl Iterator<Item = &'static dyn Strategy> {
    GROUPS.iter().flat_map(|group| group.iter().copied())
}

/// A kind without anything particular.
#[derive(Clone, Copy, Debug)]
pub struct Generic(pub &'static str);

impl Strategy for Generic {
    fn resource(&self) -> &'static str {
        self.0
    }
}

/// The resources whose DELETE answers with the object instead of a Status.
pub fn returns_deleted(resource: &str) -> bool {
    matches!(
        resource,
        "csidrivers.storage.k8s.io"
            | "csinodes.storage.k8s.io"
            | "customresourcedefinitions.apiextensions.k8s.io"
            | "deviceclasses.resource.k8s.io"
            | "persistentvolumeclaims"
            | "persistentvolumes"
            | "pods"
            | "podtemplates"
            | "resourceclaims.resource.k8s.io"
            | "resourceclaimtemplates.resource.k8s.io"
            | "resourcequotas"
            | "resourceslices.resource.k8s.io"
            | "serviceaccounts"
            | "services"
            | "storageclasses.storage.k8s.io"
            | "volumeattachments.storage.k8s.io"
            | "volumeattributesclasses.storage.k8s.io"
    )
}

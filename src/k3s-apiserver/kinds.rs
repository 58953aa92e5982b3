//! What is served: every resource in every version, with its storage and its strategy.
//!
//! Built from the table of built-in resources; a custom resource makes the same structure at run
//! time. Generic verbs know a `Kind` and nothing else.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use api::resources::Resource;
use api::schema::{Node, Schema, TypeId};
use apimachinery::status::About;
use arc_swap::ArcSwap;

use crate::custom::Custom;
use crate::registry::{Generic, Strategy, strategies};
use crate::storage::keys::builtin_prefix;
use crate::storage::store::Store;

/// One resource in one version.
pub struct Kind {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub kind: String,
    pub list_kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    pub subresources: Vec<Sub>,
    /// `apps/v1`, as objects of this version carry it.
    pub api_version: String,
    /// `apps/v1`, as objects in the store carry it.
    pub storage_version: String,
    /// Group and resource of the storage: `deployments.apps`.
    pub resource: String,
    pub schema: Cow<'static, Schema>,
    pub ty: TypeId,
    pub strategy: Behaviour,
    /// The built-in description, for discovery.
    pub builtin: Option<&'static Resource>,
}

/// What is particular about a kind: code of ours, or what its definition says.
pub enum Behaviour {
    Builtin(&'static dyn Strategy),
    Custom(Box<Custom>),
}

impl Deref for Behaviour {
    type Target = dyn Strategy;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Builtin(strategy) => *strategy,
            Self::Custom(custom) => &**custom,
        }
    }
}

/// A subresource of a kind.
pub struct Sub {
    pub name: String,
    pub group: String,
    pub version: String,
    pub kind: String,
    pub verbs: Vec<String>,
    /// In the built-in schema, or (the object itself) in the kind's.
    pub ty: Option<TypeId>,
}

impl Kind {
    /// The schema of the objects.
    pub fn node(&self) -> Node<'_> {
        self.schema.node(self.ty)
    }

    /// The schema of a subresource's body.
    pub fn sub_node(&self, sub: &Sub) -> Option<Node<'_>> {
        let own = sub.kind == self.kind && sub.version == self.version;
        let schema = if own { &self.schema } else { api::schema::builtin() };
        sub.ty.map(|ty| schema.node(ty))
    }

    /// What a definition says about the kind, when it is a custom one.
    pub fn custom(&self) -> Option<&Custom> {
        match &self.strategy {
            Behaviour::Custom(custom) => Some(custom),
            Behaviour::Builtin(_) => None,
        }
    }

    pub fn sub(&self, name: &str) -> Option<&Sub> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|have| have == verb)
    }

    pub fn has_status(&self) -> bool {
        self.sub("status").is_some()
    }

    /// Do objects in the store have this version already?
    pub fn is_stored(&self) -> bool {
        self.api_version == self.storage_version
    }

    /// Are the stored bytes what clients get?
    pub fn sends_stored(&self) -> bool {
        self.is_stored() && !self.custom().is_some_and(Custom::completes_stored)
    }

    /// For refusals.
    pub fn about<'a>(&'a self, name: &'a str) -> About<'a> {
        About { group: &self.group, resource: &self.plural, name }
    }
}

/// All kinds, by URL.
pub struct Kinds {
    by_url: HashMap<String, Arc<Kind>>,
    /// Replaced as a whole when a definition changes.
    custom: ArcSwap<HashMap<String, Arc<Kind>>>,
}

impl Kinds {
    /// The built-in kinds; `served` decides about versions that are off by default.
    pub fn builtin(served: impl Fn(&Resource) -> bool) -> Self {
        let mut by_url = HashMap::new();
        for resource in api::resources::all() {
            if served(resource) {
                let kind = Arc::new(builtin(resource));
                by_url.insert(url(&kind.group, &kind.version, &kind.plural), kind);
            }
        }
        Self { by_url, custom: ArcSwap::default() }
    }

    /// The kind behind `/apis/<group>/<version>/…/<plural>`.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        let url = url(group, version, plural);
        self.by_url.get(&url).cloned().or_else(|| self.custom.load().get(&url).cloned())
    }

    /// The built-in kinds.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.by_url.values()
    }

    /// The custom kinds, sorted by group, version and name.
    pub fn custom(&self) -> Vec<Arc<Kind>> {
        let mut all: Vec<Arc<Kind>> = self.custom.load().values().cloned().collect();
        all.sort_by(|a, b| {
            (&a.group, &a.version, &a.plural).cmp(&(&b.group, &b.version, &b.plural))
        });
        all
    }

    /// Puts these custom kinds in place of those before.
    pub fn set_custom(&self, kinds: Vec<Arc<Kind>>) {
        let by_url = |kind: Arc<Kind>| (url(&kind.group, &kind.version, &kind.plural), kind);
        self.custom.store(Arc::new(kinds.into_iter().map(by_url).collect()));
    }

    /// Every served version of the kind that is stored under this resource.
    pub fn versions(&self, resource: &str) -> Vec<Arc<Kind>> {
        let custom = self.custom.load();
        let all = self.iter().chain(custom.values());
        all.filter(|kind| kind.resource == resource).cloned().collect()
    }

    /// Is a built-in resource served in this group and version?
    pub fn has_group_version(&self, group: &str, version: &str) -> bool {
        self.iter().any(|kind| kind.group == group && kind.version == version)
    }

    /// One cache for each stored built-in resource.
    pub fn stores(&self) -> Vec<Store> {
        let mut stores: HashMap<&str, Store> = HashMap::new();
        for kind in self.iter().filter(|kind| kind.has_verb("list") && kind.has_verb("create")) {
            stores.entry(&kind.resource).or_insert_with(|| {
                let mut store = Store::new(&kind.resource, builtin_prefix(&kind.resource));
                store.selectable = strategy(&kind.resource).selectable_fields();
                store
            });
        }
        stores.into_values().collect()
    }
}

fn url(group: &str, version: &str, plural: &str) -> String {
    format!("{group}/{version}/{plural}")
}

fn builtin(resource: &'static Resource) -> Kind {
    let group_resource = match resource.storage_group {
        "" => resource.plural.to_owned(),
        group => format!("{}.{group}", resource.plural),
    };
    Kind {
        group: resource.group.to_owned(),
        version: resource.version.to_owned(),
        plural: resource.plural.to_owned(),
        kind: resource.kind.to_owned(),
        list_kind: resource.list_kind.to_owned(),
        namespaced: resource.namespaced,
        verbs: resource.verbs.iter().map(|&verb| verb.to_owned()).collect(),
        subresources: resource.subresources.iter().map(subresource).collect(),
        api_version: resource.api_version(),
        storage_version: api::resources::api_version(
            resource.storage_group,
            resource.storage_version,
        ),
        strategy: Behaviour::Builtin(strategy(&group_resource)),
        resource: group_resource,
        schema: Cow::Borrowed(api::schema::builtin()),
        ty: resource.ty,
        builtin: Some(resource),
    }
}

fn subresource(sub: &'static api::resources::Subresource) -> Sub {
    Sub {
        name: sub.name.to_owned(),
        group: sub.group.to_owned(),
        version: sub.version.to_owned(),
        kind: sub.kind.to_owned(),
        verbs: sub.verbs.iter().map(|&verb| verb.to_owned()).collect(),
        ty: sub.ty,
    }
}

/// The strategy of a resource, or the one without particulars.
fn strategy(resource: &str) -> &'static dyn Strategy {
    static GENERIC: Generic = Generic("");
    strategies().find(|strategy| strategy.resource() == resource).unwrap_or(&GENERIC)
}

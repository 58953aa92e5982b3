//! Every built-in resource of the API, and how to find one.
//!
//! Derived tables (routes, discovery, OpenAPI, storage) start from here. A custom resource is
//! described by its own run-time structure, not by these.

use crate::generated;
use crate::schema::TypeId;

/// One resource in one version.
#[derive(Debug)]
pub struct Resource {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub kind: &'static str,
    /// Empty where the resource cannot be listed.
    pub list_kind: &'static str,
    pub namespaced: bool,
    pub verbs: &'static [&'static str],
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub subresources: &'static [Subresource],
    /// Alpha and beta versions are off unless `--runtime-config` turns them on.
    pub served_by_default: bool,
    /// The group and version that objects are stored in; another version is converted.
    pub storage_group: &'static str,
    pub storage_version: &'static str,
    /// The version that discovery's `storageVersionHash` is made of (with `storage_group`).
    pub hash_version: &'static str,
    pub ty: TypeId,
    pub list_ty: Option<TypeId>,
}

/// What hangs below an object: `status`, `scale`, `exec`.
#[derive(Debug)]
pub struct Subresource {
    pub name: &'static str,
    /// Group, version and kind of its body.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    /// `None` for the options that only travel as query parameters (`PodExecOptions`).
    pub ty: Option<TypeId>,
    pub verbs: &'static [&'static str],
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }

    /// Whether the resource has this verb.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }
}

/// `v1` for the core group, else `group/version`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Every built-in resource, sorted by group, version and name.
pub fn all() -> &'static [Resource] {
    generated::RESOURCES
}

/// The resource behind a URL.
pub fn by_plural(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    let key = |r: &Resource| (r.group, r.version, r.plural);
    let at = all().binary_search_by(|r| key(r).cmp(&(group, version, plural))).ok()?;
    all().get(at)
}

/// The resource behind an object.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Resource> {
    all().iter().find(|r| r.kind == kind && r.version == version && r.group == group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_each_entry_is_found() {
        for resource in all() {
            let found = by_plural(resource.group, resource.version, resource.plural);
            assert!(
                found.is_some_and(|found| std::ptr::eq(found, resource)),
                "{}",
                resource.plural
            );
            let found = by_kind(resource.group, resource.version, resource.kind);
            assert!(found.is_some_and(|found| std::ptr::eq(found, resource)), "{}", resource.kind);
            if resource.has_verb("list") {
                assert!(resource.list_ty.is_some(), "{}", resource.plural);
            }
        }
    }

    #[test]
    fn subresources_carry_the_type_of_their_body() {
        let pods = by_plural("", "v1", "pods").unwrap();
        let eviction = pods.subresource("eviction").unwrap();
        assert_eq!((eviction.group, eviction.kind), ("policy", "Eviction"));
        assert!(eviction.ty.is_some());
        assert!(pods.subresource("exec").unwrap().ty.is_none());
    }
}

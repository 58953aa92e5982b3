//! Who asks: the identity that authentication found and everything after it reads.

use std::collections::BTreeMap;

/// `user.Info` of upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// Is the user a member of `group`?
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|have| have == group)
    }
}

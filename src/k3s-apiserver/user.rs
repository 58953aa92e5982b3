//! Who asks: the identity that authentication found and everything after it reads.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// `user.Info` of upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// As reviews and audit events name the user.
    pub fn to_value(&self) -> Value {
        let mut shown = json!({});
        if !self.name.is_empty() {
            shown["username"] = self.name.as_str().into();
        }
        if !self.uid.is_empty() {
            shown["uid"] = self.uid.as_str().into();
        }
        if !self.groups.is_empty() {
            shown["groups"] = json!(self.groups);
        }
        if !self.extra.is_empty() {
            shown["extra"] = json!(self.extra);
        }
        shown
    }

    /// Is the user a member of `group`?
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|have| have == group)
    }
}

//! Fields that somebody else owns with another value.
//!
//! Invariant: the message and the causes name the same conflicts, each field once per manager.

use super::managers::{Manager, Operation};
use super::set::Set;

/// One field and who owns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// How the owner is named to the user: `"kubectl" using v1 at …`.
    pub owner: String,
    /// The field: `.data.a`.
    pub field: String,
}

/// Why an apply was refused.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conflicts {
    by_manager: Vec<(Manager, Set)>,
}

impl Conflicts {
    pub(super) fn push(&mut self, manager: &Manager, fields: Set) {
        let mut who = manager.clone();
        who.set = Set::new();
        self.by_manager.push((who, fields));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_manager.is_empty()
    }

    /// Takes fields away from every conflict.
    pub(super) fn forgive(&mut self, fields: &Set) {
        for (_, set) in &mut self.by_manager {
            set.subtract(fields);
        }
        self.by_manager.retain(|(_, set)| !set.is_empty());
    }

    /// The conflicts, one per field, for the causes of a `Status` (reason `FieldManagerConflict`,
    /// message `conflict with <owner>`).
    pub fn list(&self) -> Vec<Conflict> {
        let mut sorted: Vec<(String, &Set)> =
            self.by_manager.iter().map(|(who, fields)| (owner(who), fields)).collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        let mut out = Vec::new();
        for (owner, fields) in sorted {
            fields.for_each(&mut |path| {
                let field = path.iter().map(ToString::to_string).collect();
                out.push(Conflict { owner: owner.clone(), field });
            });
        }
        out
    }

    /// The message of the `Status`.
    pub fn message(&self) -> String {
        use std::fmt::Write as _;
        let list = self.list();
        if let [one] = list.as_slice() {
            return format!(
                "Apply failed with 1 conflict: conflict with {}: {}",
                one.owner, one.field
            );
        }
        let mut text = format!("Apply failed with {} conflicts: ", list.len());
        let mut owner = None;
        for (at, conflict) in list.iter().enumerate() {
            let line = if at == 0 { "" } else { "\n" };
            // Writing to a string cannot fail.
            let _ = if owner == Some(&conflict.owner) {
                write!(text, "{line}- {}", conflict.field)
            } else {
                write!(text, "{line}conflicts with {}:\n- {}", conflict.owner, conflict.field)
            };
            owner = Some(&conflict.owner);
        }
        text
    }
}

fn owner(manager: &Manager) -> String {
    let mut text = format!("{:?}", manager.name);
    if !manager.subresource.is_empty() {
        text.push_str(&format!(" with subresource {:?}", manager.subresource));
    }
    if manager.operation == Operation::Update {
        text.push_str(&format!(" using {}", manager.api_version));
    }
    text
}

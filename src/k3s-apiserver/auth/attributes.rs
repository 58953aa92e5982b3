//! What an authorizer is asked, and what it answers.

use crate::user::UserInfo;

/// One question: may this user do this?
#[derive(Clone, Debug, Default)]
pub struct Attributes<'a> {
    pub user: Option<&'a UserInfo>,
    pub verb: &'a str,
    /// False for plain paths such as `/metrics`.
    pub is_resource: bool,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub path: &'a str,
    /// The request's `fieldSelector`, unparsed.
    pub field_selector: &'a str,
}

/// What an authorizer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow {
        reason: String,
    },
    /// Not by me; the reasons end up in the refusal.
    NoOpinion {
        reason: String,
    },
}

impl Decision {
    pub(super) fn allow() -> Self {
        Self::Allow { reason: String::new() }
    }

    pub(super) fn no(reason: impl Into<String>) -> Self {
        Self::NoOpinion { reason: reason.into() }
    }

    /// Whether it was allowed.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }

    /// Why.
    pub fn reason(&self) -> &str {
        match self {
            Self::Allow { reason } | Self::NoOpinion { reason } => reason,
        }
    }
}

impl Attributes<'_> {
    /// `User "alice" cannot list resource "pods" …`, upstream's words for a refusal.
    pub fn refusal(&self, reason: &str) -> String {
        let user = self.user.map_or("", |user| &user.name);
        let mut text = format!("User {user:?} cannot {} ", self.verb);
        if self.is_resource {
            let slash = if self.subresource.is_empty() { "" } else { "/" };
            let resource = format!("{}{slash}{}", self.resource, self.subresource);
            text.push_str(&format!("resource {resource:?} in API group {:?} ", self.group));
            if self.namespace.is_empty() {
                text.push_str("at the cluster scope");
            } else {
                text.push_str(&format!("in the namespace {:?}", self.namespace));
            }
        } else {
            text.push_str(&format!("path {:?}", self.path));
        }
        if !reason.is_empty() {
            text.push_str(": ");
            text.push_str(reason);
        }
        text
    }
}

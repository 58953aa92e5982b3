//! The authorizers in their order: who says yes first wins, the reasons of the others add up.

use super::attributes::{Attributes, Decision};
use super::node::{NodeAuthorizer, node_name};
use super::objects::Objects;
use super::rbac::{Rbac, Rule};
use crate::user::UserInfo;

/// `--authorization-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    AlwaysAllow,
    AlwaysDeny,
    Node,
    Rbac,
}

/// Decides every question.
#[derive(Debug)]
pub struct Authorizer {
    modes: Vec<Mode>,
    node: NodeAuthorizer,
    pub(super) rbac: Rbac,
}

/// What a user may do, as far as the authorizers can tell.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub rules: Vec<Rule>,
    /// There may be more than is listed.
    pub incomplete: bool,
    pub errors: Vec<String>,
}

impl Authorizer {
    /// The authorizers of `--authorization-mode`.
    pub fn new(modes: &[String]) -> anyhow::Result<Self> {
        let mode = |name: &String| match name.as_str() {
            "AlwaysAllow" => Ok(Mode::AlwaysAllow),
            "AlwaysDeny" => Ok(Mode::AlwaysDeny),
            "Node" => Ok(Mode::Node),
            "RBAC" => Ok(Mode::Rbac),
            other => Err(anyhow::anyhow!(
                "unknown authorization mode {other:?}: AlwaysAllow, AlwaysDeny, Node or RBAC"
            )),
        };
        let modes = modes.iter().map(mode).collect::<anyhow::Result<_>>()?;
        Ok(Self { modes, node: NodeAuthorizer::default(), rbac: Rbac::default() })
    }

    /// Decides; members of `system:masters` may do everything.
    pub fn authorize(&self, objects: &dyn Objects, asked: &Attributes<'_>) -> Decision {
        if asked.user.is_some_and(|user| user.in_group("system:masters")) {
            return Decision::allow();
        }
        let mut reasons: Vec<String> = Vec::new();
        for mode in &self.modes {
            let decision = match mode {
                Mode::AlwaysAllow => Decision::allow(),
                Mode::AlwaysDeny => Decision::no("Everything is forbidden."),
                Mode::Rbac => self.rbac.snapshot(objects).authorize(asked),
                Mode::Node if asked.user.and_then(node_name).is_none() => continue,
                Mode::Node => self.node.authorize(objects, &self.rbac.snapshot(objects), asked),
            };
            match decision {
                Decision::Allow { .. } => return decision,
                Decision::NoOpinion { reason } if !reason.is_empty() => reasons.push(reason),
                Decision::NoOpinion { .. } => {}
            }
        }
        Decision::no(reasons.join("\n"))
    }

    /// Lists what a user may do in a namespace.
    pub fn rules_for(&self, objects: &dyn Objects, user: &UserInfo, namespace: &str) -> Rules {
        let mut out = Rules::default();
        for mode in &self.modes {
            match mode {
                Mode::AlwaysAllow => {
                    let all = || vec!["*".to_owned()];
                    out.rules.push(Rule {
                        verbs: all(),
                        groups: all(),
                        resources: all(),
                        ..Rule::default()
                    });
                    out.rules.push(Rule { verbs: all(), urls: all(), ..Rule::default() });
                }
                Mode::AlwaysDeny => {}
                Mode::Node if node_name(user).is_some() => {
                    out.incomplete = true;
                    out.errors
                        .push("node authorizer does not support user rule resolution".to_owned());
                }
                Mode::Node => {}
                Mode::Rbac => {
                    let (rules, error) = self.rbac.snapshot(objects).rules_for(user, namespace);
                    out.rules.extend(rules);
                    if !error.is_empty() {
                        out.incomplete = true;
                        out.errors.push(error);
                    }
                }
            }
        }
        out
    }
}

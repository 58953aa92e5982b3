//! Expressions of policies: what they may name, what is wrong with them, and the compiled ones.
//!
//! Knows no policy. Invariant: a program in the cache was compiled for exactly the variables of its
//! key.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use apimachinery::cel::{self, Program, Ty};

/// Programs that are kept.
const KEPT_MAX: usize = 1024;

/// What an expression may name.
#[derive(Clone, Debug)]
pub struct Scope(BTreeMap<String, Ty>);

/// Whether a policy has parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Params {
    None,
    Declared,
}

impl Scope {
    /// The variables of admission policies.
    pub fn admission(params: Params) -> Self {
        let mut known = BTreeMap::new();
        for name in ["object", "oldObject", "request", "namespaceObject"] {
            known.insert(name.to_owned(), Ty::Dyn);
        }
        if params == Params::Declared {
            known.insert("params".to_owned(), Ty::Dyn);
        }
        known.insert("authorizer".to_owned(), Ty::AUTHORIZER);
        known.insert("variables".to_owned(), Ty::object([]));
        Self(known)
    }

    /// The variables of the match conditions of webhooks.
    pub fn match_conditions() -> Self {
        let mut scope = Self::admission(Params::None);
        for name in ["namespaceObject", "variables"] {
            scope.0.remove(name);
        }
        scope
    }

    /// The variables of device selectors.
    pub fn device() -> Self {
        Self(BTreeMap::from([("device".to_owned(), Ty::Dyn)]))
    }

    /// The same with one more of a policy's own variables.
    pub fn declare(&mut self, name: &str, ty: Ty) {
        let own = self.0.entry("variables".to_owned()).or_insert(Ty::Dyn);
        if let Ty::Object(fields) = own {
            let mut fields = (**fields).clone();
            fields.insert(name.to_owned(), ty);
            *own = Ty::Object(Arc::new(fields));
        }
    }

    /// Compiles an expression, or takes it from the cache.
    pub fn compile(&self, text: &str) -> Result<Arc<Program>, String> {
        static KEPT: LazyLock<Mutex<HashMap<String, Arc<Program>>>> = LazyLock::new(Mutex::default);
        let key = format!("{:?}\n{text}", self.0);
        let known = KEPT.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(program) = known {
            return Ok(program);
        }
        let program = Arc::new(cel::compile(text, &self.0)?);
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(key, program.clone());
        Ok(program)
    }

    /// What is wrong with an expression that must have this type.
    pub fn problem(&self, text: &str, want: &Ty) -> Option<String> {
        match self.compile(text) {
            Err(why) => Some(format!("compilation failed: {why}")),
            Ok(program) if program.ty == *want || program.ty == Ty::Dyn => None,
            Ok(program) => Some(format!("must evaluate to {want} but got {}", program.ty)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_upstreams() {
        let scope = Scope::admission(Params::None);
        let problem = |text: &str| scope.problem(text, &Ty::Bool).unwrap_or_default();
        assert_eq!(problem("1"), "must evaluate to bool but got int");
        assert_eq!(problem("object.spec.x == 1"), "");
        assert_eq!(
            problem("params == null"),
            "compilation failed: ERROR: <input>:1:1: undeclared reference to 'params' (in container '')\n | params == null\n | ^"
        );
        let mut scope = Scope::admission(Params::None);
        let keys = "has(object.data) ? object.data.map(k, k) : []";
        scope.declare("keys", scope.compile(keys).unwrap().ty.clone());
        scope.declare("n", scope.compile("size(variables.keys)").unwrap().ty.clone());
        let both = "variables.n < 2 && !('bad' in variables.keys)";
        assert_eq!(scope.problem(both, &Ty::Bool), None);
        assert_eq!(problem("authorizer.requestResource.check('get').allowed()"), "");
    }
}

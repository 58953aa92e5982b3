//! Targets of a command: `pods`, `pods a b`, `pod/a svc/b`, `deploy,svc` to types and names.

use anyhow::{Result, bail};

use crate::discovery::{Type, Types};

/// Objects of one type: some by name, or all of them.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    pub(crate) of: &'a Type,
    /// Empty for all.
    pub(crate) names: Vec<String>,
}

/// What a command is about.
pub(crate) fn targets<'a>(types: &'a Types, words: &[String]) -> Result<Vec<Target<'a>>> {
    let Some(first) = words.first() else {
        bail!(
            "You must specify the type of resource to get. Use \"kubectl api-resources\" for a \
             complete list of supported resources."
        );
    };
    if !first.contains('/') {
        let names = words.get(1..).unwrap_or_default();
        if let Some(wrong) = names.iter().find(|name| name.contains('/')) {
            bail!(
                "there is no need to specify a resource type as a separate argument when passing \
                 arguments in resource/name form (e.g. 'kubectl get {wrong}')"
            );
        }
        let mut all = Vec::new();
        for name in first.split(',') {
            for of in types.find(name)? {
                all.push(Target { of, names: names.to_vec() });
            }
        }
        return Ok(all);
    }
    let mut all: Vec<Target<'_>> = Vec::new();
    for word in words {
        let Some((kind, name)) = word.split_once('/') else {
            bail!("there is no resource type in {word:?}; give TYPE/NAME");
        };
        let [of] = types.find(kind)?[..] else { bail!("{kind:?} is more than one type") };
        match all.iter_mut().find(|target| target.of.resource == of.resource) {
            Some(target) => target.names.push(name.to_owned()),
            None => all.push(Target { of, names: vec![name.to_owned()] }),
        }
    }
    Ok(all)
}

/// One object: `NAME` of the default type, or `TYPE/NAME`.
pub(crate) fn one<'a>(types: &'a Types, word: &str, default: &str) -> Result<(&'a Type, String)> {
    let (kind, name) = word.split_once('/').unwrap_or((default, word));
    let [of] = types.find(kind)?[..] else { bail!("{kind:?} is more than one type") };
    Ok((of, name.to_owned()))
}

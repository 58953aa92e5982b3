//! What a Job says about failures and about success before the end: `podFailurePolicy` and
//! `successPolicy`. Pure.
//!
//! Invariant: a policy's rules are read in order and the first that matches decides.

use super::indexes::{self, Indexes};
use crate::types::{
    batch::{FailureRule, Job, OnExitCodes},
    core::{ContainerStatus, Pod},
};

/// What the failure policy makes of a failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts, as without a policy.
    Count,
    /// It does not count.
    Ignore,
    /// It counts, and no other pod is tried for its index.
    FailIndex,
    /// The whole Job ends with this message.
    FailJob(String),
}

/// Judges a failed pod.
pub(super) fn judge(job: &Job, pod: &Pod) -> Verdict {
    let Some(policy) = &job.spec.pod_failure_policy else { return Verdict::Count };
    let matched =
        policy.rules.iter().enumerate().find_map(|(at, rule)| Some((at, rule, why(rule, pod)?)));
    let Some((at, rule, why)) = matched else { return Verdict::Count };
    match rule.action.as_str() {
        "Ignore" => Verdict::Ignore,
        "FailIndex" => Verdict::FailIndex,
        "FailJob" => Verdict::FailJob(format!("{why} matching FailJob rule at index {at}")),
        _ => Verdict::Count,
    }
}

/// The beginning of a sentence on why the rule matches, when it does.
fn why(rule: &FailureRule, pod: &Pod) -> Option<String> {
    let at = pod.metadata.key();
    if let Some(codes) = &rule.on_exit_codes {
        let statuses =
            pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses);
        let (name, code) = statuses.filter_map(|it| exit(it, codes)).next()?;
        return Some(format!("Container {name} for pod {at} failed with exit code {code}"));
    }
    let wanted = |kind: &str, status: &str| {
        rule.on_pod_conditions.iter().any(|it| {
            let want = if it.status.is_empty() { "True" } else { &it.status };
            it.kind == kind && want == status
        })
    };
    let found = pod.status.conditions.iter().find(|it| wanted(&it.kind, &it.status))?;
    Some(format!("Pod {at} has condition {}", found.kind))
}

fn exit<'a>(status: &'a ContainerStatus, codes: &OnExitCodes) -> Option<(&'a str, i32)> {
    let code = status.state.terminated.as_ref()?.exit_code;
    let asked = codes.container_name.as_ref().is_none_or(|it| *it == status.name);
    let listed = codes.values.contains(&code);
    let matches = if codes.operator == "NotIn" { !listed } else { listed };
    (asked && code != 0 && matches).then_some((status.name.as_str(), code))
}

/// The message of the first success rule that these indexes fulfil.
pub(super) fn success(job: &Job, done: &Indexes) -> Option<String> {
    let rules = &job.spec.success_policy.as_ref()?.rules;
    let met = rules.iter().position(|rule| {
        let Some(text) = &rule.succeeded_indexes else {
            let wanted = rule.succeeded_count.and_then(|it| usize::try_from(it).ok());
            return wanted.is_some_and(|wanted| done.len() >= wanted);
        };
        let required = indexes::parse(text, job.spec.completions.unwrap_or(0));
        let wanted = rule.succeeded_count.and_then(|it| usize::try_from(it).ok());
        required.intersection(done).count() >= wanted.unwrap_or(required.len())
    })?;
    Some(format!("Matched rules at index {met}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(spec: &str) -> Job {
        serde_json::from_str(&format!(r#"{{"spec":{spec}}}"#)).unwrap()
    }

    #[test]
    fn the_first_matching_failure_rule_decides() {
        let check = |rules: &str, want: Verdict| {
            let job = job(&format!(r#"{{"podFailurePolicy":{{"rules":[{rules}]}}}}"#));
            let pod: Pod = serde_json::from_str(
                r#"{"metadata":{"namespace":"n","name":"p"},"status":{"phase":"Failed",
                "conditions":[{"type":"DisruptionTarget","status":"True"}],
                "containerStatuses":[{"name":"a","state":{"terminated":{"exitCode":0}}},
                    {"name":"c","state":{"terminated":{"exitCode":42}}}]}}"#,
            )
            .unwrap();
            assert_eq!(judge(&job, &pod), want, "{rules}");
        };
        check("", Verdict::Count);
        check(
            r#"{"action":"FailJob","onExitCodes":{"operator":"In","values":[42]}}"#,
            Verdict::FailJob(
                "Container c for pod n/p failed with exit code 42 matching FailJob rule at index 0"
                    .into(),
            ),
        );
        check(
            r#"{"action":"FailJob","onExitCodes":{"containerName":"a","operator":"NotIn","values":[1]}},
               {"action":"FailIndex","onExitCodes":{"operator":"NotIn","values":[1]}}"#,
            Verdict::FailIndex,
        );
        check(
            r#"{"action":"Ignore","onPodConditions":[{"type":"DisruptionTarget"}]},
               {"action":"FailJob","onExitCodes":{"operator":"In","values":[42]}}"#,
            Verdict::Ignore,
        );
        check(
            r#"{"action":"FailJob","onPodConditions":[{"type":"DisruptionTarget","status":"True"}]}"#,
            Verdict::FailJob(
                "Pod n/p has condition DisruptionTarget matching FailJob rule at index 0".into(),
            ),
        );
        check(
            r#"{"action":"FailJob","onPodConditions":[{"type":"DisruptionTarget","status":"False"}]}"#,
            Verdict::Count,
        );
    }

    #[test]
    fn success_rules_want_indexes_or_a_number_of_them() {
        let check = |rules: &str, done: &[i32], want: Option<&str>| {
            let job = job(&format!(r#"{{"completions":5,"successPolicy":{{"rules":[{rules}]}}}}"#));
            let done = done.iter().copied().collect();
            assert_eq!(success(&job, &done).as_deref(), want, "{rules}");
        };
        check(r#"{"succeededCount":2}"#, &[3], None);
        check(r#"{"succeededCount":2}"#, &[1, 3], Some("Matched rules at index 0"));
        check(r#"{"succeededIndexes":"0,2"}"#, &[0, 1], None);
        check(r#"{"succeededIndexes":"0,2"}"#, &[0, 2], Some("Matched rules at index 0"));
        check(r#"{"succeededIndexes":"0-3","succeededCount":1}"#, &[4], None);
        check(
            r#"{"succeededCount":5},{"succeededIndexes":"0-3","succeededCount":1}"#,
            &[3],
            Some("Matched rules at index 1"),
        );
    }
}

//! Completion indexes: which one a pod has, and sets of them as the status writes them. Pure.

use std::collections::BTreeSet;

use crate::types::{batch::Job, core::Pod};

/// Annotation and label with a pod's index.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";

pub(super) type Indexes = BTreeSet<i32>;

pub(super) fn is_indexed(job: &Job) -> bool {
    job.spec.completion_mode == "Indexed"
}

/// The pod's index, when the Job still has it.
pub(super) fn index(job: &Job, pod: &Pod) -> Option<i32> {
    let index = pod.metadata.annotation(INDEX)?.parse().ok()?;
    (0..job.spec.completions.unwrap_or(0)).contains(&index).then_some(index)
}

/// `1,3-5,7` as numbers below the limit.
pub(super) fn parse(text: &str, limit: i32) -> Indexes {
    let mut found = Indexes::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            found.extend(first..=last.min(limit - 1));
        }
    }
    found
}

/// Numbers as `1,3-5,7`; two neighbours are a pair, not a range, as upstream writes them.
pub(super) fn format(indexes: &Indexes) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for index in indexes {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => runs.push((*index, *index)),
        }
    }
    let text = runs.into_iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    });
    text.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_written_in_runs() {
        for text in ["", "1", "0,1", "1,3-5,7", "0-9"] {
            assert_eq!(format(&parse(text, 10)), text);
        }
    }

    #[test]
    fn what_is_beyond_the_completions_is_dropped() {
        assert_eq!(format(&parse("0,2-9,11", 4)), "0,2,3");
        assert_eq!(format(&parse("nonsense,3", 4)), "3");
    }
}

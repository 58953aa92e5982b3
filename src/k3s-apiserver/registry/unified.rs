//! Unified differences of lines, as Python's `difflib` (and the Go port upstream uses) makes them.
//!
//! Knows nothing but lines. Invariant: it matches the longest block first, and lines that are all
//! over a long text start no match; another algorithm would give other hunks.

use std::collections::HashMap;

const CONTEXT: usize = 3;

/// What happens to `old[a..b]` and `new[c..d]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    same: bool,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
}

/// The difference, without file names; empty when there is none.
pub(crate) fn diff(old: &[String], new: &[String]) -> String {
    let mut out = String::new();
    for group in groups(steps(old, new)) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        out.push_str(&format!("@@ -{} +{} @@\n", range(first.a, last.b), range(first.c, last.d)));
        for step in &group {
            let mut add = |mark: char, lines: &[String]| {
                for line in lines {
                    out.push(mark);
                    out.push_str(line);
                    out.push('\n');
                }
            };
            if step.same {
                add(' ', &old[step.a..step.b]);
            } else {
                add('-', &old[step.a..step.b]);
                add('+', &new[step.c..step.d]);
            }
        }
    }
    out
}

fn range(start: usize, end: usize) -> String {
    match end - start {
        1 => (start + 1).to_string(),
        0 => format!("{start},0"),
        length => format!("{},{length}", start + 1),
    }
}

fn steps(old: &[String], new: &[String]) -> Vec<Step> {
    let mut out = Vec::new();
    let (mut a, mut c) = (0, 0);
    let mut blocks = blocks(old, new);
    blocks.push((old.len(), new.len(), 0));
    for (x, y, size) in blocks {
        if a < x || c < y {
            out.push(Step { same: false, a, b: x, c, d: y });
        }
        (a, c) = (x + size, y + size);
        if size > 0 {
            out.push(Step { same: true, a: x, b: a, c: y, d: c });
        }
    }
    out
}

/// Splits where more than twice the context is the same.
fn groups(mut steps: Vec<Step>) -> Vec<Vec<Step>> {
    if let Some(first) = steps.first_mut().filter(|step| step.same) {
        first.a = first.a.max(first.b.saturating_sub(CONTEXT));
        first.c = first.c.max(first.d.saturating_sub(CONTEXT));
    }
    if let Some(last) = steps.last_mut().filter(|step| step.same) {
        last.b = last.b.min(last.a + CONTEXT);
        last.d = last.d.min(last.c + CONTEXT);
    }
    let mut out = Vec::new();
    let mut group: Vec<Step> = Vec::new();
    for mut step in steps {
        if step.same && step.b - step.a > 2 * CONTEXT {
            group.push(Step { b: step.a + CONTEXT, d: step.c + CONTEXT, ..step });
            out.push(std::mem::take(&mut group));
            (step.a, step.c) = (step.b - CONTEXT, step.d - CONTEXT);
        }
        group.push(step);
    }
    out.push(group);
    out.retain(|group| group.iter().any(|step| !step.same));
    out
}

/// The matching blocks `(start in old, start in new, length)`, in order, neighbours joined.
fn blocks(old: &[String], new: &[String]) -> Vec<(usize, usize, usize)> {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, line) in new.iter().enumerate() {
        places.entry(line).or_default().push(at);
    }
    if new.len() >= 200 {
        let most = new.len() / 100 + 1;
        places.retain(|_, at| at.len() <= most);
    }
    let mut found = Vec::new();
    let mut todo = vec![(0, old.len(), 0, new.len())];
    while let Some((a, b, c, d)) = todo.pop() {
        let (x, y, size) = longest(old, new, &places, (a, b, c, d));
        if size == 0 {
            continue;
        }
        found.push((x, y, size));
        todo.push((a, x, c, y));
        todo.push((x + size, b, y + size, d));
    }
    found.sort_unstable();
    let mut joined: Vec<(usize, usize, usize)> = Vec::new();
    for (x, y, size) in found {
        match joined.last_mut() {
            Some((u, v, length)) if *u + *length == x && *v + *length == y => *length += size,
            _ => joined.push((x, y, size)),
        }
    }
    joined
}

/// The longest block that matches, the first of several.
fn longest(
    old: &[String],
    new: &[String],
    places: &HashMap<&str, Vec<usize>>,
    (a, b, c, d): (usize, usize, usize, usize),
) -> (usize, usize, usize) {
    let (mut x, mut y, mut size) = (a, c, 0);
    let mut lengths: HashMap<usize, usize> = HashMap::new();
    for (i, line) in old.iter().enumerate().take(b).skip(a) {
        let mut here = HashMap::new();
        for &j in places.get(line.as_str()).into_iter().flatten() {
            if j < c {
                continue;
            }
            if j >= d {
                break;
            }
            let length = j.checked_sub(1).and_then(|j| lengths.get(&j)).copied().unwrap_or(0) + 1;
            here.insert(j, length);
            if length > size {
                (x, y, size) = (i + 1 - length, j + 1 - length, length);
            }
        }
        lengths = here;
    }
    // Lines that start no match may still lengthen one.
    while x > a && y > c && old[x - 1] == new[y - 1] {
        (x, y, size) = (x - 1, y - 1, size + 1);
    }
    while x + size < b && y + size < d && old[x + size] == new[y + size] {
        size += 1;
    }
    (x, y, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(old: &str, new: &str, want: &str) {
        let lines = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            diff(&lines(old), &lines(new)),
            want.replace(' ', "\n").replace('_', " "),
            "{old} → {new}"
        );
    }

    #[test]
    fn differences_have_context_and_hunks() {
        check("a", "a", "");
        check("a b c", "a x c", "@@_-1,3_+1,3_@@ _a -b +x _c ");
        check(
            "1 2 3 4 5 6 7 8 9 a b c",
            "0 2 3 4 5 6 7 8 9 a b d",
            "@@_-1,4_+1,4_@@ -1 +0 _2 _3 _4 @@_-9,4_+9,4_@@ _9 _a _b -c +d ",
        );
        check("a b", "a n b", "@@_-1,2_+1,3_@@ _a +n _b ");
    }
}

//! Which container ran out of memory, by the kernel's own count.
//!
//! containerd tells of kills that it sees in a container's control group. When the kernel ends all
//! of a container, the group may be gone before anybody has looked; its parent, the pod's group, is
//! ours and still has the count. Invariant: a container is never named without a kill that no other
//! one explains.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::state::ContainerView;

/// The exit code of what was killed.
const KILLED: i32 = 128 + 9;

/// Kills for memory in one pod.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Kills {
    /// In containers whose control groups are there, by container id.
    pub(super) own: BTreeMap<String, u64>,
    /// In all others. Version 1 of control groups does not count these.
    pub(super) gone: u64,
}

impl Kills {
    /// What `gone` is when the groups of these containers have gone as well.
    pub(super) fn explained(&self, ended: &[ContainerView]) -> u64 {
        self.gone + ended.iter().filter_map(|view| self.own.get(&view.id)).sum::<u64>()
    }
}

/// Reads the counts of a pod's control group and of those in it.
pub(super) fn kills(folder: &Path) -> Kills {
    let mut own = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if let Some(count) = count(&entry.path()) {
            own.insert(container_of(&entry.file_name().to_string_lossy()).to_owned(), count);
        }
    }
    let below = own.values().sum();
    Kills { gone: count(folder).unwrap_or(0).saturating_sub(below), own }
}

/// The container that a control group belongs to: `ID` or `cri-containerd-ID.scope`.
fn container_of(name: &str) -> &str {
    let name = name.trim_end_matches(".scope");
    name.rsplit_once('-').map_or(name, |(_, id)| id)
}

fn count(folder: &Path) -> Option<u64> {
    let read = |file| fs::read_to_string(folder.join(file));
    let text = read("memory.events").or_else(|_| read("memory.oom_control")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// Which of the containers that have just ended ran out of memory. `known` is what `gone` was
/// before they ended, `told` whom the runtime has named.
pub(super) fn victims(
    kills: &Kills,
    known: u64,
    ended: &[&ContainerView],
    told: &BTreeSet<String>,
) -> Vec<String> {
    let counted = |view: &&&ContainerView| kills.own.get(&view.id).is_some_and(|count| *count > 0);
    let mut out: Vec<String> = ended.iter().filter(counted).map(|view| view.id.clone()).collect();
    let explained = ended.iter().any(|view| told.contains(&view.id));
    if kills.gone > known && !explained {
        let lost = ended.iter().filter(|view| !kills.own.contains_key(&view.id));
        out.extend(lost.filter(|view| view.exit_code == KILLED).map(|view| view.id.clone()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::state::Life;
    use super::*;

    fn ended(id: &str, exit_code: i32) -> ContainerView {
        let status =
            crate::cri::runtime::ContainerStatus { id: id.into(), exit_code, ..Default::default() };
        ContainerView { life: Life::Exited, ..ContainerView::of("s".into(), status) }
    }

    #[test]
    fn a_kill_that_nobody_told_of_is_that_of_the_container_it_ended() {
        let check =
            |own: &[(&str, u64)], gone, views: &[(&str, i32)], told: &[&str], want: &[&str]| {
                let own = own.iter().map(|(id, count)| ((*id).to_owned(), *count)).collect();
                let views: Vec<_> = views.iter().map(|(id, code)| ended(id, *code)).collect();
                let told = told.iter().map(|id| (*id).to_owned()).collect();
                let views: Vec<_> = views.iter().collect();
                assert_eq!(victims(&Kills { own, gone }, 1, &views, &told), want);
            };
        check(&[], 2, &[("a", 137)], &[], &["a"]);
        // Killed, but not for memory.
        check(&[], 1, &[("a", 137)], &[], &[]);
        // Another one is known to have been killed.
        check(&[], 2, &[("a", 137), ("b", 137)], &["b"], &[]);
        check(&[], 2, &[("a", 137), ("b", 1)], &[], &["a"]);
        // Its group is still there and says so, whatever became of the first process.
        check(&[("a", 1), ("b", 0)], 1, &[("a", 0), ("b", 137)], &[], &["a"]);
    }

    #[test]
    fn counts_are_read_as_the_kernel_writes_them() {
        let folder = std::env::temp_dir().join(format!("k3s-oom-{}", std::process::id()));
        let write = |name: &str, file: &str, text: &str| {
            fs::create_dir_all(folder.join(name)).unwrap();
            fs::write(folder.join(name).join(file), text).unwrap();
        };
        write("", "memory.events", "low 0\nhigh 0\nmax 9\noom 3\noom_kill 3\noom_group_kill 1\n");
        write("cri-containerd-abc.scope", "memory.events", "oom 1\noom_kill 1\n");
        write("def", "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n");
        let own = BTreeMap::from([("abc".to_owned(), 1), ("def".to_owned(), 0)]);
        assert_eq!(kills(&folder), Kills { own, gone: 2 });
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(kills(&folder), Kills::default());
    }
}

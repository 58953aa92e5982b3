//! Every key with all its versions that are not compacted, in memory, without the values.
//!
//! It knows no disk and no lock. Invariant: the versions of a key ascend by [`Id`]; reading at a
//! revision sees exactly the versions at or below it, so versions that are not committed yet are
//! invisible to whoever reads at the committed revision.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::keys::KeyRange;

/// Position of one change in the history: the revision, and the place within its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id(pub(crate) i64);

const SUB_BITS: u32 = 20;

impl Id {
    /// More changes than this in one transaction cannot be told apart.
    pub(crate) const SUB_MAX: i64 = (1 << SUB_BITS) - 1;

    pub(crate) fn new(revision: i64, sub: i64) -> Self {
        Self(revision << SUB_BITS | sub)
    }

    /// The first change of a revision.
    pub(crate) fn first_of(revision: i64) -> Self {
        Self::new(revision, 0)
    }

    pub(crate) fn revision(self) -> i64 {
        self.0 >> SUB_BITS
    }
}

/// What a key was from one change to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) id: Id,
    pub(crate) create_revision: i64,
    /// Puts since creation; 0 marks a deletion.
    pub(crate) version: i64,
    pub(crate) lease: i64,
}

impl Version {
    pub(crate) fn deleted(id: Id) -> Self {
        Self { id, create_revision: 0, version: 0, lease: 0 }
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.version == 0
    }
}

/// A row that compaction may delete once it reaches `revision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Garbage {
    revision: i64,
    pub(crate) id: Id,
    pub(crate) key: Bytes,
}

#[derive(Default)]
pub(crate) struct Index {
    keys: BTreeMap<Bytes, Vec<Version>>,
    /// Ascends by revision, so a compaction costs what it removes.
    garbage: VecDeque<Garbage>,
}

impl Index {
    /// The key as it is at `revision`, if it exists there.
    pub(crate) fn get(&self, key: &[u8], revision: i64) -> Option<&Version> {
        visible(self.keys.get(key)?, revision)
    }

    /// The version before the change `id`, if the key existed.
    pub(crate) fn before(&self, key: &[u8], id: Id) -> Option<&Version> {
        let versions = self.keys.get(key)?;
        let at = versions.partition_point(|v| v.id < id);
        versions.get(at.checked_sub(1)?).filter(|v| !v.is_deleted())
    }

    /// The existing keys of a range at `revision`, in order.
    pub(crate) fn range(
        &self,
        range: &KeyRange,
        revision: i64,
    ) -> impl Iterator<Item = (&Bytes, &Version)> {
        let found = (!range.is_empty()).then(|| self.keys.range::<[u8], _>(range.bounds()));
        found
            .into_iter()
            .flatten()
            .filter_map(move |(key, versions)| Some((key, visible(versions, revision)?)))
    }

    /// Adds the newest change of a key; returns the index's own copy of the key.
    pub(crate) fn push(&mut self, key: &[u8], version: Version) -> Bytes {
        let key = match self.keys.get_key_value(key) {
            Some((key, _)) => key.clone(),
            None => Bytes::copy_from_slice(key),
        };
        let versions = self.keys.entry(key.clone()).or_insert_with(|| Vec::with_capacity(1));
        let revision = version.id.revision();
        if let Some(old) = versions.last().filter(|old| !old.is_deleted()) {
            self.garbage.push_back(Garbage { revision, id: old.id, key: key.clone() });
        }
        if version.is_deleted() {
            // A deletion stays visible to a watch that starts right at the compacted revision.
            let garbage = Garbage { revision: revision + 1, id: version.id, key: key.clone() };
            self.garbage.push_back(garbage);
        }
        versions.push(version);
        key
    }

    /// Takes back the newest change of a key, the latest [`Index::push`] first.
    pub(crate) fn pop(&mut self, key: &[u8]) {
        let Some(versions) = self.keys.get_mut(key) else { return };
        let Some(gone) = versions.pop() else { return };
        if gone.is_deleted() {
            self.garbage.pop_back();
        }
        match versions.last() {
            Some(old) if !old.is_deleted() => {
                self.garbage.pop_back();
            }
            Some(_) => {}
            None => {
                self.keys.remove(key);
            }
        }
    }

    /// Removes up to `limit` versions that a compaction at `revision` makes unreachable and
    /// returns what the disk must forget too.
    pub(crate) fn compact(&mut self, revision: i64, limit: usize) -> Vec<Garbage> {
        let mut removed = Vec::new();
        while removed.len() < limit && self.garbage.front().is_some_and(|g| g.revision <= revision)
        {
            let Some(garbage) = self.garbage.pop_front() else { break };
            if let Some(versions) = self.keys.get_mut(&garbage.key) {
                versions.retain(|v| v.id != garbage.id);
                if versions.is_empty() {
                    self.keys.remove(&garbage.key);
                } else if versions.capacity() > 4 * versions.len() {
                    versions.shrink_to_fit();
                }
            }
            removed.push(garbage);
        }
        removed
    }

    /// Takes back [`Index::compact`], as far as the disk is concerned: the versions stay gone, the
    /// rows have to be deleted another time.
    pub(crate) fn restore(&mut self, removed: Vec<Garbage>) {
        for garbage in removed.into_iter().rev() {
            self.garbage.push_front(garbage);
        }
    }

    /// Whether a compaction at `revision` has something left to remove.
    pub(crate) fn has_garbage(&self, revision: i64) -> bool {
        self.garbage.front().is_some_and(|g| g.revision <= revision)
    }

    /// The newest version of every key that exists.
    pub(crate) fn live(&self) -> impl Iterator<Item = (&Bytes, &Version)> {
        self.keys.iter().filter_map(|(key, versions)| Some((key, visible(versions, i64::MAX)?)))
    }
}

fn visible(versions: &[Version], revision: i64) -> Option<&Version> {
    // Nearly every read is of the newest version.
    let last = versions.last()?;
    let found = if last.id.revision() <= revision {
        last
    } else {
        let after = versions.partition_point(|v| v.id.revision() <= revision);
        versions.get(after.checked_sub(1)?)?
    };
    (!found.is_deleted()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(revision: i64, version: i64) -> Version {
        Version { id: Id::first_of(revision), create_revision: 0, version, lease: 0 }
    }

    /// a: put 2, put 3, delete 5, put 7; b: put 4.
    fn sample() -> Index {
        let mut index = Index::default();
        index.push(b"a", put(2, 1));
        index.push(b"a", put(3, 2));
        index.push(b"b", put(4, 1));
        index.push(b"a", Version::deleted(Id::first_of(5)));
        index.push(b"a", put(7, 1));
        index
    }

    fn all() -> KeyRange {
        KeyRange::new(&"\0".into(), &"\0".into())
    }

    fn seen(index: &Index, revision: i64) -> Vec<i64> {
        index.range(&all(), revision).map(|(_, v)| v.id.revision()).collect()
    }

    #[test]
    fn a_revision_sees_what_was_there() {
        let index = sample();
        for (revision, expected) in [
            (1, vec![]),
            (2, vec![2]),
            (3, vec![3]),
            (4, vec![3, 4]),
            (5, vec![4]),
            (6, vec![4]),
            (7, vec![7, 4]),
        ] {
            assert_eq!(seen(&index, revision), expected, "at {revision}");
        }
        assert_eq!(index.before(b"a", Id::first_of(5)).unwrap().version, 2);
        assert_eq!(index.before(b"a", Id::first_of(7)), None);
    }

    #[test]
    fn compaction_keeps_every_later_read() {
        for compacted in 1..=7 {
            let (whole, mut index) = (sample(), sample());
            // One at a time, as if in small batches.
            while !index.compact(compacted, 1).is_empty() {}
            for revision in compacted..=7 {
                assert_eq!(
                    seen(&index, revision),
                    seen(&whole, revision),
                    "{compacted} {revision}"
                );
            }
        }
        let mut index = sample();
        let removed = index.compact(7, 100).iter().map(|g| g.id.revision()).collect::<Vec<_>>();
        assert_eq!(removed, [2, 3, 5]);
    }

    #[test]
    fn a_change_can_be_taken_back() {
        let mut index = Index::default();
        let changes = [put(2, 1), put(3, 2), Version::deleted(Id::first_of(4)), put(5, 1)];
        for change in changes {
            index.push(b"a", change);
        }
        for revision in (2..=5).rev() {
            index.pop(b"a");
            let newest = index.get(b"a", i64::MAX).map(|v| v.id.revision());
            assert_eq!(newest, [None, Some(2), Some(3), None][revision as usize - 2]);
        }
        assert!(index.keys.is_empty() && index.garbage.is_empty());
    }
}

//! Which keys a Range answers with: limits, filters, order. Values come later, from elsewhere.

use bytes::Bytes;
use etcd::etcdserverpb::{RangeRequest, RangeResponse, SortOrder, SortTarget};
use etcd::mvccpb::KeyValue;

use crate::index::{Index, Version};
use crate::keys::KeyRange;

/// The keys of an answer, before their values are read.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    pub(crate) keys: Vec<(Bytes, Version)>,
    count: i64,
    more: bool,
    /// Sorting by value has to wait for the values, and cutting for the sorting.
    by_value: Option<(SortOrder, usize)>,
    pub(crate) needs_values: bool,
}

impl Selection {
    /// Selects at `revision`.
    pub(crate) fn new(index: &Index, request: &RangeRequest, revision: i64) -> Self {
        let range = KeyRange::new(&request.key, &request.range_end);
        let mut found = index.range(&range, revision);
        if request.count_only {
            return Self { count: len(found.count()), ..Self::default() };
        }
        let filtered = request.min_mod_revision != 0
            || request.max_mod_revision != 0
            || request.min_create_revision != 0
            || request.max_create_revision != 0;
        let limit = usize::try_from(request.limit).unwrap_or(0);
        let (order, target) = order(request);
        // Without order and filters the first keys are the answer; one more tells "more".
        let enough = match limit {
            0 => usize::MAX,
            _ if filtered || request.sort_order != SortOrder::None as i32 => usize::MAX,
            limit => limit.saturating_add(1),
        };
        let mut keys: Vec<_> =
            found.by_ref().take(enough).map(|(key, version)| (key.clone(), *version)).collect();
        let count = len(keys.len() + found.count());
        if filtered {
            keys.retain(|(_, version)| passes(request, version));
        }
        let mut selection =
            Self { keys, count, needs_values: !request.keys_only, ..Self::default() };
        if target == SortTarget::Value && order != SortOrder::None {
            selection.by_value = Some((order, limit));
            selection.needs_values = true;
            return selection;
        }
        sort(&mut selection.keys, order, target);
        if limit > 0 && selection.keys.len() > limit {
            selection.keys.truncate(limit);
            selection.more = true;
        }
        selection
    }

    /// The answer, from the values in the order of `keys`.
    pub(crate) fn answer(mut self, values: Vec<Bytes>, keys_only: bool) -> RangeResponse {
        let mut values = values.into_iter();
        let mut kvs: Vec<KeyValue> = self
            .keys
            .drain(..)
            .map(|(key, version)| pair(key, &version, values.next().unwrap_or_default()))
            .collect();
        if let Some((order, limit)) = self.by_value {
            kvs.sort_by(|a, b| match order {
                SortOrder::Descend => b.value.cmp(&a.value),
                _ => a.value.cmp(&b.value),
            });
            if limit > 0 && kvs.len() > limit {
                kvs.truncate(limit);
                self.more = true;
            }
        }
        if keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        RangeResponse { header: None, kvs, more: self.more, count: self.count }
    }
}

/// A key with its value as it goes out.
pub(crate) fn pair(key: Bytes, version: &Version, value: Bytes) -> KeyValue {
    KeyValue {
        key,
        create_revision: version.create_revision,
        mod_revision: version.id.revision(),
        version: version.version,
        value,
        lease: version.lease,
    }
}

fn len(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// No order means ascending as soon as something else than the key is sorted by.
fn order(request: &RangeRequest) -> (SortOrder, SortTarget) {
    let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
    match SortOrder::try_from(request.sort_order).unwrap_or(SortOrder::None) {
        SortOrder::None if target != SortTarget::Key => (SortOrder::Ascend, target),
        order => (order, target),
    }
}

fn passes(request: &RangeRequest, version: &Version) -> bool {
    let within = |revision: i64, min: i64, max: i64| {
        (min == 0 || revision >= min) && (max == 0 || revision <= max)
    };
    within(version.id.revision(), request.min_mod_revision, request.max_mod_revision)
        && within(version.create_revision, request.min_create_revision, request.max_create_revision)
}

fn sort(keys: &mut [(Bytes, Version)], order: SortOrder, target: SortTarget) {
    if order == SortOrder::None {
        return;
    }
    match target {
        // The index is in this order already.
        SortTarget::Key | SortTarget::Value => {
            if order == SortOrder::Descend {
                keys.reverse();
            }
            return;
        }
        _ => {}
    }
    let by = |version: &Version| match target {
        SortTarget::Version => version.version,
        SortTarget::Create => version.create_revision,
        _ => version.id.revision(),
    };
    keys.sort_by(|(_, a), (_, b)| match order {
        SortOrder::Descend => by(b).cmp(&by(a)),
        _ => by(a).cmp(&by(b)),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Id;

    /// a (created 2, version 3 at 9), b (created 3, version 1 at 3), c (created 4, version 2 at 5).
    fn index() -> Index {
        let mut index = Index::default();
        for (key, create_revision, version, revision) in
            [("a", 2, 1, 2), ("b", 3, 1, 3), ("c", 4, 1, 4), ("c", 4, 2, 5), ("a", 2, 3, 9)]
        {
            let id = Id::first_of(revision);
            index.push(key.as_bytes(), Version { id, create_revision, version, lease: 0 });
        }
        index
    }

    fn check(request: RangeRequest, keys: &str, count: i64, more: bool) {
        let request = RangeRequest { key: "a".into(), range_end: "z".into(), ..request };
        let selection = Selection::new(&index(), &request, 9);
        // The value of a key is the key turned around the alphabet: z, y, x.
        let values = selection.keys.iter().map(|(k, _)| vec![b'z' - (k[0] - b'a')].into());
        let values = values.collect();
        let answer = selection.answer(values, request.keys_only);
        let got: Vec<u8> = answer.kvs.iter().flat_map(|kv| kv.key.to_vec()).collect();
        assert_eq!(
            (got.as_slice(), answer.count, answer.more),
            (keys.as_bytes(), count, more),
            "{request:?}"
        );
    }

    #[test]
    fn ranges_are_limited_filtered_and_sorted() {
        let ask = RangeRequest::default;
        let sorted = |sort_target: SortTarget, sort_order: SortOrder| RangeRequest {
            sort_target: sort_target as i32,
            sort_order: sort_order as i32,
            ..ask()
        };
        check(ask(), "abc", 3, false);
        check(RangeRequest { limit: 2, ..ask() }, "ab", 3, true);
        check(RangeRequest { limit: 3, ..ask() }, "abc", 3, false);
        check(RangeRequest { count_only: true, limit: 1, ..ask() }, "", 3, false);
        check(RangeRequest { keys_only: true, ..ask() }, "abc", 3, false);
        check(RangeRequest { min_mod_revision: 5, limit: 1, ..ask() }, "a", 3, true);
        check(RangeRequest { max_mod_revision: 5, ..ask() }, "bc", 3, false);
        check(
            RangeRequest { min_create_revision: 3, max_create_revision: 3, ..ask() },
            "b",
            3,
            false,
        );
        check(sorted(SortTarget::Key, SortOrder::Descend), "cba", 3, false);
        check(sorted(SortTarget::Mod, SortOrder::None), "bca", 3, false);
        check(sorted(SortTarget::Version, SortOrder::Descend), "acb", 3, false);
        check(sorted(SortTarget::Create, SortOrder::Descend), "cba", 3, false);
        check(sorted(SortTarget::Value, SortOrder::Ascend), "cba", 3, false);
        check(
            RangeRequest { limit: 1, ..sorted(SortTarget::Value, SortOrder::Descend) },
            "a",
            3,
            true,
        );
        check(
            RangeRequest { limit: 1, ..sorted(SortTarget::Mod, SortOrder::Descend) },
            "a",
            3,
            true,
        );
    }
}

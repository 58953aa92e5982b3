//! The range `[key, range_end)` of a request, with etcd's special ends.

use std::ops::Bound;

use bytes::Bytes;

/// Which keys a request means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyRange {
    pub(crate) start: Bytes,
    end: End,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// Only the start itself.
    Single,
    Before(Bytes),
    Last,
}

impl KeyRange {
    /// An empty end is the key alone, a single zero byte everything from the key on.
    pub(crate) fn new(key: &Bytes, range_end: &Bytes) -> Self {
        let end = match &range_end[..] {
            [] => End::Single,
            [0] => End::Last,
            _ => End::Before(Bytes::copy_from_slice(range_end)),
        };
        Self { start: Bytes::copy_from_slice(key), end }
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Single => self.start == key,
            End::Before(end) => self.start <= key && end > key,
            End::Last => self.start <= key,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(&self.end, End::Before(end) if *end <= self.start)
    }

    /// For `BTreeMap::range`; the range must not be empty.
    pub(crate) fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        let upper = match &self.end {
            End::Single => Bound::Included(&self.start[..]),
            End::Before(end) => Bound::Excluded(&end[..]),
            End::Last => Bound::Unbounded,
        };
        (Bound::Included(&self.start), upper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_mean_what_etcd_says() {
        for (start, end, yes, no) in [
            ("b", "", vec!["b"], vec!["a", "ba", "c"]),
            ("b", "\0", vec!["b", "ba", "z"], vec!["a", ""]),
            ("b", "c", vec!["b", "bz"], vec!["a", "c"]),
            ("c", "b", vec![], vec!["b", "bb", "c"]),
            ("\0", "\0", vec!["a", "\0"], vec![""]),
        ] {
            let range = KeyRange::new(&start.into(), &end.into());
            assert!(yes.iter().all(|k| range.contains(k.as_bytes())), "{range:?} {yes:?}");
            assert!(!no.iter().any(|k| range.contains(k.as_bytes())), "{range:?} {no:?}");
        }
    }
}

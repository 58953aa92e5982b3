//! One priority level: its seats, and the queues of those who wait for one.
//!
//! Requests of a flow are dealt a hand of queues and wait in the shortest; free seats go to the
//! queues in turn, so no flow can keep the others waiting. Invariant: nobody waits while a seat is
//! free.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::share::Share;
use crate::registry::Object;
use crate::registry::value::{int, text};

/// Why a request got no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The level does not queue.
    Limit = 0,
    QueueFull = 1,
    TimeOut = 2,
}

impl Refused {
    pub(super) const ALL: [Self; 3] = [Self::Limit, Self::QueueFull, Self::TimeOut];

    /// The `reason` of metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Limit => "concurrency-limit",
            Self::QueueFull => "queue-full",
            Self::TimeOut => "time-out",
        }
    }
}

/// How a level lets wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Queuing {
    queues: usize,
    hand: usize,
    length: usize,
}

/// Those who wait.
#[derive(Debug, Default)]
struct Waiting {
    share: Share,
    queuing: Option<Queuing>,
    queues: Vec<VecDeque<oneshot::Sender<Seat>>>,
    /// The queue that got the last seat.
    turn: usize,
}

/// A priority level.
#[derive(Debug)]
pub(super) struct Level {
    name: String,
    exempt: bool,
    limit: AtomicU32,
    in_use: AtomicU32,
    /// How many wait: zero spares the lock.
    waiting: AtomicU32,
    /// The most that were served or waited at once since somebody looked.
    peak: AtomicU32,
    state: Mutex<Waiting>,
}

/// A seat; free again when dropped.
#[derive(Debug)]
pub(super) struct Seat(Option<Arc<Level>>);

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(level) = self.0.take() {
            level.leave();
        }
    }
}

impl Level {
    pub(super) fn new(object: &Object) -> Self {
        Self {
            name: text(object, "metadata.name").to_owned(),
            exempt: text(object, "spec.type") == "Exempt",
            limit: AtomicU32::new(0),
            in_use: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            peak: AtomicU32::new(0),
            state: Mutex::default(),
        }
    }

    /// Takes over what the configuration says now.
    pub(super) fn configure(self: &Arc<Self>, object: &Object, share: Share) {
        let number = |field: &str, default: i64| {
            let path = format!("spec.limited.limitResponse.queuing.{field}");
            usize::try_from(int(object, &path).unwrap_or(default)).unwrap_or(1).max(1)
        };
        let queues = text(object, "spec.limited.limitResponse.type") == "Queue";
        let queuing = queues.then(|| Queuing {
            queues: number("queues", 64),
            hand: number("handSize", 8),
            length: number("queueLengthLimit", 50),
        });
        {
            let mut state = self.state();
            state.queuing = queuing;
            // Who waits already goes on doing so where fewer queues are wanted.
            let wanted = queuing.map_or(0, |queuing| queuing.queues);
            let kept = state.queues.len().max(wanted);
            state.queues.resize_with(kept, VecDeque::new);
            if state.share != share {
                state.share = share;
                self.limit.store(share.nominal, Ordering::Release);
            }
        }
        self.hand_out();
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_exempt(&self) -> bool {
        self.exempt
    }

    pub(super) fn share(&self) -> Share {
        self.state().share
    }

    pub(super) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Acquire)
    }

    pub(super) fn in_use(&self) -> u32 {
        self.in_use.load(Ordering::Relaxed)
    }

    pub(super) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(super) fn active_queues(&self) -> usize {
        self.state().queues.iter().filter(|queue| !queue.is_empty()).count()
    }

    /// The demand since the last call.
    pub(super) fn take_peak(&self) -> u32 {
        let now = self.in_use() + self.waiting();
        self.peak.swap(now, Ordering::Relaxed).max(now)
    }

    /// Sets the number of seats.
    pub(super) fn set_limit(self: &Arc<Self>, limit: u32) {
        if self.limit.swap(limit, Ordering::AcqRel) < limit {
            self.hand_out();
        }
    }

    /// A seat, if one is free and nobody waits for it.
    pub(super) fn try_seat(self: &Arc<Self>) -> Option<Seat> {
        if self.waiting.load(Ordering::Acquire) > 0 {
            return None;
        }
        self.take()
    }

    fn take(self: &Arc<Self>) -> Option<Seat> {
        let limit = self.limit();
        let taken = self.in_use.fetch_update(Ordering::AcqRel, Ordering::Acquire, |in_use| {
            (in_use < limit).then_some(in_use + 1)
        });
        taken.ok().map(|_| Seat(Some(self.clone())))
    }

    /// Waits for a seat in one of the flow's queues.
    pub(super) async fn wait(
        self: &Arc<Self>,
        flow: u64,
        patience: Duration,
    ) -> Result<Seat, Refused> {
        let receiver = {
            let mut state = self.state();
            let Some(queuing) = state.queuing else {
                self.peak.fetch_max(self.in_use() + 1, Ordering::Relaxed);
                return Err(Refused::Limit);
            };
            let hand = deal(flow, queuing.queues, queuing.hand);
            let shortest = |state: &Waiting| {
                let queues = hand.iter().copied();
                let shortest = queues.min_by_key(|at| state.queues[*at].len());
                shortest.filter(|at| state.queues[*at].len() < queuing.length)
            };
            let mut found = shortest(&state);
            if found.is_none() {
                self.prune(&mut state);
                found = shortest(&state);
            }
            let Some(queue) = found else { return Err(Refused::QueueFull) };
            let (sender, receiver) = oneshot::channel();
            state.queues[queue].push_back(sender);
            let waiting = self.waiting.fetch_add(1, Ordering::AcqRel) + 1;
            self.peak.fetch_max(self.in_use() + waiting, Ordering::Relaxed);
            receiver
        };
        // A seat may have become free before the others knew that somebody waits.
        self.hand_out();
        match tokio::time::timeout(patience, receiver).await {
            Ok(Ok(seat)) => Ok(seat),
            _ => Err(Refused::TimeOut),
        }
    }

    fn leave(self: Arc<Self>) {
        self.in_use.fetch_sub(1, Ordering::AcqRel);
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.hand_out();
        }
    }

    /// Gives free seats to those who wait, queue by queue.
    fn hand_out(self: &Arc<Self>) {
        while self.waiting.load(Ordering::Acquire) > 0 {
            let Some(mut seat) = self.take() else { return };
            loop {
                let Some(next) = self.next() else {
                    // Not dropped: that would come back here.
                    seat.0 = None;
                    self.in_use.fetch_sub(1, Ordering::AcqRel);
                    break;
                };
                match next.send(seat) {
                    Ok(()) => break,
                    // It has given up meanwhile.
                    Err(back) => seat = back,
                }
            }
        }
    }

    /// Who is next, from the queue after the one that got the last seat.
    fn next(&self) -> Option<oneshot::Sender<Seat>> {
        let mut state = self.state();
        let count = state.queues.len();
        let mut turns = (1..=count).map(|step| (state.turn + step) % count);
        let at = turns.find(|at| !state.queues[*at].is_empty())?;
        state.turn = at;
        let next = state.queues[at].pop_front();
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        next
    }

    /// Forgets those who have given up.
    fn prune(&self, state: &mut Waiting) {
        for queue in &mut state.queues {
            let before = queue.len();
            queue.retain(|one| !one.is_closed());
            let gone = u32::try_from(before - queue.len()).unwrap_or_default();
            self.waiting.fetch_sub(gone, Ordering::AcqRel);
        }
    }

    fn state(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A flow's hand of different queues, always the same one.
fn deal(flow: u64, queues: usize, hand: usize) -> Vec<usize> {
    let mut rest = flow;
    let mut dealt: Vec<usize> = Vec::with_capacity(hand);
    for round in 0..hand.min(queues) {
        let left = queues - round;
        let mut card = (rest % left as u64) as usize;
        rest = (rest / left as u64).rotate_left(17) ^ flow.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut taken = dealt.clone();
        taken.sort_unstable();
        for other in taken {
            if card >= other {
                card += 1;
            }
        }
        dealt.push(card);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn level(seats: u32, length: i64) -> Arc<Level> {
        let object = json!({"metadata": {"name": "l", "uid": "u"}, "spec": {"type": "Limited",
            "limited": {"limitResponse": {"type": "Queue",
                "queuing": {"queues": 8, "handSize": 2, "queueLengthLimit": length}}}}});
        let level = Arc::new(Level::new(&object));
        level.configure(&object, Share { nominal: seats, least: seats, most: seats });
        level
    }

    #[test]
    fn a_hand_has_different_queues_and_is_always_the_same() {
        for flow in [0, 1, 7, u64::MAX, 0x1234_5678_9ABC_DEF0] {
            let hand = deal(flow, 64, 8);
            let mut cards = hand.clone();
            cards.sort_unstable();
            cards.dedup();
            assert_eq!((cards.len(), cards.iter().all(|card| *card < 64)), (8, true), "{hand:?}");
            assert_eq!(hand, deal(flow, 64, 8));
        }
        assert_eq!(deal(5, 2, 8).len(), 2);
    }

    #[tokio::test]
    async fn a_greedy_flow_does_not_keep_another_waiting() {
        let level = level(1, 100);
        let first = level.try_seat().unwrap();
        let order: Arc<Mutex<Vec<u64>>> = Arc::default();
        let mut tasks = tokio::task::JoinSet::new();
        // One flow sends twenty requests before the other sends one.
        let flows = [1_u64; 20].into_iter().chain([1 << 40]);
        for flow in flows {
            let (own, order) = (level.clone(), order.clone());
            tasks.spawn(async move {
                let seat = own.wait(flow, Duration::from_secs(5)).await.unwrap();
                order.lock().unwrap().push(flow);
                drop(seat);
            });
            tokio::task::yield_now().await;
        }
        drop(first);
        while tasks.join_next().await.is_some() {}
        let order = order.lock().unwrap();
        let place = order.iter().position(|flow| *flow == 1 << 40).unwrap();
        assert!(place <= 3, "it came after {place} others");
        assert_eq!((level.in_use(), level.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn full_queues_and_long_waits_are_refused() {
        let level = level(1, 1);
        let _first = level.try_seat().unwrap();
        let soon = Duration::from_millis(20);
        let waits = (0..3).map(|_| level.wait(3, soon));
        let refused: Vec<Refused> = futures::future::join_all(waits)
            .await
            .into_iter()
            .map(|got| got.unwrap_err())
            .collect();
        assert_eq!(refused.iter().filter(|why| **why == Refused::QueueFull).count(), 1);
        assert_eq!(refused.iter().filter(|why| **why == Refused::TimeOut).count(), 2);
    }
}

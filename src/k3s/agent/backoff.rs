//! Pauses between attempts: doubling, up to a limit, and never the same on two nodes.

use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};

/// The next pause of a loop that tries again.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    limit: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, next: first }
    }

    /// Starts over, after something went well.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    /// The pause to make now: between half of and one and a half times the nominal one, so that
    /// agents which lost a server together do not come back together.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.limit);
        let mut byte = [0x80];
        // Without randomness the nominal pause does.
        let _ = SystemRandom::new().fill(&mut byte);
        pause.mul_f32(0.5 + f32::from(byte[0]) / 256.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_limit_and_start_over() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(400));
        for nominal in [100, 200, 400, 400] {
            let pause = backoff.next();
            assert!((ms(nominal / 2)..=ms(nominal * 3 / 2)).contains(&pause), "{pause:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= ms(150));
    }
}

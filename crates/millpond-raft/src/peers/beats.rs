//! When a broker beats, and from when on its peer is dead. Time is an argument here.

use std::time::Duration;

use tokio::time::Instant;

/// A beat is sent this often.
const BEAT: Duration = Duration::from_millis(100);

/// A peer of which nothing was heard for this long is dead.
pub(super) const DEAD_AFTER: Duration = Duration::from_millis(500);

/// When to beat, and whether the peer lives.
#[derive(Debug)]
pub(super) struct Beats {
    number: u64,
    sent: Instant,
    next: Instant,
    heard: Instant,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Send(u64),
    Wait,
    Dead,
}

impl Beats {
    pub(super) fn new(now: Instant) -> Beats {
        Beats { number: 0, sent: now, next: now, heard: now }
    }

    /// When something is to be done.
    pub(super) fn next(&self) -> Instant {
        self.next.min(self.heard + DEAD_AFTER)
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    pub(super) fn answered(&self, number: u64, now: Instant) -> Option<Duration> {
        (number == self.number).then(|| now - self.sent)
    }

    /// What is to be done at `now`, which is [`Beats::next`] or later. When it is much later this broker itself was
    /// stopped meanwhile, and knows nothing of the peer.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        let late = now - self.next();
        if late > BEAT {
            self.heard += late;
        }
        if now >= self.heard + DEAD_AFTER {
            return Due::Dead;
        }
        if now < self.next {
            return Due::Wait;
        }
        self.number += 1;
        self.sent = now;
        self.next = now + BEAT;
        Due::Send(self.number)
    }
}

#[cfg(test)]
mod tests {
    use millpond_runtime::sim::{NodeId, World};

    use super::*;

    fn a_moment() -> Instant {
        World::new(1).runtime_for(NodeId(1)).now()
    }

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_peer_that_says_nothing_for_half_a_second_is_dead() {
        millpond_runtime::sim::block_on(1, async {
            let start = a_moment();
            let mut beats = Beats::new(start);
            for number in 1..=5 {
                assert_eq!(beats.next(), start + ms(100 * (number - 1)));
                assert_eq!(beats.due(beats.next()), Due::Send(number));
            }
            assert_eq!(beats.next(), start + ms(500));
            assert_eq!(beats.due(start + ms(500)), Due::Dead);
        });
    }

    #[test]
    fn anything_heard_puts_death_off() {
        millpond_runtime::sim::block_on(1, async {
            let start = a_moment();
            let mut beats = Beats::new(start);
            assert_eq!(beats.due(start), Due::Send(1));
            assert_eq!(beats.answered(1, start + ms(7)), Some(ms(7)));
            assert_eq!(beats.answered(9, start + ms(7)), None, "nobody has sent that beat");
            for tick in 1..=5 {
                beats.due(start + ms(100 * tick));
                beats.heard(start + ms(100 * tick + 50));
            }
            assert_eq!(beats.due(start + ms(600)), Due::Send(7));
        });
    }

    #[test]
    fn a_broker_that_was_stopped_itself_declares_nobody_dead() {
        millpond_runtime::sim::block_on(1, async {
            let start = a_moment();
            let mut beats = Beats::new(start);
            assert_eq!(beats.due(start), Due::Send(1));
            assert_eq!(beats.due(start + ms(20_000)), Due::Send(2));
        });
    }
}

//! How long a connection waits for its client.
//!
//! A client that neither sends nor reads anything for `connections.max.idle.ms` is closed, as in Kafka; that is also
//! how long a response may lie unread (a consumer that works on its records for minutes reads nothing meanwhile). Where
//! others wait for memory, and this client holds some by half a request or by a response that it does not take, it
//! must keep a pace.
//!
//! Times are arguments: nothing here looks at a clock.

use std::time::Duration;

use tokio::time::Instant;

/// A client that owes bytes is looked at as often as this.
pub(crate) const PACE_WINDOW: Duration = Duration::from_secs(10);
/// What it must move in that time, to or fro, while memory is short.
const PACE_BYTES: u64 = 256 << 10;

/// Why a client is not waited for any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Impatience {
    #[error("nothing came from it or was read by it for {} seconds (connections.max.idle.ms)", .0.as_secs())]
    Idle(Duration),
    #[error("it moved {bytes} bytes in {} seconds and holds memory that others wait for", PACE_WINDOW.as_secs())]
    TooSlow { bytes: u64 },
}

/// What is known of the connection when it is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// Bytes that came and went since the connection was opened.
    pub(crate) moved: u64,
    /// The client has sent a part of a request, or has not read all of a response.
    pub(crate) owes: bool,
    /// The broker owes the client an answer that is not ready.
    pub(crate) working: bool,
    /// Others wait for memory.
    pub(crate) memory_short: bool,
}

/// A client's account.
#[derive(Debug)]
pub(crate) struct Patience {
    max_idle: Duration,
    last_moved: Instant,
    /// Since when, and from which count of bytes on, the pace is measured; set while the client owes.
    pace: Option<(Instant, u64)>,
}

impl Patience {
    pub(crate) fn new(now: Instant, max_idle: Duration) -> Patience {
        Patience { max_idle, last_moved: now, pace: None }
    }

    /// Bytes came or went.
    pub(crate) fn moved(&mut self, now: Instant) {
        self.last_moved = now;
    }

    /// Whether the client is still waited for, and when to look again.
    pub(crate) fn look(&mut self, now: Instant, look: Look) -> Result<Instant, Impatience> {
        if look.working && !look.owes {
            // It waits for the broker, and cannot be blamed.
            self.last_moved = now;
        }
        if now.duration_since(self.last_moved) >= self.max_idle {
            return Err(Impatience::Idle(self.max_idle));
        }
        let idle_at = self.last_moved + self.max_idle;
        if !look.owes {
            self.pace = None;
            return Ok(idle_at);
        }
        let (since, from) = *self.pace.get_or_insert((now, look.moved));
        if now.duration_since(since) < PACE_WINDOW {
            return Ok(idle_at.min(since + PACE_WINDOW));
        }
        let moved = look.moved - from;
        if look.memory_short && moved < PACE_BYTES {
            return Err(Impatience::TooSlow { bytes: moved });
        }
        self.pace = Some((now, look.moved));
        Ok(idle_at.min(now + PACE_WINDOW))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(600);
    const NOTHING: Look = Look { moved: 0, owes: false, working: false, memory_short: true };

    /// A client that did nothing since second 0.
    #[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
    fn client() -> (Instant, Patience) {
        let start = Instant::now();
        (start, Patience::new(start, IDLE))
    }

    fn at(start: Instant, second: u64) -> Instant {
        start + Duration::from_secs(second)
    }

    #[test]
    fn a_client_that_does_nothing_is_closed_when_its_time_is_over_and_not_before() {
        let (start, mut patience) = client();
        assert_eq!(patience.look(at(start, 599), NOTHING), Ok(at(start, 600)));
        assert_eq!(patience.look(at(start, 600), NOTHING), Err(Impatience::Idle(IDLE)));
    }

    #[test]
    fn bytes_begin_the_time_anew() {
        let (start, mut patience) = client();
        patience.moved(at(start, 400));
        assert_eq!(patience.look(at(start, 600), NOTHING), Ok(at(start, 1000)));
    }

    #[test]
    fn a_client_that_waits_for_the_broker_is_never_idle() {
        let (start, mut patience) = client();
        let working = Look { working: true, ..NOTHING };
        assert_eq!(patience.look(at(start, 5000), working), Ok(at(start, 5600)));
    }

    #[test]
    fn a_response_that_nobody_reads_is_idle_whatever_the_broker_still_works_on() {
        let (start, mut patience) = client();
        let unread = Look { owes: true, working: true, memory_short: false, moved: 7 };
        assert_eq!(patience.look(at(start, 590), unread), Ok(at(start, 600)));
        assert_eq!(patience.look(at(start, 600), unread), Err(Impatience::Idle(IDLE)));
    }

    #[test]
    fn who_owes_bytes_must_keep_a_pace_only_while_memory_is_short() {
        for (memory_short, moved, verdict) in
            [(true, PACE_BYTES - 1, Some(PACE_BYTES - 1)), (true, PACE_BYTES, None), (false, 0, None)]
        {
            let (start, mut patience) = client();
            let owes = Look { owes: true, working: false, memory_short, moved: 1000 };
            assert_eq!(patience.look(at(start, 3), owes), Ok(at(start, 13)), "the measure begins");
            patience.moved(at(start, 12));
            let later = Look { moved: 1000 + moved, ..owes };
            match verdict {
                Some(moved) => {
                    assert_eq!(patience.look(at(start, 13), later), Err(Impatience::TooSlow { bytes: moved }))
                }
                None => assert_eq!(patience.look(at(start, 13), later), Ok(at(start, 23))),
            }
        }
    }

    #[test]
    fn a_debt_that_is_paid_ends_the_measure() {
        let (start, mut patience) = client();
        let owes = Look { owes: true, ..NOTHING };
        assert_eq!(patience.look(at(start, 0), owes), Ok(at(start, 10)));
        assert_eq!(patience.look(at(start, 9), NOTHING), Ok(at(start, 600)));
        assert_eq!(patience.look(at(start, 11), owes), Ok(at(start, 21)));
    }
}

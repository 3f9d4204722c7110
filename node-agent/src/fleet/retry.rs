//! Pauses between attempts: towards the server, and between the starts of a task.

use std::time::Duration;

/// First and longest pause towards the server.
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);

/// Pauses towards the server: from 0.2 s doubling to 5 s, each drawn from zero to that (full jitter), so that a fleet
/// does not come back all at once.
#[derive(Debug)]
pub(super) struct Retry {
    failures: u32,
}

impl Retry {
    pub(super) fn new() -> Self {
        Self { failures: 0 }
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Whether the pause that was last given was the first one since the beginning or a reset.
    pub(super) fn is_first(&self) -> bool {
        self.failures == 1
    }

    pub(super) fn next_pause(&mut self) -> Duration {
        let longest = grown(FIRST, LONGEST, self.failures);
        self.failures = self.failures.saturating_add(1);
        longest.mul_f64(random_fraction())
    }
}

/// Pauses between the starts of a task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    /// The first pause.
    pub(super) first: Duration,
    /// The longest.
    pub(super) longest: Duration,
    /// A task that was ready for so long begins again with the first pause.
    pub(super) healthy_after: Duration,
}

impl Backoff {
    /// The pause after `failures` ends in a row, of which the first is number 1.
    pub(super) fn pause(self, failures: u32) -> Duration {
        grown(self.first, self.longest, failures.saturating_sub(1))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(60),
            healthy_after: Duration::from_secs(60),
        }
    }
}

fn grown(first: Duration, longest: Duration, doublings: u32) -> Duration {
    let factor = 2_u32.saturating_pow(doublings.min(31));
    first.saturating_mul(factor).min(longest)
}

/// A number from 0 to 1. Spreading needs no more randomness than a UUID has.
fn random_fraction() -> f64 {
    let [a, b, ..] = *uuid::Uuid::new_v4().as_bytes();
    f64::from(u16::from_be_bytes([a, b])) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_of_a_task_double_up_to_a_minute() {
        let backoff = Backoff::default();
        let pauses: Vec<_> = (1..=9)
            .map(|failures| backoff.pause(failures).as_millis())
            .collect();
        assert_eq!(
            pauses,
            [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]
        );
        assert_eq!(backoff.pause(u32::MAX), Duration::from_secs(60));
    }

    #[test]
    fn pauses_towards_the_server_stay_in_their_range() {
        let mut retry = Retry::new();
        for round in 0..200 {
            let pause = retry.next_pause();
            assert_eq!(retry.is_first(), round == 0);
            assert!(pause <= LONGEST);
            assert!(round > 0 || pause <= FIRST);
        }
        retry.reset();
        assert!(retry.next_pause() <= FIRST);
    }
}

//! How fast a server is asked: no faster than configured, and not at all for as long as it asks to be left alone.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::RailError;

/// A server that asks to be left alone for longer is asked again after this: it shall not silence us for good.
const LONGEST_SILENCE: Duration = Duration::from_secs(15 * 60);
/// For so long a request waits for its turn; what would have to wait longer is told that the server is busy.
const PATIENCE: Duration = Duration::from_secs(5);

/// The turns of one server.
#[derive(Debug)]
pub(super) struct Pace {
    /// Between two requests, in the long run; `None` without a limit.
    interval: Option<Duration>,
    /// How far ahead of that a burst may be.
    ahead: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When everything that was let through would have been, one at a time.
    even_at: Option<Instant>,
    /// The server asked to be left alone until then.
    silent_until: Option<Instant>,
}

impl Pace {
    /// At most `per_minute` requests in any minute, a sixth of them at once.
    pub(super) fn new(per_minute: Option<u32>) -> Pace {
        let limit = per_minute.map(|n| n.max(2));
        let burst = limit.map_or(0, |n| (n / 6).max(1));
        // What a burst takes at once is missing from the rest of its minute.
        let interval = limit.map(|n| Duration::from_secs(60) / (n - burst).max(1));
        Pace {
            interval,
            ahead: interval.unwrap_or_default() * burst.saturating_sub(1),
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn of one request.
    ///
    /// # Errors
    /// [`RailError::Busy`] when that would be too long, or after `deadline`.
    pub(super) async fn pass(&self, deadline: Instant) -> Result<(), RailError> {
        let now = Instant::now();
        let at = {
            let mut state = self.lock();
            let mut at = state.silent_until.map_or(now, |until| until.max(now));
            let even_at = state.even_at.map_or(now, |even| even.max(now));
            if self.interval.is_some() {
                at = at.max(even_at.checked_sub(self.ahead).unwrap_or(now));
            }
            if at > deadline.min(now + PATIENCE) {
                let wait = at - now;
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                return Err(RailError::Busy {
                    retry_after: u32::try_from(seconds).ok(),
                });
            }
            if let Some(interval) = self.interval {
                state.even_at = Some(even_at.max(at) + interval);
            }
            at
        };
        tokio::time::sleep_until(at).await;
        Ok(())
    }

    /// The server asked to be left alone for so many seconds.
    pub(super) fn silence(&self, seconds: u32) {
        let until = Instant::now() + Duration::from_secs(seconds.into()).min(LONGEST_SILENCE);
        let mut state = self.lock();
        state.silent_until = Some(state.silent_until.map_or(until, |before| before.max(until)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn passes(pace: &Pace) -> bool {
        pace.pass(Instant::now() + Duration::from_secs(30)).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn in_no_minute_there_are_more_requests_than_allowed() {
        let pace = Pace::new(Some(60));
        let mut at = Vec::new();
        while at.len() < 300 {
            if passes(&pace).await {
                at.push(Instant::now());
            }
        }
        assert_eq!(at.iter().filter(|t| **t == at[0]).count(), 10, "a burst goes at once");
        for (n, first) in at.iter().enumerate() {
            let minute = at[n..].iter().take_while(|t| **t - *first < Duration::from_secs(60));
            assert!(minute.count() <= 60);
        }
        let took = *at.last().unwrap() - at[0];
        assert!(took < Duration::from_secs(360), "and not far fewer: {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits() {
        let (pace, start) = (Pace::new(None), Instant::now());
        for _ in 0..10_000 {
            assert!(passes(&pace).await);
        }
        assert_eq!(Instant::now(), start);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_wants_silence_gets_it_and_what_cannot_wait_is_told_how_long() {
        let (pace, start) = (Pace::new(None), Instant::now());
        pace.silence(60);
        let deadline = start + Duration::from_secs(120);
        assert_eq!(
            pace.pass(deadline).await,
            Err(RailError::Busy { retry_after: Some(60) })
        );
        tokio::time::advance(Duration::from_secs(57)).await;
        assert_eq!(pace.pass(deadline).await, Ok(()), "three seconds are waited for");
        assert_eq!(Instant::now() - start, Duration::from_secs(60));
        // Nobody silences us for good.
        pace.silence(u32::MAX);
        tokio::time::advance(LONGEST_SILENCE).await;
        assert!(passes(&pace).await);
    }
}

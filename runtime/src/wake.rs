//! Core's next wake, as a timer that stays set: the loop asks for it with every input, and to set a
//! timer that is the next one to fire is a system call (tokio wakes its own thread up for it).

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// A timer that is moved only when it would fire too late, or has fired too early. See the module.
pub(crate) struct WakeTimer(Pin<Box<Sleep>>);

impl WakeTimer {
    /// A timer that nobody has set.
    pub(crate) fn new() -> Self {
        Self(Box::pin(tokio::time::sleep(Duration::ZERO)))
    }

    /// Waits until then, or for ever. It may be dropped, and asked for another time.
    pub(crate) async fn until(&mut self, at: Option<Instant>) {
        let Some(at) = at else { return std::future::pending().await };
        if at < self.0.deadline() {
            self.0.as_mut().reset(at);
        }
        loop {
            self.0.as_mut().await;
            if at <= Instant::now() {
                return;
            }
            // What it was set for has been put off meanwhile.
            self.0.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When it fired, in milliseconds after the begin, unless the other timer did before.
    async fn fired(timer: &mut WakeTimer, begin: Instant, at: u64, other: u64) -> Option<u128> {
        let then = |ms| begin + Duration::from_millis(ms);
        tokio::select! {
            () = timer.until(Some(then(at))) => Some(begin.elapsed().as_millis()),
            () = tokio::time::sleep_until(then(other)) => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_fires_at_the_time_it_was_last_asked_for() {
        let (mut timer, begin) = (WakeTimer::new(), Instant::now());
        assert_eq!(fired(&mut timer, begin, 50, 10).await, None);
        assert_eq!(fired(&mut timer, begin, 20, 99).await, Some(20), "it was brought forward");
        assert_eq!(fired(&mut timer, begin, 20, 99).await, Some(20), "it is past");
        assert_eq!(fired(&mut timer, begin, 60, 30).await, None);
        assert_eq!(fired(&mut timer, begin, 80, 40).await, None);
        let set = timer.0.deadline() - begin;
        assert_eq!(set.as_millis(), 60, "what is put off does not move it");
        assert_eq!(fired(&mut timer, begin, 80, 99).await, Some(80), "it was put off");
        let never = tokio::time::timeout(Duration::from_secs(9), timer.until(None));
        assert!(never.await.is_err());
    }
}

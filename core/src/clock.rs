//! Wall time as core sees it: when it is looked at, and what is done when the clock jumps (R8).

use crate::core::Core;
use crate::effect::{Effect, Effects, Note};
use crate::limits::{CLOCK_JUMP, CLOCK_STEADY, CLOCK_STEP};
use crate::time::{Mono, Now, Span, Wall};
use crate::timers::Timer;

/// A wall clock that is ahead of the monotonic one by less than this has not jumped.
const CLOCK_NOISE: Span = Span::secs(1);

impl Core {
    /// A wall clock that jumps far ahead stops expiry until it is confirmed (R8). Says whether it
    /// has jumped ahead at all.
    pub(crate) fn watch_clock(&mut self, now: Now, fx: &mut Effects) -> bool {
        let expected = self.now.wall + (now.mono - self.now.mono);
        if now.wall - expected > CLOCK_JUMP {
            let ms = i64::try_from(now.wall.0 - expected.0).unwrap_or(i64::MAX);
            self.clock_trusted_at = Some(now.mono + CLOCK_STEADY);
            fx.push(Effect::Note(Note::ClockJumped(ms)));
        }
        if expected - now.wall > CLOCK_STEP {
            self.look_at_doubted(now.wall);
        }
        if self.clock_trusted_at.is_some_and(|at| now.mono >= at) {
            self.trust_clock(fx);
        }
        now.wall - expected > CLOCK_NOISE
    }

    pub(crate) fn trust_clock(&mut self, fx: &mut Effects) {
        if self.clock_trusted_at.take().is_some() {
            fx.push(Effect::Note(Note::ClockSteady));
            self.look_at_doubted(self.now.wall);
        }
    }

    /// What seemed to have expired is looked at again.
    fn look_at_doubted(&mut self, wall: Wall) {
        for record in std::mem::take(&mut self.doubted) {
            self.due_pages.insert((wall, record));
        }
        self.look_at_wall(wall);
    }

    pub(crate) fn clock_is_trusted(&self) -> bool {
        self.clock_trusted_at.is_none()
    }

    /// Housekeeping on wall time looks around at this time or earlier.
    pub(crate) fn look_at_wall(&mut self, wall: Wall) {
        let at = self.mono_of(wall).max(self.now.mono + Span::millis(1));
        if let Some(before) = self.wall_at {
            if before <= at {
                return;
            }
            self.disarm(before, Timer::Wall);
        }
        self.wall_at = Some(at);
        self.arm(at, Timer::Wall);
    }

    /// The moment on the monotonic clock that is `wall` if no clock jumps.
    pub(crate) fn mono_of(&self, wall: Wall) -> Mono {
        self.now.mono + (wall - self.now.wall)
    }
}

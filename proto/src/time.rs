//! Times of the wire and times of the standard library.

use std::time::{Duration as Span, SystemTime, UNIX_EPOCH};

use crate::google::protobuf::{Duration, Timestamp};

/// A time on the wire that has no counterpart here: negative, with a fraction of a second or more,
/// or too far away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{seconds} s and {nanos} ns do not make a time")]
pub struct BadTime {
    /// The seconds as given.
    pub seconds: i64,
    /// The nanoseconds as given.
    pub nanos: i32,
}

impl From<Span> for Duration {
    /// Saturates: no span of the wire is longer than 2^63 seconds.
    fn from(span: Span) -> Self {
        Self {
            seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(span.subsec_nanos()).expect("below a billion"),
        }
    }
}

impl TryFrom<Duration> for Span {
    type Error = BadTime;

    fn try_from(Duration { seconds, nanos }: Duration) -> Result<Self, BadTime> {
        parts(seconds, nanos).map(|(seconds, nanos)| Self::new(seconds, nanos))
    }
}

impl Timestamp {
    /// The time so many milliseconds after the Unix epoch.
    pub fn from_unix_millis(millis: u64) -> Self {
        let span = Duration::from(Span::from_millis(millis));
        Self { seconds: span.seconds, nanos: span.nanos }
    }

    /// Milliseconds since the Unix epoch, rounded down; times before it are refused.
    pub fn unix_millis(&self) -> Result<u64, BadTime> {
        let bad = BadTime { seconds: self.seconds, nanos: self.nanos };
        let (seconds, nanos) = parts(self.seconds, self.nanos)?;
        let millis = u64::from(nanos / 1_000_000);
        seconds.checked_mul(1_000).and_then(|s| s.checked_add(millis)).ok_or(bad)
    }
}

impl TryFrom<Timestamp> for SystemTime {
    type Error = BadTime;

    fn try_from(Timestamp { seconds, nanos }: Timestamp) -> Result<Self, BadTime> {
        let (secs, sub) = parts(seconds, nanos)?;
        UNIX_EPOCH.checked_add(Span::new(secs, sub)).ok_or(BadTime { seconds, nanos })
    }
}

/// Both parts without their signs, if they form a time.
fn parts(seconds: i64, nanos: i32) -> Result<(u64, u32), BadTime> {
    let bad = BadTime { seconds, nanos };
    let whole = u64::try_from(seconds).map_err(|_| bad)?;
    let fraction = u32::try_from(nanos).map_err(|_| bad)?;
    if fraction < 1_000_000_000 { Ok((whole, fraction)) } else { Err(bad) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_come_back_as_they_went() {
        for span in [Span::ZERO, Span::from_millis(1_500), Span::new(u64::MAX >> 1, 999_999_999)] {
            assert_eq!(Span::try_from(Duration::from(span)), Ok(span));
        }
        assert_eq!(Duration::from(Span::MAX).seconds, i64::MAX);
    }

    #[test]
    fn what_is_not_a_time_is_refused() {
        for (seconds, nanos) in [(-1, 0), (0, -1), (1, 1_000_000_000), (i64::MIN, i32::MIN)] {
            let bad = BadTime { seconds, nanos };
            assert_eq!(Span::try_from(Duration { seconds, nanos }), Err(bad));
            assert_eq!(Timestamp { seconds, nanos }.unix_millis(), Err(bad));
            assert_eq!(SystemTime::try_from(Timestamp { seconds, nanos }), Err(bad));
        }
        let far = Timestamp { seconds: i64::MAX, nanos: 0 };
        assert!(far.unix_millis().is_err(), "too many milliseconds for 64 bits");
    }

    #[test]
    fn moments_round_down_to_milliseconds() {
        assert_eq!(Timestamp { seconds: 3, nanos: 7_999_999 }.unix_millis(), Ok(3_007));
        assert_eq!(Timestamp::from_unix_millis(3_007).unix_millis(), Ok(3_007));
    }
}

//! Times as people type them and as results print them.

use std::str::FromStr;

use jiff::Timestamp;

use crate::config::Period;

/// A moment in the past: so long ago, or at that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// So long ago.
    Ago(Period),
    /// At that time.
    At(Timestamp),
}

impl Since {
    /// The moment, seen from `now`.
    pub(crate) fn moment(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(moment) => moment,
            // What lies before the first time that can be written is the first time.
            Self::Ago(period) => now.checked_sub(period.0).unwrap_or(Timestamp::MIN),
        }
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(period) = text.parse() {
            return Ok(Self::Ago(period));
        }
        parse_time(text).map(Self::At).map_err(|_| {
            format!("accepted: {} or a time such as \"2026-11-24T10:00:00Z\"", Period::ACCEPTED)
        })
    }
}

/// A moment in RFC 3339.
pub(crate) fn parse_time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| {
        "accepted: an RFC 3339 time such as \"2026-11-24T10:00:00Z\" or \
         \"2026-11-24T12:00:00+02:00\""
            .to_owned()
    })
}

/// Seconds as a number; whole ones without a fraction.
pub(crate) fn seconds(duration: std::time::Duration) -> serde_json::Number {
    if duration.subsec_nanos() == 0 {
        duration.as_secs().into()
    } else {
        let number = serde_json::Number::from_f64(duration.as_secs_f64());
        number.expect("a duration is finite")
    }
}

/// A duration for eyes: two units at most, as nobody reads more.
pub(crate) fn rough(duration: std::time::Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let kept = match ms {
        0..1_000 => ms,
        1_000..60_000 => ms / 100 * 100,
        60_000..3_600_000 => ms / 1_000 * 1_000,
        3_600_000..172_800_000 => ms / 60_000 * 60_000,
        _ => ms / 86_400_000 * 86_400_000,
    };
    match kept {
        1_000..60_000 => format!("{}.{}s", kept / 1_000, kept % 1_000 / 100),
        _ => Period::millis(kept).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn since_is_a_duration_or_a_time() {
        let now = parse_time("2026-11-24T10:00:00Z").expect("a time");
        let cases = [
            ("1h", "2026-11-24T09:00:00Z"),
            ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
            ("2026-01-01T02:00:00+02:00", "2026-01-01T00:00:00Z"),
        ];
        for (text, moment) in cases {
            let since: Since = text.parse().expect(text);
            assert_eq!(since.moment(now).to_string(), moment);
        }
        assert_eq!(Since::Ago(Period::days(99_999_999)).moment(now), Timestamp::MIN);
        for bad in ["", "yesterday", "2026-01-01", "1"] {
            let error = bad.parse::<Since>().expect_err(bad);
            assert!(error.starts_with("accepted: a duration"), "{error}");
        }
    }

    #[test]
    fn durations_are_numbers_for_scripts_and_short_for_eyes() {
        assert_eq!(seconds(Duration::from_secs(30)).to_string(), "30");
        assert_eq!(seconds(Duration::from_millis(1_500)).to_string(), "1.5");
        let cases = [
            (0, "0s"),
            (999, "999ms"),
            (1_234, "1.2s"),
            (61_500, "1m1s"),
            (3_661_000, "1h1m"),
            (200_000_000, "2d"),
        ];
        for (ms, text) in cases {
            assert_eq!(rough(Duration::from_millis(ms)), text);
        }
    }
}

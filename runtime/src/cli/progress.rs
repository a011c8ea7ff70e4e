//! How far long work has come, on a terminal: count, rate and time left.

use std::time::{Duration, Instant};

use super::output::Output;
use super::times::rough;

/// Time between two updates: people cannot read faster.
const UPDATE_EVERY: Duration = Duration::from_millis(200);

/// The progress of one piece of work.
pub(crate) struct Progress {
    what: &'static str,
    total: Option<u64>,
    /// The time that there is for it, if it is that which ends it.
    time: Option<Duration>,
    count: u64,
    began: Instant,
    shown: Option<Instant>,
}

impl Progress {
    /// Work that begins now. `what` is done to each item: `pushed`.
    pub(crate) fn new(what: &'static str, total: Option<u64>) -> Self {
        Self { what, total, time: None, count: 0, began: Instant::now(), shown: None }
    }

    /// Work that begins now and ends after a time, however much is done by then.
    pub(crate) fn timed(what: &'static str, time: Duration) -> Self {
        Self { time: Some(time), ..Self::new(what, None) }
    }

    /// So many more are done.
    pub(crate) fn advance(&mut self, items: u64, output: &mut Output) {
        self.count += items;
        if !output.shows_progress() || self.shown.is_some_and(|at| at.elapsed() < UPDATE_EVERY) {
            return;
        }
        self.shown = Some(Instant::now());
        let elapsed = self.began.elapsed();
        let mut text = line(self.what, self.count, self.total, elapsed);
        if let Some(time) = self.time {
            text.push_str(&format!(", {} left", rough(time.saturating_sub(elapsed))));
        }
        output.progress(&text);
    }

    /// The work has ended; the line goes, as the summary says more.
    pub(crate) fn finish(self, output: &mut Output) {
        if self.shown.is_some() {
            output.progress("");
        }
    }
}

fn line(what: &str, count: u64, total: Option<u64>, elapsed: Duration) -> String {
    let rate = per_second(count, elapsed);
    let Some(total) = total.filter(|total| *total > 0) else {
        return format!("{count} {what}, {rate}/s");
    };
    let left = total.saturating_sub(count);
    let time_left = match rate {
        0 => "unknown time left".to_owned(),
        rate => format!("{} left", rough(Duration::from_secs(left.div_ceil(rate)))),
    };
    format!("{count} of {total} {what}, {rate}/s, {time_left}")
}

fn per_second(count: u64, elapsed: Duration) -> u64 {
    let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    count.saturating_mul(1_000) / ms
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::{Format, captured};

    #[test]
    fn a_line_says_count_rate_and_time_left() {
        let elapsed = Duration::from_secs(2);
        assert_eq!(line("pushed", 200, None, elapsed), "200 pushed, 100/s");
        assert_eq!(line("pushed", 200, Some(900), elapsed), "200 of 900 pushed, 100/s, 7.0s left");
        assert_eq!(line("pushed", 0, Some(9), elapsed), "0 of 9 pushed, 0/s, unknown time left");
        assert_eq!(line("pushed", 0, Some(0), Duration::ZERO), "0 pushed, 0/s");
    }

    #[test]
    fn nothing_is_shown_when_piped() {
        let (mut output, _, err) = captured::output(Format::Text);
        let mut progress = Progress::new("pushed", Some(2));
        progress.advance(1, &mut output);
        progress.finish(&mut output);
        assert_eq!(err.text(), "");
    }
}

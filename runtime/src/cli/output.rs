//! Where results and messages go: results to stdout, everything else to stderr.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::failure::Failure;
use super::table::Table;

/// The form of results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For eyes.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// A colour of the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    Bold,
    Red,
    Yellow,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Self::Bold => "1",
            Self::Red => "31",
            Self::Yellow => "33",
        }
    }
}

/// The two streams of the process, in the form that was asked for.
pub(crate) struct Output {
    format: Format,
    out: Box<dyn Write + Send>,
    out_colours: bool,
    err: Box<dyn Write + Send>,
    err_colours: bool,
    err_terminal: bool,
}

impl Output {
    /// The process's own streams.
    pub(crate) fn of_process(format: Format) -> Self {
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let err_terminal = io::stderr().is_terminal();
        Self {
            format,
            out: Box::new(io::stdout()),
            out_colours: colours && io::stdout().is_terminal(),
            err: Box::new(io::stderr()),
            err_colours: colours && err_terminal,
            err_terminal,
        }
    }

    /// True if results are JSON lines.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// True if progress may be shown on stderr.
    pub(crate) fn shows_progress(&self) -> bool {
        self.err_terminal
    }

    /// `text` in a colour, if stdout takes colours.
    pub(crate) fn paint(&self, colour: Colour, text: &str) -> String {
        paint(self.out_colours, colour, text)
    }

    /// One result as a JSON line.
    pub(crate) fn json(&mut self, result: &impl Serialize) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(result).expect("results are plain data");
        line.push(b'\n');
        self.out.write_all(&line)?;
        Ok(self.out.flush()?)
    }

    /// One line of text as a result.
    pub(crate) fn text(&mut self, line: &str) -> Result<(), Failure> {
        writeln!(self.out, "{line}")?;
        Ok(self.out.flush()?)
    }

    /// A result that is not lines, as it is.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes)?;
        Ok(self.out.flush()?)
    }

    /// A table; in JSON the caller prints its rows instead.
    pub(crate) fn table(&mut self, table: &Table) -> Result<(), Failure> {
        let text = table.render(|heading| paint(self.out_colours, Colour::Bold, heading));
        self.raw(text.as_bytes())
    }

    /// A message to the person.
    pub(crate) fn note(&mut self, line: &str) {
        // Nobody is left to be told when stderr is gone.
        let _gone = writeln!(self.err, "{line}");
    }

    /// A line that the next one overwrites; only where progress is shown.
    pub(crate) fn progress(&mut self, line: &str) {
        if self.err_terminal {
            let _gone = write!(self.err, "\r\x1b[K{line}").and_then(|()| self.err.flush());
        }
    }

    /// A failure in words, and with JSON as a line of its own too.
    pub(crate) fn failure(&mut self, failure: &Failure) {
        if failure.is_silent() {
            return;
        }
        let label = paint(self.err_colours, Colour::Red, "error:");
        self.note(&format!("{label} {}", failure.to_text()));
        if self.is_json() {
            let line = serde_json::to_string(failure).expect("a failure is plain data");
            self.note(&line);
        }
    }
}

fn paint(colours: bool, colour: Colour, text: &str) -> String {
    if colours { format!("\x1b[{}m{text}\x1b[0m", colour.code()) } else { text.to_owned() }
}

#[cfg(test)]
pub(crate) mod captured {
    //! An output that a test reads.

    use std::sync::{Arc, Mutex};

    use super::*;

    /// What was written to one stream.
    #[derive(Clone, Default)]
    pub(crate) struct Stream(Arc<Mutex<Vec<u8>>>);

    impl Stream {
        /// All of it as text.
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("no writer panicked").clone()).expect("UTF-8")
        }
    }

    impl Write for Stream {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no writer panicked").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An output that is not a terminal, its stdout and its stderr.
    pub(crate) fn output(format: Format) -> (Output, Stream, Stream) {
        let (out, err) = (Stream::default(), Stream::default());
        let output = Output {
            format,
            out: Box::new(out.clone()),
            out_colours: false,
            err: Box::new(err.clone()),
            err_colours: false,
            err_terminal: false,
        };
        (output, out, err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_words_and_with_json_also_a_line() {
        let (mut output, out, err) = captured::output(Format::Json);
        output.failure(&Failure::usage("no such flag"));
        output.failure(&Failure::reader_gone());
        assert_eq!(out.text(), "");
        assert_eq!(
            err.text(),
            "error: no such flag [USAGE]\n\
             {\"code\":\"INVALID_ARGUMENT\",\"reason\":\"USAGE\",\"message\":\"no such flag\"}\n"
        );
        let (mut output, _, err) = captured::output(Format::Text);
        output.failure(&Failure::usage("no such flag"));
        assert_eq!(err.text(), "error: no such flag [USAGE]\n");
    }

    #[test]
    fn no_colours_and_no_progress_when_piped() {
        let (mut output, out, err) = captured::output(Format::Text);
        let painted = output.paint(Colour::Red, "up");
        output.text(&painted).expect("written");
        output.progress("half");
        assert_eq!((out.text().as_str(), err.text().as_str()), ("up\n", ""));
        assert_eq!(paint(true, Colour::Red, "up"), "\x1b[31mup\x1b[0m");
    }
}

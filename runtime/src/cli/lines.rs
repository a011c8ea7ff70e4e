//! `push --lines`: NDJSON, one object a line. A bad line is an error of its own, with its number,
//! and the lines after it are read all the same.

use std::collections::BTreeMap;

use bytes::Bytes;
use dpc_core::ids::ObjectId;
use serde::Deserialize;
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use super::failure::Failure;
use super::payload;

/// The longest line in bytes: a payload of the largest configurable size fits in base64, as does
/// text of the default size with every character escaped.
pub(crate) const LINE_BYTES_MAX: usize = 8 << 20;

/// One object to push.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    /// Its type, if it is not the one of the command line.
    pub(crate) object_type: Option<String>,
    /// Its id, if the caller chose one.
    pub(crate) id: Option<ObjectId>,
    /// Its payload.
    pub(crate) data: Bytes,
    /// Its headers.
    pub(crate) headers: BTreeMap<String, String>,
}

/// The line as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLine {
    #[serde(rename = "type")]
    object_type: Option<String>,
    id: Option<String>,
    data: Option<String>,
    data_base64: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// Reads lines with a bound on their length.
pub(crate) struct Lines<R> {
    input: R,
    number: u64,
    line_bytes_max: usize,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// The lines of `input`.
    pub(crate) fn new(input: R) -> Self {
        Self::with_limit(input, LINE_BYTES_MAX)
    }

    fn with_limit(input: R, line_bytes_max: usize) -> Self {
        Self { input, number: 0, line_bytes_max }
    }

    /// The next line that is not blank, with its number from 1; nothing at the end. An error of the
    /// input itself ends the command, one of a line only refuses that line.
    pub(crate) async fn next(&mut self) -> std::io::Result<Option<(u64, Result<Line, Failure>)>> {
        loop {
            let Some(read) = self.read().await? else { return Ok(None) };
            self.number += 1;
            let parsed = match read {
                Ok(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => continue,
                Ok(bytes) => parse(&bytes),
                Err(length) => Err(too_long(length, self.line_bytes_max)),
            };
            let number = self.number;
            return Ok(Some((number, parsed.map_err(|failure| at_line(number, failure)))));
        }
    }

    /// One line without its end, or the length of one that is too long and was skipped.
    async fn read(&mut self) -> std::io::Result<Option<Result<Vec<u8>, usize>>> {
        let (mut line, mut length, mut began) = (Vec::new(), 0, false);
        loop {
            let chunk = self.input.fill_buf().await?;
            if chunk.is_empty() {
                break;
            }
            began = true;
            let end = chunk.iter().position(|b| *b == b'\n');
            let part = &chunk[..end.unwrap_or(chunk.len())];
            length += part.len();
            if length <= self.line_bytes_max {
                line.extend_from_slice(part);
            } else {
                line = Vec::new();
            }
            let used = part.len() + usize::from(end.is_some());
            self.input.consume(used);
            if end.is_some() {
                break;
            }
        }
        let fits = length <= self.line_bytes_max;
        Ok(began.then_some(if fits { Ok(line) } else { Err(length) }))
    }
}

fn parse(bytes: &[u8]) -> Result<Line, Failure> {
    let raw: RawLine = serde_json::from_slice(bytes).map_err(|error| {
        Failure::refused("MALFORMED_LINE", format!("not an object to push: {error}"))
    })?;
    let id = match raw.id {
        Some(text) => Some(text.parse().map_err(|error| {
            Failure::refused("MALFORMED_ID", format!("id: {error}")).field("id").given(text)
        })?),
        None => None,
    };
    let data = match (raw.data, raw.data_base64) {
        (Some(text), None) => Bytes::from(text),
        (None, Some(text)) => payload::decode(&text).map(Bytes::from).map_err(|error| {
            Failure::refused("MALFORMED_LINE", format!("data_base64: {error}")).field("data_base64")
        })?,
        (Some(_), Some(_)) => {
            let message = "data and data_base64 exclude each other: give one";
            return Err(Failure::refused("MALFORMED_LINE", message).field("data_base64"));
        }
        (None, None) => {
            let message = "no payload: give data (text) or data_base64";
            return Err(Failure::refused("MALFORMED_LINE", message).field("data"));
        }
    };
    Ok(Line { object_type: raw.object_type, id, data, headers: raw.headers })
}

fn too_long(length: usize, limit: usize) -> Failure {
    let message = format!("{length} bytes, but a line holds at most {limit}");
    Failure::refused("LINE_TOO_LONG", message).limit(limit).given(length.to_string())
}

fn at_line(number: u64, failure: Failure) -> Failure {
    Failure { message: format!("line {number}: {}", failure.message), ..failure }
}

#[cfg(test)]
mod tests {
    use tokio::io::BufReader;

    use super::*;

    type Read = Vec<(u64, Result<Line, Failure>)>;

    fn read(text: &str, limit: usize, buffer: usize) -> Read {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let input = BufReader::with_capacity(buffer, text.as_bytes());
            let mut lines = Lines::with_limit(input, limit);
            let mut read = Vec::new();
            while let Some(line) = lines.next().await.expect("memory does not fail") {
                read.push(line);
            }
            read
        })
    }

    #[test]
    fn lines_are_read_whatever_the_buffer() {
        let id = "0192f0c1-0000-7000-8000-000000000001";
        let text = format!(
            "{{\"data\":\"a\"}}\r\n\n  \n{{\"type\":\"t\",\"id\":\"{id}\",\"data_base64\":\"/wA=\",\
             \"headers\":{{\"k\":\"v\"}}}}"
        );
        for buffer in [1, 2, 7, 4096] {
            let read = read(&text, 1_000, buffer);
            assert_eq!(read.len(), 2);
            assert_eq!((read[0].0, read[1].0), (1, 4), "blank lines count");
            let first = read[0].1.as_ref().expect("good");
            assert_eq!((first.data.as_ref(), first.object_type.as_deref()), (&b"a"[..], None));
            let second = read[1].1.as_ref().expect("good");
            assert_eq!(second.id, Some(id.parse().expect("an id")));
            assert_eq!(second.data.as_ref(), [0xff, 0]);
            assert_eq!(second.object_type.as_deref(), Some("t"));
            assert_eq!(second.headers["k"], "v");
        }
    }

    #[test]
    fn a_bad_line_is_refused_and_the_next_one_is_read() {
        let cases = [
            ("nonsense", "MALFORMED_LINE", "line 1: not an object to push: expected"),
            ("[]", "MALFORMED_LINE", "line 1: not an object to push"),
            ("{\"data\":1}", "MALFORMED_LINE", "invalid type: integer `1`, expected a string"),
            ("{\"data\":\"\",\"typ\":\"t\"}", "MALFORMED_LINE", "unknown field `typ`"),
            ("{\"data\":\"\",\"headers\":{\"k\":1}}", "MALFORMED_LINE", "expected a string"),
            ("{}", "MALFORMED_LINE", "line 1: no payload"),
            ("{\"data\":\"\",\"data_base64\":\"\"}", "MALFORMED_LINE", "exclude each other"),
            ("{\"data_base64\":\"*\"}", "MALFORMED_LINE", "line 1: data_base64: not base64"),
            ("{\"data\":\"\",\"id\":\"7\"}", "MALFORMED_ID", "line 1: id: not a UUID"),
            (&"x".repeat(101), "LINE_TOO_LONG", "line 1: 101 bytes, but a line holds at most 100"),
        ];
        for (line, reason, message) in cases {
            let read = read(&format!("{line}\n{{\"data\":\"good\"}}\n"), 100, 16);
            assert_eq!(read.len(), 2, "{line}");
            let failure = read[0].1.as_ref().expect_err(line);
            assert_eq!(failure.reason, reason);
            assert!(failure.message.contains(message), "{line}: {}", failure.message);
            assert_eq!(read[1].1.as_ref().expect("good").data.as_ref(), b"good");
        }
        assert!(read("", 100, 16).is_empty());
    }
}

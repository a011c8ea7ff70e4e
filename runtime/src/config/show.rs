//! A configuration as people and scripts read it.

use serde::Serialize;
use toml::Value;

use super::keys::{self, Kind};
use super::layers::{Loaded, Origin};
use super::units::{Period, Size};

/// One key with its value, as one JSON line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShownKey {
    /// The dotted name.
    pub key: &'static str,
    /// The value; nothing if it is not set.
    pub value: Option<ShownValue>,
    /// Where it came from, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

/// A value in JSON: durations in seconds, sizes in bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ShownValue {
    /// A count, or a size in bytes.
    Count(u64),
    /// A fraction, or a duration in seconds that is not whole.
    Number(f64),
    /// True or false.
    Flag(bool),
    /// Text.
    Text(String),
    /// Addresses.
    List(Vec<String>),
}

impl Loaded {
    /// Every key in order.
    #[must_use]
    pub fn shown(&self, with_origin: bool) -> Vec<ShownKey> {
        let table = keys::table_of(&self.config);
        let shown = keys::keys().map(|key| ShownKey {
            key: key.name,
            value: keys::value_of(&table, key.name).map(|value| shown_value(key.kind, value)),
            origin: with_origin.then(|| self.origin(key.name).to_string()),
        });
        shown.collect()
    }

    /// The configuration as a TOML file that means the same; with origins as comments if asked for.
    #[must_use]
    pub fn to_toml(&self, with_origin: bool) -> String {
        let table = keys::table_of(&self.config);
        let mut lines: Vec<(String, Option<Origin>)> = Vec::new();
        let mut section = "";
        // The peers are tables of their own, and a table ends the keys that stand before it.
        for key in keys::keys().filter(|key| !matches!(key.kind, Kind::Peers)) {
            let (of, last) = key.name.split_once('.').unwrap_or(("", key.name));
            if of != section {
                section = of;
                lines.push((String::new(), None));
                lines.push((format!("[{section}]"), None));
            }
            let origin = Some(self.origin(key.name));
            match keys::value_of(&table, key.name) {
                Some(value) => lines.push((format!("{last} = {value}"), origin)),
                None => lines.push((format!("# {last} is not set"), None)),
            }
        }
        for peer in &self.config.peer {
            lines.push((String::new(), None));
            lines.push(("[[peer]]".to_owned(), None));
            lines.push((format!("addr = \"{}\"", peer.addr), Some(self.origin("peer"))));
        }
        render(&lines, with_origin)
    }
}

fn render(lines: &[(String, Option<Origin>)], with_origin: bool) -> String {
    let widths = lines.iter().filter(|(_, origin)| origin.is_some()).map(|(line, _)| line.len());
    let width = widths.max().unwrap_or(0);
    let mut text = String::new();
    for (line, origin) in lines {
        match origin {
            Some(origin) if with_origin => text.push_str(&format!("{line:width$}  # {origin}")),
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

fn shown_value(kind: Kind, value: Value) -> ShownValue {
    match (kind, value) {
        (Kind::Period(..), Value::String(text)) => {
            let period: Period = text.parse().expect("a checked configuration holds periods");
            if period.0.subsec_nanos() == 0 {
                ShownValue::Count(period.0.as_secs())
            } else {
                ShownValue::Number(period.0.as_secs_f64())
            }
        }
        (Kind::Size(..), Value::String(text)) => {
            let size: Size = text.parse().expect("a checked configuration holds sizes");
            ShownValue::Count(size.0)
        }
        (_, Value::Integer(number)) => {
            ShownValue::Count(u64::try_from(number).expect("counts are not negative"))
        }
        (_, Value::Float(number)) => ShownValue::Number(number),
        (_, Value::Boolean(flag)) => ShownValue::Flag(flag),
        (_, Value::Array(peers)) => {
            let addr = |peer: &Value| peer.get("addr").and_then(Value::as_str).map(str::to_owned);
            ShownValue::List(peers.iter().filter_map(addr).collect())
        }
        (_, Value::String(text)) => ShownValue::Text(text),
        (_, other) => ShownValue::Text(other.to_string()),
    }
}

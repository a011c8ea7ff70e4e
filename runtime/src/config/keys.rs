//! The table of all keys: what each accepts, and which one a misspelt key meant.

use serde::Serialize;
use toml::Value;
use toml::de::DeValue;

use super::sections::{Config, History, Limits, Listen, Log, Retention, Store};
use super::units::{Address, NodeName, Period, Size};
use crate::store::{CASSANDRA_ACCEPTED, CassandraAddress};

/// One key of the configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    /// Its dotted name.
    pub(super) name: &'static str,
    /// What it accepts.
    pub(super) kind: Kind,
}

/// What a key accepts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Address,
    Choice(&'static [&'static str]),
    Count(u64, u64),
    Flag,
    Fraction(f64, f64),
    Level,
    Name,
    Path,
    Peers,
    Period(Period, Period),
    Size(Size, Size),
    Url,
}

/// Why a value is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It does not have the shape of such values; the text says which shape has.
    Malformed(String),
    /// It lies outside of the limit that the text names.
    OutOfRange(String),
    /// A key inside of the value is not known; the name is relative to the value's key.
    UnknownInside(String),
}

/// Every key, those without a section first.
pub(super) fn keys() -> impl Iterator<Item = &'static Key> {
    [
        Config::TOP_KEYS,
        Listen::KEYS,
        Store::KEYS,
        Limits::KEYS,
        Retention::KEYS,
        History::KEYS,
        Log::KEYS,
    ]
    .into_iter()
    .flatten()
}

/// The key of that dotted name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    keys().find(|key| key.name == name)
}

/// True if `name` is a section.
pub(super) fn is_section(name: &str) -> bool {
    keys().any(|key| key.name.split_once('.').is_some_and(|(section, _)| section == name))
}

/// The known key or section that `name` most likely meant.
pub(super) fn nearest(name: &str) -> &'static str {
    let last = |name: &'static str| name.rsplit('.').next().unwrap_or(name);
    let own_last = name.rsplit('.').next().unwrap_or(name);
    let known = keys().map(|key| key.name);
    let sections = keys().filter_map(|key| key.name.split_once('.').map(|(section, _)| section));
    let inside = ["peer.addr"].into_iter();
    // A right key in the wrong section, or without its section, is nearer than any misspelling.
    let distance = |candidate: &'static str| {
        let whole = strsim::osa_distance(name, candidate);
        let tail = strsim::osa_distance(own_last, last(candidate));
        (whole.min(tail + 1), whole)
    };
    // What has a dot is meant to be a key, so a bare section would not help.
    let sections = sections.filter(|_| !name.contains('.'));
    known.chain(sections).chain(inside).min_by_key(|c| distance(c)).expect("there are keys")
}

impl Kind {
    /// Reads a value given as text: in the environment, after `--set`, or by a flag.
    pub(super) fn read_text(self, text: &str) -> Result<Value, Fault> {
        match self {
            Self::Count(..) => match text.parse::<i128>() {
                Ok(number) => self.count(number),
                Err(_) => Err(self.malformed()),
            },
            Self::Fraction(..) => match text.parse() {
                Ok(number) => self.fraction(number),
                Err(_) => Err(self.malformed()),
            },
            Self::Flag => match text {
                "true" => Ok(Value::Boolean(true)),
                "false" => Ok(Value::Boolean(false)),
                _ => Err(self.malformed()),
            },
            Self::Peers => {
                let addresses = text.split(',').map(str::trim).filter(|a| !a.is_empty());
                addresses.map(|a| self.peer(a)).collect::<Result<_, _>>().map(Value::Array)
            }
            _ => self.read_string(text),
        }
    }

    /// Reads a value of a TOML file.
    pub(super) fn read_toml(self, value: &DeValue<'_>) -> Result<Value, Fault> {
        match (self, value) {
            (Self::Count(..), DeValue::Integer(number)) => {
                match i128::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => self.count(number),
                    Err(_) => Err(self.malformed()),
                }
            }
            (Self::Fraction(..), DeValue::Float(number)) => self.read_text(number.as_str()),
            (Self::Fraction(..), DeValue::Integer(number)) => self.read_text(number.as_str()),
            (Self::Flag, DeValue::Boolean(flag)) => Ok(Value::Boolean(*flag)),
            (Self::Peers, DeValue::Array(items)) => {
                let peers = items.iter().map(|item| self.peer_table(item.get_ref()));
                peers.collect::<Result<_, _>>().map(Value::Array)
            }
            (Self::Count(..) | Self::Fraction(..) | Self::Flag | Self::Peers, _) => {
                Err(self.malformed())
            }
            (_, DeValue::String(text)) => self.read_string(text),
            _ => Err(self.malformed()),
        }
    }

    /// What is accepted, in one phrase.
    pub(super) fn accepted(self) -> String {
        match self {
            Self::Address => Address::ACCEPTED.to_owned(),
            Self::Choice(choices) => {
                let quoted: Vec<_> = choices.iter().map(|c| format!("\"{c}\"")).collect();
                quoted.join(" or ")
            }
            Self::Count(min, max) => format!("a whole number from {min} to {max}"),
            Self::Flag => "true or false".to_owned(),
            Self::Fraction(min, max) => format!("a number from {min} to {max}"),
            Self::Level => "off, error, warn, info, debug or trace, or levels per module such as \
                            \"info,runtime=debug\""
                .to_owned(),
            Self::Name => NodeName::ACCEPTED.to_owned(),
            Self::Path => "the path of a folder".to_owned(),
            Self::Peers => "[[peer]] tables with addr = \"HOST:PORT\"; as text, addresses \
                            separated by commas"
                .to_owned(),
            Self::Period(..) => Period::ACCEPTED.to_owned(),
            Self::Size(..) => Size::ACCEPTED.to_owned(),
            Self::Url => format!(
                "postgresql://USER@HOST:PORT/DATABASE, or key=value pairs, without a password: that \
                 comes from the environment as PGPASSWORD; or {CASSANDRA_ACCEPTED}"
            ),
        }
    }

    fn malformed(self) -> Fault {
        Fault::Malformed(self.accepted())
    }

    fn read_string(self, text: &str) -> Result<Value, Fault> {
        match self {
            Self::Address => text.parse::<Address>().map(text_of).map_err(|_| self.malformed()),
            Self::Choice(choices) if choices.contains(&text) => Ok(text_of(text)),
            Self::Level if text.split(',').all(is_level) => Ok(text_of(text)),
            Self::Name => text.parse::<NodeName>().map(text_of).map_err(|_| self.malformed()),
            Self::Path if !text.is_empty() => Ok(text_of(text)),
            Self::Url if is_url(text) => Ok(text_of(text)),
            Self::Period(min, max) => {
                let period = text.parse::<Period>().map_err(|_| self.malformed())?;
                within(period, min, max).map(text_of)
            }
            Self::Size(min, max) => {
                let size = text.parse::<Size>().map_err(|_| self.malformed())?;
                within(size, min, max).map(text_of)
            }
            _ => Err(self.malformed()),
        }
    }

    fn count(self, number: i128) -> Result<Value, Fault> {
        let Self::Count(min, max) = self else { return Err(self.malformed()) };
        let number = within(number, i128::from(min), i128::from(max))?;
        Ok(Value::Integer(i64::try_from(number).expect("every maximum fits 63 bits")))
    }

    fn fraction(self, number: f64) -> Result<Value, Fault> {
        let Self::Fraction(min, max) = self else { return Err(self.malformed()) };
        if (min..=max).contains(&number) {
            Ok(Value::Float(number))
        } else {
            Err(Fault::OutOfRange(format!("{min} to {max}")))
        }
    }

    fn peer(self, text: &str) -> Result<Value, Fault> {
        let address: Address = text.parse().map_err(|_| self.malformed())?;
        if address.port == 0 {
            return Err(Fault::OutOfRange("port 1 to 65535".to_owned()));
        }
        let table = [("addr".to_owned(), text_of(address))];
        Ok(Value::Table(table.into_iter().collect()))
    }

    fn peer_table(self, item: &DeValue<'_>) -> Result<Value, Fault> {
        let table = item.as_table().ok_or_else(|| self.malformed())?;
        let unknown = table.keys().find(|key| key.get_ref() != "addr");
        if let Some(unknown) = unknown {
            return Err(Fault::UnknownInside(unknown.get_ref().to_string()));
        }
        let addr = table.get("addr").and_then(|addr| addr.get_ref().as_str());
        self.peer(addr.ok_or_else(|| self.malformed())?)
    }
}

fn within<T: PartialOrd + std::fmt::Display>(value: T, min: T, max: T) -> Result<T, Fault> {
    if min <= value && value <= max {
        Ok(value)
    } else {
        Err(Fault::OutOfRange(format!("{min} to {max}")))
    }
}

fn text_of(value: impl ToString) -> Value {
    Value::String(value.to_string())
}

/// An address of a database that can be shown to anybody.
fn is_url(text: &str) -> bool {
    if CassandraAddress::is_meant(text) {
        return CassandraAddress::parse(text).is_ok();
    }
    let parsed = text.parse::<tokio_postgres::Config>();
    !text.is_empty() && parsed.is_ok_and(|config| config.get_password().is_none())
}

fn is_level(part: &str) -> bool {
    let (module, level) = part.split_once('=').unwrap_or(("_", part));
    let module_ok = !module.is_empty()
        && module.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':'));
    module_ok && ["off", "error", "warn", "info", "debug", "trace"].contains(&level)
}

/// The value of a key in `config`, or nothing if it is not set.
pub(super) fn value_of(config: &Value, name: &str) -> Option<Value> {
    name.split('.').try_fold(config, |at, part| at.get(part)).cloned()
}

/// The configuration as a TOML table.
pub(super) fn table_of(config: &impl Serialize) -> Value {
    Value::try_from(config).expect("every type of the configuration has a TOML form")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flatten(prefix: &str, value: &Value, found: &mut Vec<String>) {
        match value.as_table() {
            Some(table) => {
                for (key, value) in table {
                    let name =
                        if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                    flatten(&name, value, found);
                }
            }
            None => found.push(prefix.to_owned()),
        }
    }

    #[test]
    fn the_table_and_the_structs_name_the_same_keys() {
        let node_name = Some("a".parse().expect("a name"));
        let mut config = Config { node_name, ..Config::default() };
        config.retention.parked = Some(Period::hours(1));
        config.store.url = Some("postgresql://localhost/dpc".to_owned());
        let file = Some(std::path::PathBuf::from("a.pem"));
        let store = &mut config.store;
        (store.tls_ca, store.tls_cert, store.tls_key) = (file.clone(), file.clone(), file);
        config.listen.advertise = Some("a:1".parse().expect("an address"));
        let mut found = Vec::new();
        flatten("", &table_of(&config), &mut found);
        let mut known: Vec<_> = keys().map(|key| key.name.to_owned()).collect();
        found.sort();
        known.sort();
        assert_eq!(found, known);
    }

    #[test]
    fn every_default_lies_within_its_own_bounds() {
        let config = table_of(&Config::default());
        for key in keys() {
            let Some(value) = value_of(&config, key.name) else { continue };
            let text = match &value {
                Value::String(text) => text.clone(),
                Value::Array(items) if items.is_empty() => String::new(),
                other => other.to_string(),
            };
            assert_eq!(key.kind.read_text(&text), Ok(value), "{}", key.name);
        }
    }

    #[test]
    fn the_nearest_key_is_the_one_meant() {
        let cases = [
            ("limits.lease_defualt", "limits.lease_default"),
            ("limit.lease_default", "limits.lease_default"),
            ("lease_default", "limits.lease_default"),
            ("nodename", "node_name"),
            ("node-name", "node_name"),
            ("clients", "listen.clients"),
            ("listen.client", "listen.clients"),
            ("peers", "peer"),
            ("limts", "limits"),
            ("peer.adr", "peer.addr"),
            ("storage.kind", "store.kind"),
            ("log.lvl", "log.level"),
        ];
        for (given, meant) in cases {
            assert_eq!(nearest(given), meant, "{given}");
        }
    }
}

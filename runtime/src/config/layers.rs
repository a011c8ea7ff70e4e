//! The layers of the configuration, lowest first: default, file, environment, `--set`, named
//! flags. Each value remembers where it came from; a list replaces the lower layer's.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Value;
use toml::de::{DeTable, DeValue};

use super::check::check;
use super::error::{ConfigError, ConfigErrors};
use super::keys::{self, Fault, Key, Kind};
use super::sections::Config;

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    #[default]
    Default,
    /// A line of a file.
    File(PathBuf, usize),
    /// An environment variable.
    Environment(String),
    /// `--set`.
    Set,
    /// A named flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Set => f.write_str("--set"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A named flag that sets a key.
#[derive(Clone, Debug)]
pub struct FlagValue {
    /// The flag, with its dashes.
    pub flag: &'static str,
    /// The key that it sets.
    pub key: &'static str,
    /// Its value; a repeated flag's values separated by commas.
    pub value: String,
}

/// Everything that a configuration is made of. Nothing else is read, so that tests are complete.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file, which must exist.
    pub file: Option<PathBuf>,
    /// All environment variables; those that do not start with `DPC__` are ignored.
    pub environment: Vec<(OsString, OsString)>,
    /// The arguments of `--set`, in order.
    pub set: Vec<String>,
    /// Named flags.
    pub flags: Vec<FlagValue>,
}

impl Sources {
    /// What the process was given: `config` or `DPC_CONFIG` or `./dpc.toml` if that exists, and the
    /// environment.
    #[must_use]
    pub fn of_process(config: Option<PathBuf>) -> Self {
        let named = config.or_else(|| std::env::var_os("DPC_CONFIG").map(PathBuf::from));
        let here = || Some(PathBuf::from("./dpc.toml")).filter(|path| path.exists());
        let environment = std::env::vars_os().collect();
        Self { file: named.or_else(here), environment, ..Self::default() }
    }

    /// Reads and checks every layer. All errors are reported together.
    pub fn load(&self) -> Result<Loaded, ConfigErrors> {
        let mut layers = Layers::default();
        if let Some(path) = &self.file {
            layers.add_file(path);
        }
        layers.add_environment(&self.environment);
        for assignment in &self.set {
            layers.add_assignment(assignment);
        }
        for flag in &self.flags {
            let key = keys::find(flag.key).expect("named flags set known keys");
            layers.add_text(key, key.name, &flag.value, Origin::Flag(flag.flag));
        }
        layers.finish()
    }
}

/// A checked configuration and where each value came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    origins: BTreeMap<&'static str, Origin>,
}

impl Loaded {
    /// Where the value of `key` came from.
    #[must_use]
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or_default()
    }
}

/// What has been gathered so far; a later layer replaces an earlier one's value.
#[derive(Default)]
struct Layers {
    values: BTreeMap<&'static str, (Value, Origin)>,
    errors: Vec<ConfigError>,
}

impl Layers {
    fn add_file(&mut self, path: &Path) {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                let reason = error.to_string();
                return self.errors.push(ConfigError::Unreadable { path: path.to_owned(), reason });
            }
        };
        match DeTable::parse(&text) {
            Ok(table) => {
                let file = FileText { path, text: &text };
                self.add_table(&file, "", table.get_ref());
            }
            Err(error) => {
                let line = line_of(&text, error.span().map_or(0, |span| span.start));
                let reason = error.message().to_owned();
                self.errors.push(ConfigError::Syntax { path: path.to_owned(), line, reason });
            }
        }
    }

    fn add_table(&mut self, file: &FileText<'_>, section: &str, table: &DeTable<'_>) {
        // Errors come in the order of the file, not of the names.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let name = key.get_ref();
            let name =
                if section.is_empty() { name.to_string() } else { format!("{section}.{name}") };
            let origin = file.origin(key.span().start);
            match (keys::find(&name), value.get_ref()) {
                (Some(key), value) => {
                    let read = key.kind.read_toml(value);
                    self.add(key, key.name, || given_toml(value), read, origin);
                }
                (None, DeValue::Table(table)) if section.is_empty() && keys::is_section(&name) => {
                    self.add_table(file, &name, table);
                }
                (None, value) if keys::is_section(&name) => {
                    let accepted = format!("a section: [{name}] and its keys below it");
                    let given = given_toml(value);
                    self.errors.push(ConfigError::Malformed { key: name, given, accepted, origin });
                }
                (None, _) => {
                    let nearest = keys::nearest(&name).to_owned();
                    self.errors.push(ConfigError::Unknown { key: name, nearest, origin });
                }
            }
        }
    }

    fn add_environment(&mut self, variables: &[(OsString, OsString)]) {
        let ours = variables.iter().filter_map(|(name, value)| {
            let name = name.to_str()?;
            Some((name, name.strip_prefix("DPC__")?, value))
        });
        // The order of the environment is not fixed, but the order of errors should be.
        let mut ours: Vec<_> = ours.collect();
        ours.sort();
        for (variable, tail, value) in ours {
            let origin = Origin::Environment(variable.to_owned());
            let name = tail.replace("__", ".").to_ascii_lowercase();
            let upper = tail.bytes().all(|b| !b.is_ascii_lowercase());
            match (keys::find(&name).filter(|_| upper), value.to_str()) {
                (None, _) => {
                    let nearest = variable_of(keys::nearest(&name));
                    let key = variable.to_owned();
                    self.errors.push(ConfigError::Unknown { key, nearest, origin });
                }
                (Some(key), Some(text)) => self.add_text(key, key.name, text, origin),
                (Some(key), None) => {
                    let given = value.to_string_lossy().into_owned();
                    let accepted = format!("UTF-8 text: {}", key.kind.accepted());
                    let key = key.name.to_owned();
                    self.errors.push(ConfigError::Malformed { key, given, accepted, origin });
                }
            }
        }
    }

    fn add_assignment(&mut self, assignment: &str) {
        let Some((name, text)) = assignment.split_once('=') else {
            return self.errors.push(ConfigError::NotAssignment { given: assignment.to_owned() });
        };
        let name = name.trim();
        match keys::find(name) {
            Some(key) => self.add_text(key, key.name, text.trim(), Origin::Set),
            None => self.errors.push(ConfigError::Unknown {
                key: name.to_owned(),
                nearest: keys::nearest(name).to_owned(),
                origin: Origin::Set,
            }),
        }
    }

    fn add_text(&mut self, key: &'static Key, name: &str, text: &str, origin: Origin) {
        let read = key.kind.read_text(text);
        self.add(key, name, || format!("\"{text}\""), read, origin);
    }

    fn add(
        &mut self,
        key: &'static Key,
        name: &str,
        given: impl Fn() -> String,
        read: Result<Value, Fault>,
        origin: Origin,
    ) {
        let name = name.to_owned();
        self.errors.push(match read {
            Ok(value) => {
                self.values.insert(key.name, (value, origin));
                return;
            }
            Err(Fault::Malformed(accepted)) => {
                // An address that was refused may hold a password.
                let secret = matches!(key.kind, Kind::Url);
                let given = if secret { "what was given".to_owned() } else { given() };
                ConfigError::Malformed { key: name, given, accepted, origin }
            }
            Err(Fault::OutOfRange(limit)) => {
                ConfigError::OutOfRange { key: name, given: given(), limit, origin }
            }
            Err(Fault::UnknownInside(inside)) => {
                let key = format!("{name}.{inside}");
                let nearest = keys::nearest(&key).to_owned();
                ConfigError::Unknown { key, nearest, origin }
            }
        });
    }

    fn finish(self) -> Result<Loaded, ConfigErrors> {
        let Self { values, mut errors } = self;
        let mut table = keys::table_of(&Config::default());
        let mut origins = BTreeMap::new();
        for (name, (value, origin)) in values {
            put(&mut table, name, value);
            origins.insert(name, origin);
        }
        let config = Config::deserialize(table).expect("each value was read by its key's kind");
        let loaded = Loaded { config, origins };
        // A refused value leaves the lower layer's, and a contradiction with that would mislead.
        if errors.is_empty() {
            check(&loaded, &mut errors);
        }
        if errors.is_empty() { Ok(loaded) } else { Err(ConfigErrors(errors)) }
    }
}

struct FileText<'a> {
    path: &'a Path,
    text: &'a str,
}

impl FileText<'_> {
    fn origin(&self, offset: usize) -> Origin {
        Origin::File(self.path.to_owned(), line_of(self.text, offset))
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|b| *b == b'\n').count()
}

/// The name of the variable that sets `key`.
fn variable_of(key: &str) -> String {
    format!("DPC__{}", key.replace('.', "__").to_ascii_uppercase())
}

/// A value as a person who wrote it recognises it.
fn given_toml(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("\"{text}\""),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| given_toml(item.get_ref())).collect();
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(table) => {
            let pairs = table
                .iter()
                .map(|(key, value)| format!("{} = {}", key.get_ref(), given_toml(value.get_ref())));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
    }
}

fn put(table: &mut Value, name: &str, value: Value) {
    let (section, key) = name.split_once('.').map_or((None, name), |(s, k)| (Some(s), k));
    let root = table.as_table_mut().expect("a configuration is a table");
    let target = match section {
        Some(section) => root[section].as_table_mut().expect("sections are tables"),
        None => root,
    };
    target.insert(key.to_owned(), value);
}

//! The address of a cluster, as `store.url` gives it.

use dpc_core::store::StoreError;

/// What `store.url` may look like, in one phrase.
pub(crate) const ACCEPTED: &str = "cassandra://[USER@]HOST[:PORT][,HOST[:PORT]...][/KEYSPACE][?dc=NAME\
     &replication=3&consistency=local_quorum], where replication is a number, or numbers per data \
     centre such as dc1:3,dc2:3, and consistency is local_quorum or quorum; without a password: \
     that comes from the environment as CASSANDRA_PASSWORD";

const SCHEME: &str = "cassandra://";
const PORT: u16 = 9042;

/// Where the cluster is and how dpc uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Whom to log in as, if the cluster asks for it.
    pub(super) user: Option<String>,
    /// Nodes that are asked first, as `HOST:PORT`; the rest of the cluster is learned from them.
    pub(super) contacts: Vec<String>,
    pub(super) keyspace: String,
    /// The data centre whose nodes are used; the only one there is if not given.
    pub(super) dc: Option<String>,
    pub(super) replication: Replication,
    pub(super) quorum: Quorum,
}

/// How many copies a new keyspace gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Replication {
    /// In every data centre.
    Each(u8),
    /// In those that are named.
    In(Vec<(String, u8)>),
}

/// Whose quorum commits, and fences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quorum {
    /// That of one data centre: LOCAL_QUORUM and LOCAL_SERIAL.
    Local,
    /// That of all replicas everywhere: QUORUM and SERIAL.
    Everywhere,
}

impl Address {
    /// Whether a text is meant as the address of a cluster.
    pub(crate) fn is_meant(url: &str) -> bool {
        url.starts_with(SCHEME)
    }

    /// Whether a password is needed beside it.
    pub(super) fn needs_password(&self) -> bool {
        self.user.is_some()
    }

    /// Reads an address.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] says what is accepted.
    pub(crate) fn parse(url: &str) -> Result<Self, StoreError> {
        parse(url).ok_or_else(|| {
            StoreError::Refused(format!("store.url is not an address of Cassandra: {ACCEPTED}"))
        })
    }
}

fn parse(url: &str) -> Option<Address> {
    let rest = url.strip_prefix(SCHEME)?;
    let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
    let (hosts, keyspace) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, hosts) = match hosts.rsplit_once('@') {
        Some((user, hosts)) => (Some(user.to_owned()), hosts),
        None => (None, hosts),
    };
    if user.as_ref().is_some_and(|user| user.is_empty() || user.contains(':')) {
        return None;
    }
    let keyspace = if keyspace.is_empty() { "dpc" } else { keyspace };
    let mut address = Address {
        user,
        contacts: hosts.split(',').map(contact).collect::<Option<_>>()?,
        keyspace: is_keyspace(keyspace).then(|| keyspace.to_owned())?,
        dc: None,
        replication: Replication::Each(3),
        quorum: Quorum::Local,
    };
    for option in options.split('&').filter(|option| !option.is_empty()) {
        match option.split_once('=')? {
            ("dc", name) if is_dc(name) => address.dc = Some(name.to_owned()),
            ("replication", text) => address.replication = replication(text)?,
            ("consistency", "local_quorum") => address.quorum = Quorum::Local,
            ("consistency", "quorum") => address.quorum = Quorum::Everywhere,
            _ => return None,
        }
    }
    Some(address)
}

/// A contact point with its port. IPv6 addresses stand in brackets, as everywhere else.
fn contact(text: &str) -> Option<String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (text, PORT),
    };
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let good = match inner {
        Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c))
        }
    };
    (good && port != 0).then(|| format!("{host}:{port}"))
}

/// A name that means the same with and without quotes.
fn is_keyspace(name: &str) -> bool {
    name.len() <= 48
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn is_dc(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
}

fn replication(text: &str) -> Option<Replication> {
    let count = |text: &str| text.parse().ok().filter(|count| (1..=9).contains(count));
    if let Some(count) = count(text) {
        return Some(Replication::Each(count));
    }
    let each = |part: &str| {
        let (dc, number) = part.split_once(':')?;
        is_dc(dc).then_some((dc.to_owned(), count(number)?))
    };
    text.split(',').map(each).collect::<Option<_>>().map(Replication::In)
}

impl Replication {
    /// As CQL has it.
    pub(super) fn cql(&self) -> String {
        let each = match self {
            Self::Each(count) => format!("'replication_factor': {count}"),
            Self::In(dcs) => {
                let one = |(dc, count): &(String, u8)| format!("'{dc}': {count}");
                dcs.iter().map(one).collect::<Vec<_>>().join(", ")
            }
        };
        format!("{{'class': 'NetworkTopologyStrategy', {each}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_where_and_how() {
        let short = Address::parse("cassandra://10.0.0.1").expect("good");
        assert_eq!(short.contacts, ["10.0.0.1:9042"]);
        assert_eq!((short.user, short.keyspace.as_str(), short.dc), (None, "dpc", None));
        assert_eq!((short.replication, short.quorum), (Replication::Each(3), Quorum::Local));
        let url = "cassandra://me@c1,c2:9043,[::1]:9044/mine?dc=east&replication=east:3,west:2&consistency=quorum";
        let long = Address::parse(url).expect("good");
        assert_eq!(long.contacts, ["c1:9042", "c2:9043", "[::1]:9044"]);
        assert_eq!((long.user.as_deref(), long.dc.as_deref()), (Some("me"), Some("east")));
        assert_eq!((long.keyspace.as_str(), long.quorum), ("mine", Quorum::Everywhere));
        assert_eq!(
            long.replication.cql(),
            "{'class': 'NetworkTopologyStrategy', 'east': 3, 'west': 2}"
        );
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "cassandra://",
            "cassandra:// /dpc",
            "cassandra://h:0/dpc",
            "cassandra://h:port/dpc",
            "cassandra://me:secret@h/dpc",
            "cassandra://h/Dpc",
            "cassandra://h/dpc;drop",
            "cassandra://h/dpc?dc='",
            "cassandra://h/dpc?replication=0",
            "cassandra://h/dpc?replication=east:",
            "cassandra://h/dpc?consistency=one",
            "cassandra://h/dpc?ssl=true",
            "postgresql://h/dpc",
        ] {
            let error = Address::parse(bad).expect_err(bad).to_string();
            assert!(error.contains("CASSANDRA_PASSWORD") && !error.contains("secret"), "{error}");
        }
    }
}

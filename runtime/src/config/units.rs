//! Durations, sizes, addresses and names as people write them. Each type reads back what it
//! prints, and says in one phrase what it accepts.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Text that a unit type does not accept. The phrase says what it does accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("accepted: {0}")]
pub struct NotAccepted(pub &'static str);

/// A span of time written as `30s`, `5m`, `1m30s`, `24h` or `365d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(pub Duration);

impl Period {
    /// What [`Period`] reads.
    pub const ACCEPTED: &'static str =
        "a duration of d, h, m, s, ms and us, largest first, such as \"30s\", \"1m30s\" or \"24h\"";

    /// No time at all.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// A period of whole microseconds.
    #[must_use]
    pub const fn micros(us: u64) -> Self {
        Self(Duration::from_micros(us))
    }

    /// A period of whole milliseconds.
    #[must_use]
    pub const fn millis(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }

    /// A period of whole seconds.
    #[must_use]
    pub const fn secs(s: u64) -> Self {
        Self(Duration::from_secs(s))
    }

    /// A period of whole minutes.
    #[must_use]
    pub const fn mins(m: u64) -> Self {
        Self(Duration::from_secs(m * 60))
    }

    /// A period of whole hours.
    #[must_use]
    pub const fn hours(h: u64) -> Self {
        Self(Duration::from_secs(h * 3_600))
    }

    /// A period of whole days.
    #[must_use]
    pub const fn days(d: u64) -> Self {
        Self(Duration::from_secs(d * 86_400))
    }
}

/// Units of a period, largest first, in microseconds.
const PERIOD_UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

impl FromStr for Period {
    type Err = NotAccepted;

    fn from_str(text: &str) -> Result<Self, NotAccepted> {
        parse_period(text).map(Self::micros).ok_or(NotAccepted(Self::ACCEPTED))
    }
}

/// Microseconds of `text`, or nothing if a part is malformed, out of order or too large.
fn parse_period(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let (mut rest, mut total, mut units) = (text, 0_u64, &PERIOD_UNITS[..]);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, tail) = split_number(rest)?;
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let at = units.iter().position(|(name, _)| *name == unit)?;
        total = total.checked_add(number.checked_mul(units[at].1)?)?;
        units = &units[at + 1..];
        rest = tail;
    }
    Some(total)
}

/// The leading decimal number of `text` and what follows it.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, tail) = text.split_at(end);
    digits.parse().ok().map(|number| (number, tail))
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX);
        if left == 0 {
            return f.pad("0s");
        }
        let mut text = String::new();
        // One day reads as `24h`, the way people set it; whole days from two up read as days.
        let day = PERIOD_UNITS[0].1;
        let units = if left.is_multiple_of(day) && left > day { 0 } else { 1 };
        for (name, size) in &PERIOD_UNITS[units..] {
            if left >= *size {
                text.push_str(&format!("{}{name}", left / size));
                left %= size;
            }
        }
        f.pad(&text)
    }
}

/// A number of bytes written as `128B`, `16KiB`, `1MiB`, `2GiB` or `1TiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

impl Size {
    /// What [`Size`] reads.
    pub const ACCEPTED: &'static str =
        "a size in B, KiB, MiB, GiB or TiB, such as \"128B\", \"16KiB\" or \"256MiB\"";

    /// A size of whole KiB.
    #[must_use]
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// A size of whole MiB.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// A size of whole GiB.
    #[must_use]
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    /// The size as a count for buffers. Every configured size fits, as dpc runs on 64 bits.
    #[must_use]
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Units of a size, largest first.
const SIZE_UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl FromStr for Size {
    type Err = NotAccepted;

    fn from_str(text: &str) -> Result<Self, NotAccepted> {
        let parsed = split_number(text).and_then(|(number, unit)| {
            let (_, size) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
            number.checked_mul(*size)
        });
        parsed.map(Self).ok_or(NotAccepted(Self::ACCEPTED))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit =
            SIZE_UNITS.iter().find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size));
        let (name, size) = unit.unwrap_or(&("B", 1));
        f.pad(&format!("{}{name}", self.0 / size))
    }
}

/// A `HOST:PORT` pair. The host is an IP address (IPv6 in brackets) or a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The host, without brackets.
    pub host: String,
    /// The port; 0 asks a listener to pick a free one.
    pub port: u16,
}

impl Address {
    /// What [`Address`] reads.
    pub const ACCEPTED: &'static str =
        "HOST:PORT, such as \"127.0.0.1:50051\", \"[::1]:50051\" or \"node-a:40051\"";

    /// An address on 127.0.0.1.
    #[must_use]
    pub fn loopback(port: u16) -> Self {
        Self { host: "127.0.0.1".to_owned(), port }
    }

    /// True if only this machine can reach the address.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => ip.to_canonical().is_loopback(),
            Err(_) => self.host.eq_ignore_ascii_case("localhost"),
        }
    }
}

impl FromStr for Address {
    type Err = NotAccepted;

    fn from_str(text: &str) -> Result<Self, NotAccepted> {
        let parsed = text.rsplit_once(':').and_then(|(host, port)| {
            let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
            let port = digits.then(|| port.parse().ok()).flatten()?;
            let host = match host.strip_prefix('[') {
                Some(inner) => {
                    let ip = inner.strip_suffix(']')?;
                    ip.parse::<std::net::Ipv6Addr>().ok().map(|_| ip)?
                }
                None => host_name(host)?,
            };
            Some(Self { host: host.to_owned(), port })
        });
        parsed.ok_or(NotAccepted(Self::ACCEPTED))
    }
}

/// `host` if it looks like an IPv4 address or a DNS name.
fn host_name(host: &str) -> Option<&str> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    (!host.is_empty() && host.len() <= 253 && host.bytes().all(good)).then_some(host)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            f.pad(&format!("[{}]:{}", self.host, self.port))
        } else {
            f.pad(&format!("{}:{}", self.host, self.port))
        }
    }
}

/// A node's name: 1 to 64 of `[A-Za-z0-9._-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(String);

impl NodeName {
    /// What [`NodeName`] reads.
    pub const ACCEPTED: &'static str = "1 to 64 of A-Z a-z 0-9 . _ -";

    /// The longest name, in bytes.
    pub const LENGTH_MAX: usize = 64;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of a node that was given none: the host's name and the first four digits of the
    /// lane's id, so that two nodes of one machine differ.
    #[must_use]
    pub fn of_host(host: &str, lane: &str) -> Self {
        let tail: String = lane.chars().filter(char::is_ascii_hexdigit).take(4).collect();
        let room = Self::LENGTH_MAX - 1 - tail.len();
        let kept = |c: char| if name_byte(c) { c } else { '-' };
        let mut name: String = host.chars().map(kept).take(room).collect();
        if name.is_empty() {
            name.push_str("node");
        }
        Self(format!("{name}-{tail}"))
    }
}

fn name_byte(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

impl FromStr for NodeName {
    type Err = NotAccepted;

    fn from_str(text: &str) -> Result<Self, NotAccepted> {
        let fits = (1..=Self::LENGTH_MAX).contains(&text.len()) && text.chars().all(name_byte);
        if fits { Ok(Self(text.to_owned())) } else { Err(NotAccepted(Self::ACCEPTED)) }
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Serialises and deserialises a unit as the text that people write.
macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text!(Period, Size, Address, NodeName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_read_and_print() {
        let cases = [
            ("30s", 30_000_000, "30s"),
            ("5m", 300_000_000, "5m"),
            ("90s", 90_000_000, "1m30s"),
            ("1m30s", 90_000_000, "1m30s"),
            ("24h", 86_400_000_000, "24h"),
            ("1d", 86_400_000_000, "24h"),
            ("48h", 172_800_000_000, "2d"),
            ("365d", 31_536_000_000_000, "365d"),
            ("1d1h", 90_000_000_000, "25h"),
            ("1500ms", 1_500_000, "1s500ms"),
            ("250us", 250, "250us"),
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
        ];
        for (text, micros, printed) in cases {
            let period: Period = text.parse().expect(text);
            assert_eq!(period, Period::micros(micros), "{text}");
            assert_eq!(period.to_string(), printed);
            assert_eq!(printed.parse(), Ok(period), "{printed} reads back");
        }
    }

    #[test]
    fn malformed_periods_are_refused() {
        for bad in
            ["", "s", "30", "-1s", "1s1m", "1s1s", "1.5s", " 1s", "1 s", "1S", "1w", "99999999999d"]
        {
            assert_eq!(bad.parse::<Period>(), Err(NotAccepted(Period::ACCEPTED)), "{bad:?}");
        }
    }

    #[test]
    fn sizes_read_and_print() {
        let cases = [
            ("256MiB", 256 << 20, "256MiB"),
            ("1024KiB", 1 << 20, "1MiB"),
            ("1536KiB", 1536 << 10, "1536KiB"),
            ("128B", 128, "128B"),
            ("2GiB", 2 << 30, "2GiB"),
            ("1TiB", 1 << 40, "1TiB"),
            ("0B", 0, "0B"),
        ];
        for (text, bytes, printed) in cases {
            let size: Size = text.parse().expect(text);
            assert_eq!(size, Size(bytes), "{text}");
            assert_eq!(size.to_string(), printed);
            assert_eq!(printed.parse(), Ok(size));
        }
        for bad in ["", "1", "MiB", "1MB", "1mib", "1.5MiB", "-1B", "1 MiB", "99999999999TiB"] {
            assert_eq!(bad.parse::<Size>(), Err(NotAccepted(Size::ACCEPTED)), "{bad:?}");
        }
    }

    #[test]
    fn addresses_read_print_and_know_loopback() {
        let cases = [
            ("127.0.0.1:50051", true),
            ("127.8.0.1:1", true),
            ("[::1]:0", true),
            ("localhost:8080", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:50051", false),
            ("[::]:50051", false),
            ("10.0.0.2:40051", false),
            ("node-a.example:40051", false),
        ];
        for (text, loopback) in cases {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.to_string(), text);
            assert_eq!(address.is_loopback(), loopback, "{text}");
        }
        for bad in
            ["", "host", ":1", "host:", "host:70000", "host:+1", "::1:50051", "[host]:1", "a b:1"]
        {
            assert_eq!(bad.parse::<Address>(), Err(NotAccepted(Address::ACCEPTED)), "{bad:?}");
        }
    }

    #[test]
    fn node_names_are_checked_and_made() {
        assert!("a".parse::<NodeName>().is_ok());
        assert!("x".repeat(64).parse::<NodeName>().is_ok());
        for bad in ["", "a b", "ä", "a/b"] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(65).parse::<NodeName>().is_err());
        let lane = "0a1b2c3d-0000-0000-0000-000000000000";
        assert_eq!(NodeName::of_host("my host", lane).as_str(), "my-host-0a1b");
        assert_eq!(NodeName::of_host("", lane).as_str(), "node-0a1b");
        let long = NodeName::of_host(&"h".repeat(300), lane);
        assert_eq!(long.as_str().len(), 64);
        assert!(long.as_str().parse::<NodeName>().is_ok());
    }
}

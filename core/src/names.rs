//! Names: types, patterns of types, processors and nodes. Checked once, at construction.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits::{NAME_BYTES_MAX, TYPE_BYTES_MAX};
use crate::refusal::Refusal;

/// A full protobuf message name, like `acme.orders.Placed`. At most 255 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TypeName(Arc<str>);

/// What a subscription asks for: one type, a prefix (`acme.orders.*`, any depth below), or `*`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pattern(Arc<str>);

/// A processor's or a node's name: 1 to 64 bytes of `[A-Za-z0-9._-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Name(Arc<str>);

impl TypeName {
    /// Takes the type from a `google.protobuf.Any.type_url`: what stands after the last `/`.
    pub fn from_type_url(url: &str) -> Result<Self, Refusal> {
        if url.is_empty() {
            return Err(Refusal::invalid(
                "type",
                "TYPE_MISSING",
                "the object has no type; set Any.type_url, for example type.googleapis.com/acme.Order",
            ));
        }
        let name = url.rsplit('/').next().unwrap_or(url);
        check_type("type", name)?;
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Pattern {
    /// Checks a pattern. The `*` stands alone or after the last dot.
    pub fn new(text: &str) -> Result<Self, Refusal> {
        if text == "*" {
            return Ok(Self(text.into()));
        }
        let name = text.strip_suffix(".*").unwrap_or(text);
        if name.is_empty() {
            return Err(Refusal::invalid(
                "pattern",
                "TYPE_MISSING",
                "the subscription has no type; name one, a prefix like acme.orders.*, or *",
            )
            .given(text));
        }
        check_type("pattern", name)?;
        Ok(Self(text.into()))
    }

    /// Every pattern that a type matches, the narrowest first.
    pub(crate) fn all_of(ty: &TypeName) -> Vec<Self> {
        let text = ty.as_str();
        let mut patterns = vec![Self::from(ty)];
        let prefixes = text.match_indices('.').rev().map(|(i, _)| format!("{}.*", &text[..i]));
        patterns.extend(prefixes.map(|prefix| Self(prefix.into())));
        patterns.push(Self("*".into()));
        patterns
    }

    /// Whether an object of this type matches.
    pub fn matches(&self, ty: &TypeName) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => ty.0.starts_with(prefix),
            None => ty.0 == self.0,
        }
    }

    /// Whether it names one type only.
    pub fn is_exact(&self) -> bool {
        !self.0.ends_with('*')
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&TypeName> for Pattern {
    fn from(ty: &TypeName) -> Self {
        Self(ty.0.clone())
    }
}

impl Name {
    /// Comes before every name in any order; nothing is called so.
    pub(crate) fn least() -> Self {
        Self("".into())
    }

    /// Checks a name; `field` is what the refusal calls it.
    pub fn new(field: &'static str, text: &str) -> Result<Self, Refusal> {
        if text.is_empty() {
            return Err(Refusal::invalid(field, "NAME_MISSING", format!("{field} is empty")));
        }
        if text.len() > NAME_BYTES_MAX {
            return Err(Refusal::over(field, NAME_BYTES_MAX as u64, text.len() as u64, "bytes"));
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            return Err(Refusal::invalid(
                field,
                "NAME_MALFORMED",
                format!("{field} may hold only letters, digits, '.', '_' and '-'"),
            )
            .given(text));
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_type(field: &'static str, name: &str) -> Result<(), Refusal> {
    if name.len() > TYPE_BYTES_MAX {
        return Err(Refusal::over(field, TYPE_BYTES_MAX as u64, name.len() as u64, "bytes"));
    }
    let part_is_identifier = |part: &str| {
        let mut bytes = part.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    if !name.split('.').all(part_is_identifier) {
        return Err(Refusal::invalid(
            field,
            "TYPE_MALFORMED",
            format!("{field} must be a protobuf message name: identifiers joined by dots, like acme.orders.Placed"),
        )
        .given(name));
    }
    Ok(())
}

macro_rules! text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text!(TypeName);
text!(Pattern);
text!(Name);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_what_stands_after_the_last_slash() {
        let ty = TypeName::from_type_url("type.googleapis.com/acme.Order").expect("valid");
        assert_eq!(ty.as_str(), "acme.Order");
        let reason = |url: &str| TypeName::from_type_url(url).map_err(|r| r.reason);
        assert_eq!(reason(""), Err("TYPE_MISSING"));
        assert_eq!(reason("host/"), Err("TYPE_MALFORMED"));
        assert_eq!(reason("a..b"), Err("TYPE_MALFORMED"));
        assert_eq!(reason("1a"), Err("TYPE_MALFORMED"));
        assert_eq!(reason(&"a".repeat(256)), Err("LIMIT_EXCEEDED"));
    }

    #[test]
    fn a_prefix_matches_any_depth_below_and_nothing_beside() {
        let ty = |t: &str| TypeName::from_type_url(t).expect("valid");
        let prefix = Pattern::new("acme.orders.*").expect("valid");
        assert!(prefix.matches(&ty("acme.orders.Placed")));
        assert!(prefix.matches(&ty("acme.orders.eu.Placed")));
        assert!(!prefix.matches(&ty("acme.orders")));
        assert!(!prefix.matches(&ty("acme.ordersX")));
        assert!(Pattern::new("*").expect("valid").matches(&ty("x")));
        for bad in ["", ".*", "a*", "a.*.b", "a.**"] {
            assert!(Pattern::new(bad).is_err(), "{bad}");
        }
    }
}

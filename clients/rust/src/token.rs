//! Names of leases that are valid anywhere.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use uuid::Uuid;

use crate::error::Error;

/// Bytes of lane, epoch and incarnation.
pub(crate) const PREFIX_BYTES: usize = 32;
const TOKEN_BYTES: usize = PREFIX_BYTES + 8 + 16;

/// The full name of a lease. Whoever has it can settle the object, over any session or without
/// one. Its text form is base64url without padding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseToken([u8; TOKEN_BYTES]);

impl LeaseToken {
    pub(crate) fn new(prefix: &[u8; PREFIX_BYTES], lease: u64, id: Uuid) -> Self {
        let mut token = [0; TOKEN_BYTES];
        token[..PREFIX_BYTES].copy_from_slice(prefix);
        token[PREFIX_BYTES..PREFIX_BYTES + 8].copy_from_slice(&lease.to_be_bytes());
        token[PREFIX_BYTES + 8..].copy_from_slice(id.as_bytes());
        Self(token)
    }

    /// The bytes that stand on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn to_wire(self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }
}

impl TryFrom<&[u8]> for LeaseToken {
    type Error = Error;

    fn try_from(bytes: &[u8]) -> Result<Self, Error> {
        let token = bytes.try_into().map_err(|_| {
            let message =
                format!("a lease token has {TOKEN_BYTES} bytes, this one {}", bytes.len());
            Error::invalid("token", message)
        })?;
        Ok(Self(token))
    }
}

impl FromStr for LeaseToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bytes = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|why| Error::invalid("token", format!("not base64url: {why}")))?;
        Self::try_from(bytes.as_slice())
    }
}

impl fmt::Display for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_read_back_what_they_print() {
        let token = LeaseToken::new(&[0xab; PREFIX_BYTES], 0x0102, Uuid::from_u128(3));
        assert_eq!(&token.as_bytes()[32..40], [0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(token.to_string().parse::<LeaseToken>().expect("just printed"), token);
        for bad in ["", "AAAA", "not base64!"] {
            let error = bad.parse::<LeaseToken>().expect_err(bad);
            assert_eq!(error.field(), Some("token"));
        }
    }
}

//! Payloads in JSON: `data` when they are text, else `data_base64`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

/// A payload, to be flattened into a JSON line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Payload {
    /// UTF-8 text.
    #[serde(rename = "data")]
    Text(String),
    /// Anything else, in standard base64 with padding.
    #[serde(rename = "data_base64")]
    Bytes(String),
}

impl Payload {
    /// The form that shows all of `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes(STANDARD.encode(bytes)),
        }
    }
}

/// The bytes that `data_base64` stands for.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(text).map_err(|error| format!("not base64: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text_and_bytes_come_back() {
        let json = |bytes: &[u8]| serde_json::to_string(&Payload::of(bytes)).expect("serialises");
        assert_eq!(json("ä\n".as_bytes()), "{\"data\":\"ä\\n\"}");
        assert_eq!(json(b""), r#"{"data":""}"#);
        assert_eq!(json(&[0xff, 0]), r#"{"data_base64":"/wA="}"#);
        assert_eq!(decode("/wA="), Ok(vec![0xff, 0]));
        assert!(decode("/wA").expect_err("no padding").starts_with("not base64: "));
    }
}

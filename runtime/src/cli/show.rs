//! What a node answers, in the form of results: enums as words, times as RFC 3339, durations as
//! seconds, absent things absent.

use std::collections::BTreeMap;
use std::time::Duration;

use dpc_proto::google::protobuf;
use dpc_proto::v1;
use jiff::Timestamp;
use serde::Serialize;

use super::payload::Payload;

/// An object and its state: a line of `object get`, `object ls` and `parked ls`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ShownObject {
    pub(crate) id: String,
    #[serde(rename = "type")]
    pub(crate) object_type: String,
    pub(crate) version: u32,
    pub(crate) state: &'static str,
    pub(crate) owner: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) complete: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) asked: Option<Vec<String>>,
    pub(crate) hops: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) settled_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parked_reason: Option<String>,
    pub(crate) payload_size: u64,
    pub(crate) payload_hash: String,
    #[serde(flatten)]
    pub(crate) payload: Option<Payload>,
    #[serde(flatten)]
    pub(crate) living: Option<ShownLiving>,
    pub(crate) pushed_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) not_before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ended_at: Option<String>,
}

/// What is known of an object while it is alive, and not kept when it has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ShownLiving {
    pub(crate) origin: String,
    pub(crate) path: Vec<String>,
    pub(crate) deliveries: u32,
    pub(crate) failed_deliveries: u32,
    pub(crate) headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) possible_duplicate: bool,
}

impl ShownLiving {
    /// Every living object has an origin; one that has ended says none of all this.
    fn of(info: &mut v1::ObjectInfo) -> Option<Self> {
        (!info.origin.is_empty()).then(|| Self {
            origin: std::mem::take(&mut info.origin),
            path: std::mem::take(&mut info.path),
            deliveries: info.deliveries,
            failed_deliveries: info.failed_deliveries,
            headers: std::mem::take(&mut info.headers).into_iter().collect(),
            possible_duplicate: info.possible_duplicate,
        })
    }
}

impl From<v1::ObjectInfo> for ShownObject {
    fn from(mut info: v1::ObjectInfo) -> Self {
        Self {
            living: ShownLiving::of(&mut info),
            state: state_name(info.state()),
            complete: None,
            asked: None,
            payload: info.entity.as_ref().map(|entity| Payload::of(&entity.value)),
            pushed_at: info.pushed_at.and_then(time),
            not_before: info.not_before.and_then(time),
            expires_at: info.expires_at.and_then(time),
            ended_at: info.ended_at.and_then(time),
            id: info.id,
            object_type: info.r#type,
            version: info.version,
            owner: info.owner,
            hops: info.hops,
            settled_by: info.settled_by,
            parked_reason: info.parked_reason,
            payload_size: info.payload_size,
            payload_hash: info.payload_hash,
        }
    }
}

/// Someone who could have taken an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ShownCandidate {
    pub(crate) who: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) refused: Option<String>,
}

impl From<v1::Candidate> for ShownCandidate {
    fn from(candidate: v1::Candidate) -> Self {
        let refused = Some(candidate.refused).filter(|refused| !refused.is_empty());
        Self { who: candidate.who, refused }
    }
}

/// A time of the wire in RFC 3339 UTC; nothing if it is not one.
pub(crate) fn time(at: protobuf::Timestamp) -> Option<String> {
    Timestamp::new(at.seconds, at.nanos).ok().map(|at| at.to_string())
}

/// A duration of the wire; nothing if it is negative.
pub(crate) fn span(duration: protobuf::Duration) -> Option<Duration> {
    Duration::try_from(duration).ok()
}

/// The word for a state.
pub(crate) fn state_name(state: v1::ObjectState) -> &'static str {
    match state {
        v1::ObjectState::Unspecified => "unknown",
        v1::ObjectState::Ready => "ready",
        v1::ObjectState::Delayed => "delayed",
        v1::ObjectState::Leased => "leased",
        v1::ObjectState::Offered => "offered",
        v1::ObjectState::Held => "held",
        v1::ObjectState::Final => "final",
        v1::ObjectState::Discarded => "discarded",
        v1::ObjectState::Parked => "parked",
        v1::ObjectState::Moved => "moved",
    }
}

/// The word for what an object waits for.
pub(crate) fn waits_for_name(waits_for: v1::WaitsFor) -> &'static str {
    match waits_for {
        v1::WaitsFor::Unspecified => "unknown",
        v1::WaitsFor::Demand => "demand",
        v1::WaitsFor::Credit => "credit",
        v1::WaitsFor::Backoff => "backoff",
        v1::WaitsFor::Delay => "delay",
        v1::WaitsFor::Lease => "lease",
        v1::WaitsFor::Peer => "peer",
        v1::WaitsFor::Disk => "disk",
        v1::WaitsFor::Nothing => "nothing",
    }
}

/// The word for a durability.
pub(crate) fn durability_name(durability: v1::Durability) -> &'static str {
    match durability {
        v1::Durability::Unspecified => "unknown",
        v1::Durability::Synced => "synced",
        v1::Durability::Committed => "committed",
        v1::Durability::Quorum => "quorum",
    }
}

/// The word for the state of a link.
pub(crate) fn link_name(link: v1::LinkState) -> &'static str {
    match link {
        v1::LinkState::Up => "up",
        v1::LinkState::Down | v1::LinkState::Unspecified => "down",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_the_promised_keys_first() {
        let info = v1::ObjectInfo {
            id: "i".into(),
            r#type: "t".into(),
            version: 2,
            state: v1::ObjectState::Parked.into(),
            owner: "a".into(),
            hops: 1,
            parked_reason: Some("rejected: no".into()),
            payload_size: 2,
            payload_hash: "h".into(),
            entity: Some(protobuf::Any { type_url: "x/t".into(), value: vec![0xff, 0].into() }),
            pushed_at: Some(protobuf::Timestamp { seconds: 0, nanos: 5_000_000 }),
            origin: "b".into(),
            path: vec!["b".into()],
            deliveries: 3,
            ..v1::ObjectInfo::default()
        };
        let object = ShownObject {
            complete: Some(true),
            asked: Some(vec!["a".into()]),
            ..ShownObject::from(info)
        };
        assert_eq!(
            serde_json::to_string(&object).expect("serialises"),
            r#"{"id":"i","type":"t","version":2,"state":"parked","owner":"a","complete":true,"asked":["a"],"hops":1,"parked_reason":"rejected: no","payload_size":2,"payload_hash":"h","data_base64":"/wA=","origin":"b","path":["b"],"deliveries":3,"failed_deliveries":0,"headers":{},"pushed_at":"1970-01-01T00:00:00.005Z"}"#
        );
    }

    #[test]
    fn what_is_not_kept_of_an_ended_object_is_left_out() {
        let info = v1::ObjectInfo {
            id: "i".into(),
            ended_at: Some(protobuf::Timestamp { seconds: 1, nanos: 0 }),
            ..v1::ObjectInfo::default()
        };
        let shown = serde_json::to_value(ShownObject::from(info)).expect("serialises");
        assert_eq!(shown["ended_at"], "1970-01-01T00:00:01Z");
        for key in ["origin", "path", "deliveries", "failed_deliveries", "headers"] {
            assert_eq!(shown.get(key), None, "{key}");
        }
    }

    #[test]
    fn times_that_are_none_are_left_out() {
        assert_eq!(time(protobuf::Timestamp { seconds: i64::MAX, nanos: 0 }), None);
        assert_eq!(span(protobuf::Duration { seconds: -1, nanos: 0 }), None);
    }
}

use bytes::Bytes;
use prost::Message;
use prost_types::FileDescriptorSet;

use crate::FILE_DESCRIPTOR_SET;
use crate::google::protobuf::Any;
use crate::v1;

/// A payload that was copied on its way out of a message would no longer be this type.
const _: fn(Any) -> Bytes = |any| any.value;

#[test]
fn the_descriptor_set_holds_three_services_and_the_google_types() {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("built with this crate");
    let mut services = Vec::new();
    for file in set.file.iter().filter(|file| file.package() == "dpc.v1") {
        services.extend(file.service.iter().map(|service| service.name().to_owned()));
    }
    services.sort();
    assert_eq!(services, ["CloudService", "MeshService", "OperatorService"]);

    let names: Vec<_> = set.file.iter().map(|file| file.name()).collect();
    for import in set.file.iter().flat_map(|file| &file.dependency) {
        assert!(names.contains(&import.as_str()), "{import} is missing: reflection would break");
    }
    assert!(names.contains(&"google/protobuf/any.proto"));
}

#[test]
fn an_object_comes_back_as_it_went_and_its_payload_is_not_copied() {
    let object = v1::Object {
        id: "01932f6e-0000-7000-8000-000000000001".to_owned(),
        entity: Some(Any {
            type_url: "type.googleapis.com/acme.orders.v1.Order".to_owned(),
            value: Bytes::from(vec![7; 4096]),
        }),
        headers: [("traceparent".to_owned(), "00-ab-cd-01".to_owned())].into(),
        start: Some(v1::object::Start::Delay(std::time::Duration::from_secs(5).into())),
        end: None,
    };
    let wire = Bytes::from(object.encode_to_vec());
    let back = v1::Object::decode(wire.clone()).expect("just encoded");
    assert_eq!(back, object);
    let payload = back.entity.expect("it had one").value;
    assert!(
        wire.as_ptr_range().contains(&payload.as_ptr()),
        "the payload is a part of the message"
    );
}

#[test]
fn a_settlement_of_consecutive_leases_is_small() {
    let settle = v1::Settlement {
        leases: (1_000_000..1_000_100).collect(),
        verb: Some(v1::settlement::Verb::Finalise(v1::Finalise {})),
        ..v1::Settlement::default()
    };
    // Three bytes for each number, and the heads of two fields: numbers are packed.
    assert!(settle.encoded_len() <= 3 * 100 + 8, "{}", settle.encoded_len());
}

#[test]
fn an_absent_credit_is_not_a_credit_of_zero() {
    let zero = v1::Subscribe { credit: Some(0), ..v1::Subscribe::default() };
    let back = v1::Subscribe::decode(zero.encode_to_vec().as_slice()).expect("just encoded");
    assert_eq!(back.credit, Some(0));
    assert_eq!(v1::Subscribe::decode(&[][..]).expect("all fields absent").credit, None);
}

#[test]
fn messages_that_queues_hold_many_of_are_not_inflated_by_rare_kinds() {
    assert!(size_of::<v1::LinkMessage>() <= 256, "{}", size_of::<v1::LinkMessage>());
    assert!(size_of::<v1::SessionItem>() <= 256, "{}", size_of::<v1::SessionItem>());
}

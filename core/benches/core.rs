//! What the state machine and its records cost, by themselves: `cargo bench -p dpc-core`
//!
//! Rates are of one thread, and only as good as the machine was quiet; `dpc bench core` says the
//! same in processor seconds.

use bytes::Bytes;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use dpc_core::ids::{Birth, Epoch, LaneId, Loc, ObjectId, RecordNumber};
use dpc_core::names::{Name, TypeName};
use dpc_core::object::{Entity, Headers, Object};
use dpc_core::record::{Entry, Header, How, Standing, Writer, entries, entries_of_sealed, seal};
use dpc_core::time::Wall;

mod bare;

use bare::{Around, Bare, GROUP};

/// Entries of a record of the usual size.
const ENTRIES: u32 = 1_000;

fn main() {
    divan::main();
}

/// A push, a delivery and a settle of each object, and the two records that it shares with others.
#[divan::bench(args = [
    Around::default(),
    Around { backlog: 1_000, ..Around::default() },
    Around { backlog: 1_000_000, ..Around::default() },
    Around { types: 10, ..Around::default() },
    Around { types: 10_000, ..Around::default() },
    Around { types: 10, neighbours: 2, ..Around::default() },
    Around { types: 10, neighbours: 64, ..Around::default() },
    Around { types: 10_000, neighbours: 64, ..Around::default() },
    Around { subscriptions: 10_000, ..Around::default() },
])]
fn life(bencher: Bencher<'_, '_>, around: Around) {
    let mut bare = Bare::new(around, None);
    bencher.counter(ItemsCount::new(GROUP)).bench_local(|| bare.group());
}

/// What a record's body costs to write, with its seal.
#[divan::bench]
fn write_and_seal(bencher: Bencher<'_, '_>) {
    let entry = entry();
    bencher.counter(ItemsCount::new(ENTRIES)).bench_local(|| record(black_box(&entry)));
}

/// What a record that comes from a disk costs to read: its hash is checked.
#[divan::bench]
fn check_and_read(bencher: Bencher<'_, '_>) {
    let record = record(&entry());
    let count = ItemsCount::new(ENTRIES);
    bencher.counter(count).bench_local(|| entries(black_box(&record)).expect("well formed"));
}

/// What one that was sealed here costs to read.
#[divan::bench]
fn read_sealed(bencher: Bencher<'_, '_>) {
    let record = record(&entry());
    let count = ItemsCount::new(ENTRIES);
    bencher
        .counter(count)
        .bench_local(|| entries_of_sealed(black_box(&record)).expect("well formed"));
}

/// The hash by which a repeated push is known (P9).
#[divan::bench(args = [100, 1_000, 100_000])]
fn hash_of_content(bencher: Bencher<'_, '_>, bytes: usize) {
    let entity = entity(bytes);
    bencher.counter(BytesCount::new(bytes)).bench_local(|| black_box(&entity).hash());
}

fn entity(bytes: usize) -> Entity {
    Entity {
        ty: TypeName::from_type_url("acme.orders.Placed").expect("valid"),
        payload: Bytes::from(vec![7; bytes]),
        headers: Headers::default(),
    }
}

fn entry() -> Entry {
    let entity = entity(200);
    let (hash, pushed_at) = (entity.hash(), Wall(1_700_000_000_000));
    let origin = Name::new("node", "n1").expect("valid");
    let object = Object::new(ObjectId([5; 16]), entity, hash, pushed_at, origin);
    let (how, standing) = (How::Pushed, Standing::Flowing);
    Entry::Object { how, was: None, place: None, standing, object: Box::new(object) }
}

fn record(entry: &Entry) -> Bytes {
    let (lane, epoch, number) = (LaneId([1; 16]), Epoch(1), RecordNumber(1));
    let mut writer = Writer::default();
    for position in 0..ENTRIES {
        entry.encode(&mut writer, Birth { lane, epoch, loc: Loc { record: number, position } });
    }
    let header = Header {
        lane,
        epoch,
        number,
        wall: Wall(1_700_000_000_000),
        previous: [0; 16],
        checkpoint: RecordNumber(0),
        entries: ENTRIES,
    };
    seal(&header, writer.as_slice())
}

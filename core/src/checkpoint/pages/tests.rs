use super::*;
use crate::Settings;
use crate::checkpoint::LAYOUT;
use crate::ids::{Epoch, Incarnation, LaneId};
use crate::limits::Limits;
use crate::message::Protocols;
use crate::names::{Name, TypeName};
use crate::store::Claimed;

const RECORD: RecordNumber = RecordNumber(70);

/// A core that is being restored, with so many types that have a queue each.
fn core(types: u32) -> Core {
    let settings = Settings {
        name: Name::new("name", "n").expect("valid"),
        lane: LaneId([1; 16]),
        incarnation: Incarnation(1),
        seed: 1,
        limits: Limits::default(),
        protocols: Protocols::default(),
        fence: None,
        heir: None,
    };
    let (first, last) = (RecordNumber(1), RecordNumber(0));
    let claimed = Claimed { epoch: Epoch(1), first, last, last_hash: [0; 16] };
    let mut core = Core::new(settings, claimed);
    for n in 0..types {
        let ty = TypeName::from_type_url(&format!("type{n}")).expect("valid");
        let ty = core.queues.intern(&ty);
        core.queues.create(ty, &[], Vec::new());
    }
    core
}

/// A page of all kinds of shelves, of so many types in turn. Of each row of `of` positions one has
/// nothing, and every seventh object has come back to its queue.
fn page(types: u32, entries: u32, of: u32) -> Page {
    let mut page = Page::new(Wall(5), 9_000, entries);
    for position in (0..entries).filter(|n| n % of != 1) {
        let n = position % types;
        let shelf = match position % 11 {
            2 => Shelf::Delayed(TypeId(n)),
            3 => Shelf::Parked(TypeId(n)),
            4 => Shelf::Held,
            5 => Shelf::Shadow,
            6 => Shelf::Ended,
            _ => Shelf::Ready(QueueId(n)),
        };
        page.put(position, shelf);
        if position % 7 == 0 {
            let place = Loc { record: RecordNumber(RECORD.0 - 60), position: 3 * position };
            page.change(Loc { record: RECORD, position }, Shelf::Ready(QueueId(n)), place);
        }
    }
    page
}

/// What a checkpoint says of a page, in one way or the other.
fn told(page: &Page, form: u8) -> Vec<u8> {
    let mut w = Writer::default();
    w.int(u64::from(page.bytes));
    w.int(u64::from(page.entries));
    w.byte(form);
    match form {
        BY_SHELF => encode_by_shelf(&mut w, RECORD, page, &page.sets()),
        _ => encode_by_position(&mut w, RECORD, page),
    }
    w.as_slice().to_vec()
}

fn read(types: u32, bytes: Vec<u8>) -> Result<Core, BadEntry> {
    let (mut core, mut r) = (core(types), Reader::new(bytes.into()));
    core.decode_page(&mut r, LAYOUT, RECORD, Wall(5))?;
    if r.is_done() { Ok(core) } else { Err(r.bad("the end")) }
}

#[test]
fn a_page_is_read_as_it_was_told_in_either_way() {
    for (types, entries, of) in [(1, 1, 2), (3, 40, 2), (5, 700, 9), (40, 500, 3), (90, 90, 5)] {
        let page = page(types, entries, of);
        for form in [BY_SHELF, BY_POSITION] {
            let core = read(types, told(&page, form)).expect("it was written");
            let read = core.catalogue.page(RECORD).expect("something stands on it");
            assert_eq!(read.sets(), page.sets());
            assert_eq!(read.all_moved(), page.all_moved());
        }
    }
}

#[test]
fn a_page_is_told_in_the_shorter_way() {
    for (types, entries, of, form) in [(1, 700, 9, BY_SHELF), (90, 700, 9, BY_POSITION)] {
        let page = page(types, entries, of);
        let mut w = Writer::default();
        encode_page(&mut w, RECORD, &page);
        assert_eq!(w.as_slice()[0], form, "{types} types");
        let [this, other] = [form, BY_SHELF + BY_POSITION - form].map(|form| told(&page, form));
        assert!(this.len() < other.len(), "{types} types");
    }
}

#[test]
fn a_damaged_page_is_an_error_and_no_panic() {
    for form in [BY_SHELF, BY_POSITION] {
        let bytes = told(&page(6, 40, 5), form);
        for cut in 0..bytes.len() {
            assert!(read(6, bytes[..cut].to_vec()).is_err(), "cut at {cut}");
        }
        let mut refused = 0;
        for bit in 0..8 * bytes.len() {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            refused += usize::from(read(6, bytes).is_err());
        }
        assert!(refused > 2 * bytes.len(), "{refused} of {} bits", 8 * bytes.len());
    }
}

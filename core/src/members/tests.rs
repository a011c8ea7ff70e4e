use super::*;
use crate::ids::RecordNumber;
use crate::names::Name;

const BEAT: Span = Span::secs(1);

fn ways(me: u64) -> Ways {
    let me = Incarnation(me);
    Ways { me, heartbeat: BEAT, dead_after: BEAT.times(10), adopted_max: 2 }
}

fn lane(n: u8) -> LaneId {
    LaneId([n; 16])
}

fn row(n: u8, owner: u64, epoch: u64, state: LaneState) -> LaneRow {
    let name = Name::new("node", &format!("n{owner}")).expect("a valid name");
    let owner = Owner { incarnation: Incarnation(owner), name, address: "".into() };
    let (number, hash) = (RecordNumber(0), [0; 16]);
    let (epoch, first) = (Epoch(epoch), RecordNumber(1));
    LaneRow { lane: lane(n), owner, epoch, state, number, hash, began: number, first }
}

/// One process over tables that a test writes.
struct Bench {
    members: Members,
    now: Mono,
    table: Table,
    /// Whether reads succeed.
    store: bool,
    moves: Vec<Move>,
}

impl Bench {
    /// Process `me` with a lane of its own number, among others.
    fn new(me: u64, others: &[u64]) -> Self {
        let mut table = Table::default();
        for n in others.iter().chain([&me]) {
            let n8 = u8::try_from(*n).expect("few processes");
            table.lanes.insert(lane(n8), row(n8, *n, 1, LaneState::Owned));
            table.beats.insert(Incarnation(*n), 1);
        }
        let own = lane(u8::try_from(me).expect("few processes"));
        let members = Members::new(ways(me), own, Epoch(1), Mono(0));
        Self { members, now: Mono(0), table, store: true, moves: Vec::new() }
    }

    fn hear(&mut self, heard: Heard) {
        self.members.handle(self.now, heard, &mut self.moves);
        // Whatever needs the store is answered at once.
        let asked: Vec<Move> = self.moves.clone();
        self.moves.retain(|m| !matches!(m, Move::Beat(_) | Move::Read));
        for what in asked {
            match what {
                Move::Beat(_) => self.hear(Heard::Beaten),
                Move::Read => {
                    let table = self.store.then(|| self.table.clone());
                    self.hear(Heard::Table(table));
                }
                _ => {}
            }
        }
    }

    /// Lets time pass in beats; these processes beat meanwhile.
    fn pass(&mut self, beats: u64, living: &[u64]) {
        for _ in 0..beats {
            self.now = self.now + BEAT;
            for n in living {
                *self.table.beats.entry(Incarnation(*n)).or_default() += 1;
            }
            self.hear(Heard::Wake);
        }
    }

    fn done(&mut self) -> Vec<Move> {
        std::mem::take(&mut self.moves)
    }

    fn probed(&mut self, who: u64) -> bool {
        let asked = |m: &Move| matches!(m, Move::Probe(o) if o.incarnation == Incarnation(who));
        self.done().iter().any(asked)
    }
}

#[test]
fn whoever_is_silent_and_does_not_answer_is_declared_dead() {
    let mut bench = Bench::new(1, &[2, 3]);
    bench.pass(9, &[3]);
    assert_eq!(bench.done(), [], "nine beats of silence are not ten");
    bench.pass(3, &[3]);
    assert!(bench.probed(2));
    bench.hear(Heard::Probed(Incarnation(2), false));
    assert_eq!(bench.done(), [Move::DeclareDead(lane(2), Incarnation(2), Epoch(1))]);
    bench.hear(Heard::Declared(lane(2), Changed::Done));
    bench.pass(3, &[3]);
    assert!(bench.done().contains(&Move::Claim(lane(2), Incarnation(2), Epoch(1))));
}

#[test]
fn whoever_answers_a_probe_lives() {
    let mut bench = Bench::new(1, &[2]);
    bench.pass(12, &[]);
    assert!(bench.probed(2));
    bench.hear(Heard::Probed(Incarnation(2), true));
    bench.pass(9, &[]);
    assert_eq!(bench.done(), [], "the count begins anew");
    bench.pass(3, &[]);
    assert!(bench.probed(2));
    bench.pass(1, &[2]);
    bench.hear(Heard::Probed(Incarnation(2), false));
    assert_eq!(bench.done(), [], "it has beaten while the probe was under way");
}

#[test]
fn an_observer_that_was_cut_off_or_stopped_declares_nobody_dead() {
    let mut bench = Bench::new(1, &[2]);
    bench.pass(3, &[2]);
    bench.store = false;
    bench.pass(60, &[2]);
    bench.store = true;
    // Nobody could beat while the store was away: the same number says nothing yet.
    bench.pass(7, &[]);
    assert_eq!(bench.done(), []);
    bench.pass(1, &[2]);
    bench.now = bench.now + BEAT.times(300);
    bench.pass(7, &[]);
    assert_eq!(bench.done(), []);
    bench.pass(6, &[]);
    assert!(bench.probed(2), "and then it counts");
}

#[test]
fn an_old_table_is_no_news() {
    let mut bench = Bench::new(1, &[2]);
    bench.hear(Heard::Runs(lane(2), Epoch(2)));
    bench.pass(2, &[2]);
    assert_eq!(bench.done(), [], "the list shows the owner before");
    bench.table.beats.insert(Incarnation(2), 40);
    bench.pass(1, &[]);
    bench.table.beats.insert(Incarnation(2), 30);
    bench.pass(9, &[]);
    assert_eq!(bench.done(), [], "an older beat is no silence and no sign of life");
}

#[test]
fn a_later_owner_fences() {
    let mut bench = Bench::new(1, &[2]);
    bench.table.lanes.insert(lane(1), row(1, 2, 2, LaneState::Owned));
    bench.pass(1, &[2]);
    assert_eq!(bench.done(), [Move::Fenced(lane(1), Epoch(2))]);
    let mut bench = Bench::new(1, &[2]);
    bench.table.lanes.insert(lane(1), row(1, 1, 1, LaneState::Dead));
    bench.pass(1, &[2]);
    assert_eq!(bench.done(), [Move::Fenced(lane(1), Epoch(1))], "declared dead, and alive");
}

/// Each survivor has its turn, in an order on which all agree, and nobody waits for another.
#[test]
fn the_most_suitable_survivor_claims_first_and_the_others_do_not_wait_for_it() {
    for orphan in 10..40 {
        let mut turns = Vec::new();
        for me in 1..=4 {
            let others: Vec<u64> = (1..=4).filter(|n| *n != me).collect();
            let mut bench = Bench::new(me, &others);
            bench.pass(2, &others);
            bench.table.lanes.insert(lane(orphan), row(orphan, 99, 7, LaneState::Dead));
            let claim = Move::Claim(lane(orphan), Incarnation(99), Epoch(7));
            let turn = (0..8).find(|_| {
                bench.pass(1, &others);
                bench.done().contains(&claim)
            });
            turns.push(turn.expect("a survivor claims, whatever the others do"));
        }
        turns.sort_unstable();
        assert_eq!(turns, [0, 1, 2, 3], "lane {orphan}");
    }
}

#[test]
fn a_process_runs_a_limited_number_of_lanes_and_says_when_more_wait() {
    let mut bench = Bench::new(1, &[]);
    for n in 10..14 {
        bench.table.lanes.insert(lane(n), row(n, 99, 1, LaneState::Dead));
    }
    bench.pass(1, &[]);
    let done = bench.done();
    let claims = done.iter().filter(|m| matches!(m, Move::Claim(..))).count();
    assert_eq!((claims, done.last()), (2, Some(&Move::TooMany(2))));
    assert!(bench.members.next_wake() > bench.now, "those that wait are no reason to wake");
    for n in [10, 11] {
        bench.table.lanes.insert(lane(n), row(n, 1, 2, LaneState::Owned));
        bench.hear(Heard::Runs(lane(n), Epoch(2)));
    }
    bench.pass(3, &[]);
    assert_eq!(bench.done(), []);
    bench.table.lanes.insert(lane(10), row(10, 1, 2, LaneState::Retired));
    bench.hear(Heard::Ended(lane(10)));
    let done = bench.done();
    assert_eq!(done, [Move::Claim(lane(12), Incarnation(99), Epoch(1)), Move::TooMany(1)]);
}

#[test]
fn a_claim_that_arrives_after_it_was_given_up_is_taken_up() {
    let mut bench = Bench::new(1, &[2]);
    bench.table.lanes.insert(lane(9), row(9, 99, 1, LaneState::Dead));
    bench.pass(3, &[2]);
    bench.done();
    bench.hear(Heard::NotClaimed(lane(9)));
    bench.table.lanes.insert(lane(9), row(9, 1, 2, LaneState::Owned));
    bench.pass(1, &[2]);
    assert_eq!(bench.done(), [Move::Claim(lane(9), Incarnation(1), Epoch(2))]);
}

#[test]
fn beats_go_on_from_those_before_it_took_part() {
    let mut members = Members::new(ways(1), lane(1), Epoch(1), Mono(0));
    members.has_beaten(20);
    let mut moves = Vec::new();
    members.handle(Mono(0), Heard::Wake, &mut moves);
    assert!(moves.contains(&Move::Beat(21)), "{moves:?}");
}

//! What the model of a handoff is made of: ids, records, stores, cores, messages.

use std::fmt;

use super::set::{Numbered, Set};

/// The lane that objects are pushed to.
pub(crate) const SENDER: usize = 0;

/// The lane that they are handed to.
pub(crate) const RECEIVER: usize = 1;

/// The lanes' names in a story.
pub(crate) const NAMES: [&str; 2] = ["S", "R"];

/// Most objects of one model.
pub(crate) const OBJECTS_MAX: usize = 2;

/// A transfer of one object from the sender's lane to the receiver's. The epoch stands for the
/// incarnation, too: every start claims.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Transfer {
    /// 1 to 4.
    pub(crate) epoch: u8,
    /// 1 or 2.
    pub(crate) n: u8,
    pub(crate) object: u8,
}

/// The token of a lease. An owner gives one lease of an object at most.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Token {
    pub(crate) lane: usize,
    pub(crate) epoch: u8,
    pub(crate) object: u8,
}

/// One record of a lane: one commit.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Record {
    /// The object itself.
    Pushed(u8),
    /// The object, pushed where it was held for this transfer: the copy is kept out.
    PushedOver(Transfer),
    /// The receiver holds the object, in doubt.
    Held(Transfer),
    /// The receiver owns it.
    Ready(Transfer),
    /// The receiver has let it go: the offer was ended.
    Aborted(Transfer),
    /// The sender's commit point.
    Moved(Transfer),
    /// The sender has heard TAKEN. The model forgets the transfer and its shadow at once, as if
    /// `shadow_retention` were nothing.
    Taken(Transfer),
    /// A subscriber's settle.
    Settled(Token),
}

impl Record {
    /// Whether an object is no longer in the lane afterwards.
    pub(crate) fn gives_away(self) -> bool {
        matches!(self, Self::Moved(_) | Self::Aborted(_))
    }
}

/// Where an object is, as the records of a lane say.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Place {
    Absent,
    Ready,
    Held(Transfer),
    Moved,
    Settled,
}

/// What the records of a lane say, folded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Image {
    places: [Place; OBJECTS_MAX],
    /// Transfers out that have moved and are not taken.
    pub(crate) moved: Set<Transfer>,
    /// Transfers in that were released here.
    pub(crate) taken: Set<Transfer>,
    pub(crate) settled: Set<Token>,
}

impl Image {
    pub(crate) fn new(place: Place) -> Self {
        let places = [place; OBJECTS_MAX];
        Self { places, moved: Set::EMPTY, taken: Set::EMPTY, settled: Set::EMPTY }
    }

    pub(crate) fn place(&self, object: u8) -> Place {
        self.places[usize::from(object)]
    }

    /// Whether the object is here, in doubt or not, or is done.
    pub(crate) fn keeps(&self, object: u8) -> bool {
        matches!(self.place(object), Place::Ready | Place::Held(_) | Place::Settled)
    }

    pub(crate) fn apply(&mut self, record: Record) {
        let (object, place) = match record {
            Record::Pushed(object) => (object, Place::Ready),
            Record::PushedOver(t) => {
                // What is left of the transfer is to answer RELEASE.
                self.taken.insert(t);
                (t.object, Place::Ready)
            }
            Record::Held(t) => (t.object, Place::Held(t)),
            Record::Ready(t) => {
                self.taken.insert(t);
                (t.object, Place::Ready)
            }
            Record::Aborted(t) => (t.object, Place::Absent),
            Record::Moved(t) => {
                self.moved.insert(t);
                (t.object, Place::Moved)
            }
            Record::Taken(t) => return self.moved.remove(t),
            Record::Settled(token) => {
                self.settled.insert(token);
                (token.object, Place::Settled)
            }
        };
        self.places[usize::from(object)] = place;
    }
}

/// A lane in its store: what is durable, and what was written and is not synced yet.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Store {
    pub(crate) epoch: u8,
    pub(crate) durable: Image,
    pub(crate) tail: Vec<Record>,
}

impl Store {
    /// What a reader finds, synced or not.
    pub(crate) fn read(&self) -> Image {
        let mut image = self.durable;
        self.tail.iter().for_each(|record| image.apply(*record));
        image
    }

    pub(crate) fn sync(&mut self) {
        self.durable = self.read();
        self.tail.clear();
    }
}

/// What a core is doing with an object, beyond what its records say.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Phase {
    Rest,
    Offered(Transfer),
    Leased(Token),
    /// The commit that is under way decides about it.
    Writing,
}

/// One running owner of a lane, or one that believes to be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Core {
    pub(crate) epoch: u8,
    /// What its records say that it knows to be durable, and what it found at its start.
    pub(crate) image: Image,
    phases: [Phase; OBJECTS_MAX],
    /// The commit under way, and whether it has reached the store.
    pub(crate) commit: Option<(Record, bool)>,
    pub(crate) offers: u8,
    /// Whether it has leased each object.
    pub(crate) leased: [bool; OBJECTS_MAX],
}

impl Core {
    pub(crate) fn new(epoch: u8, image: Image) -> Self {
        let phases = [Phase::Rest; OBJECTS_MAX];
        Self { epoch, image, phases, commit: None, offers: 0, leased: [false; OBJECTS_MAX] }
    }

    pub(crate) fn phase(&self, object: u8) -> Phase {
        self.phases[usize::from(object)]
    }

    pub(crate) fn set_phase(&mut self, object: u8, phase: Phase) {
        self.phases[usize::from(object)] = phase;
    }

    /// Whether the object itself is being written.
    pub(crate) fn is_fresh(&self, object: u8) -> bool {
        matches!(self.commit, Some((Record::Pushed(o), _)) if o == object)
    }

    /// Whether the object waits here for somebody to take it.
    pub(crate) fn is_ready(&self, object: u8) -> bool {
        self.phase(object) == Phase::Rest && self.image.place(object) == Place::Ready
    }

    /// The transfer by which it holds an object in doubt.
    pub(crate) fn holds(&self, object: u8) -> Option<Transfer> {
        match self.image.place(object) {
            Place::Held(t) if self.phase(object) == Phase::Rest => Some(t),
            _ => None,
        }
    }

    pub(crate) fn is_settling(&self, token: Token) -> bool {
        matches!(self.commit, Some((Record::Settled(t), _)) if t == token)
    }

    /// Whether a settle under this token may still commit, as far as this core can know.
    pub(crate) fn may_settle(&self, token: Token) -> bool {
        self.phase(token.object) == Phase::Leased(token) || self.is_settling(token)
    }

    /// Whether this core would deliver the object, or has: READY or LEASED in the words of P7.
    pub(crate) fn has(&self, object: u8) -> bool {
        let settling = matches!(self.commit, Some((Record::Settled(t), _)) if t.object == object);
        settling || self.is_ready(object) || matches!(self.phase(object), Phase::Leased(_))
    }

    pub(crate) fn begin(&mut self, record: Record) {
        assert!(self.commit.is_none(), "one commit at a time");
        self.commit = Some((record, false));
        match record {
            Record::Taken(_) => {}
            Record::Pushed(object) => self.set_phase(object, Phase::Writing),
            Record::PushedOver(t)
            | Record::Held(t)
            | Record::Ready(t)
            | Record::Aborted(t)
            | Record::Moved(t) => self.set_phase(t.object, Phase::Writing),
            Record::Settled(token) => self.set_phase(token.object, Phase::Writing),
        }
    }
}

/// What the lanes say to each other. WAIT says nothing and is therefore silence here; a decline is
/// an offer without an answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Message {
    Offer(Transfer),
    Accept(Transfer),
    Release(Transfer),
    Abort(Transfer),
    Taken(Transfer),
    Status(Transfer),
}

impl Message {
    /// The lane that hears it.
    pub(crate) fn to(self) -> usize {
        match self {
            Self::Offer(_) | Self::Release(_) | Self::Abort(_) => RECEIVER,
            Self::Accept(_) | Self::Taken(_) | Self::Status(_) => SENDER,
        }
    }
}

/// A copy of a lane's store that was put away.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Backup {
    pub(crate) lane: usize,
    pub(crate) image: Image,
    /// Whether the other lane has heard from this one since the lane went beyond the copy: it
    /// knows a later number.
    pub(crate) outdated: bool,
}

/// Everything at one moment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct State {
    pub(crate) stores: [Store; 2],
    /// The owner of each lane. A dead one is replaced at once: while a lane is down nothing
    /// happens to it that could not happen before its death or after its return.
    pub(crate) owners: [Core; 2],
    /// The owner before, which has not noticed.
    pub(crate) zombies: [Option<Core>; 2],
    /// All that was ever said. Hearing removes nothing: a message may be late, lost, out of order
    /// and said twice, and any core of the lane may be the one who hears it.
    pub(crate) said: Set<Message>,
    /// Whether LEASE_LOST was said of a settle that was done or might still be done.
    pub(crate) lied: bool,
    /// Whether the push of each object was answered OK.
    pub(crate) ok: [bool; OBJECTS_MAX],
    /// A client without an answer has pushed where its object was held. From then on there may be two objects.
    pub(crate) again: bool,
    pub(crate) power_cuts: u8,
    /// A claimant that has read and has not fenced (only without R3).
    pub(crate) early: Option<(usize, Image)>,
    pub(crate) backup: Option<Backup>,
    /// The lane that came back from its copy, and whether the handshake was refused for it.
    pub(crate) rolled_back: Option<(usize, bool)>,
}

/// One of the cores.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Who {
    pub(crate) lane: usize,
    pub(crate) zombie: bool,
}

impl State {
    pub(crate) fn core_mut(&mut self, who: Who) -> &mut Core {
        if who.zombie {
            self.zombies[who.lane].as_mut().expect("only cores that live act")
        } else {
            &mut self.owners[who.lane]
        }
    }

    pub(crate) fn everyone(&self) -> impl Iterator<Item = (Who, &Core)> {
        [SENDER, RECEIVER].into_iter().flat_map(|lane| {
            let owner = Some((Who { lane, zombie: false }, &self.owners[lane]));
            let zombie = self.zombies[lane].as_ref().map(|core| (Who { lane, zombie: true }, core));
            owner.into_iter().chain(zombie)
        })
    }

    /// Whether the commits of a core still succeed.
    pub(crate) fn is_current(&self, who: Who, core: &Core) -> bool {
        core.epoch == self.stores[who.lane].epoch
    }
}

impl Numbered for Transfer {
    fn number(self) -> u32 {
        let (epoch, n, object) = (u32::from(self.epoch), u32::from(self.n), u32::from(self.object));
        assert!((1..=4).contains(&epoch) && (1..=2).contains(&n), "the bounds are kept");
        (epoch - 1) * 4 + (n - 1) * 2 + object
    }

    fn of_number(number: u32) -> Self {
        let part = |shift: u32, mask: u32| (number >> shift & mask) as u8;
        Self { epoch: 1 + part(2, 3), n: 1 + part(1, 1), object: part(0, 1) }
    }
}

impl Numbered for Token {
    fn number(self) -> u32 {
        (self.lane as u32) << 3 | u32::from(self.epoch - 1) << 1 | u32::from(self.object)
    }

    fn of_number(number: u32) -> Self {
        let (epoch, object) = (1 + (number >> 1 & 3) as u8, (number & 1) as u8);
        Self { lane: (number >> 3) as usize, epoch, object }
    }
}

impl Numbered for Message {
    fn number(self) -> u32 {
        let (kind, t) = match self {
            Self::Offer(t) => (0, t),
            Self::Accept(t) => (1, t),
            Self::Release(t) => (2, t),
            Self::Abort(t) => (3, t),
            Self::Taken(t) => (4, t),
            Self::Status(t) => (5, t),
        };
        kind * 16 + t.number()
    }

    fn of_number(number: u32) -> Self {
        let t = Transfer::of_number(number % 16);
        let kinds =
            [Self::Offer, Self::Accept, Self::Release, Self::Abort, Self::Taken, Self::Status];
        kinds[(number / 16) as usize](t)
    }
}

fn of_object(f: &mut fmt::Formatter<'_>, object: u8) -> fmt::Result {
    if object > 0 { write!(f, " of object {}", object + 1) } else { Ok(()) }
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}.{}", self.epoch, self.n)?;
        of_object(f, self.object)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", NAMES[self.lane], self.epoch)?;
        of_object(f, self.object)
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pushed(object) => write!(f, "object {}", object + 1),
            Self::PushedOver(t) => write!(f, "the object, {t:?} kept out"),
            Self::Held(t) => write!(f, "HELD {t:?}"),
            Self::Ready(t) => write!(f, "READY {t:?}"),
            Self::Aborted(t) => write!(f, "ABORTED {t:?}"),
            Self::Moved(t) => write!(f, "MOVED {t:?}"),
            Self::Taken(t) => write!(f, "TAKEN {t:?}"),
            Self::Settled(token) => write!(f, "SETTLED {token:?}"),
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offer(t) => write!(f, "OFFER {t:?}"),
            Self::Accept(t) => write!(f, "ACCEPT {t:?}"),
            Self::Release(t) => write!(f, "RELEASE {t:?}"),
            Self::Abort(t) => write!(f, "ABORT {t:?}"),
            Self::Taken(t) => write!(f, "TAKEN {t:?}"),
            Self::Status(t) => write!(f, "STATUS {t:?}"),
        }
    }
}

impl fmt::Debug for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let old = if self.zombie { "the old " } else { "" };
        write!(f, "{old}{}", NAMES[self.lane])
    }
}

//! Types and their queues. A queue holds the ready objects of one type that the same processors
//! have handled, in the order of arrival: its front in memory, the rest in the catalogue.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::catalogue::{QueueId, TypeId};
use crate::effect::Books;
use crate::ids::{Loc, RecordNumber};
use crate::memory::{Phase, Slot};
use crate::message::DemandKey;
use crate::names::{Name, Pattern, TypeName};
use crate::recording::{Index, SlicedVec, Slices, index};
use crate::subscriptions::GroupId;

/// One type that this lane has seen.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Type {
    pub(crate) name: TypeName,
    /// Where demands for it begin in any order of them: one key for each pattern that it matches.
    #[serde(skip)]
    pub(crate) demands: Vec<DemandKey>,
    /// Its queues by the processors that have handled their objects.
    pub(crate) queues: BTreeMap<Vec<Name>, QueueId>,
    /// That of objects that nobody has handled: nearly all are in it.
    #[serde(skip)]
    unhandled: Option<QueueId>,
    pub(crate) books: Books,
    pub(crate) leased: u64,
    pub(crate) delayed: u64,
    pub(crate) parked: u64,
    pub(crate) offered: u64,
    pub(crate) held: u64,
    pub(crate) writing: u64,
    /// Whether the alarm that nobody wants it is raised.
    pub(crate) no_demand: bool,
}

/// The ready objects of one type and one set of handled names.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Queue {
    pub(crate) ty: TypeId,
    /// Processors that have handled its objects, sorted.
    pub(crate) handled: Vec<Name>,
    /// The front, in memory.
    pub(crate) window: Front,
    /// How many objects are in the rest, which the catalogue knows.
    pub(crate) paged_count: u64,
    /// Local groups that may take its objects.
    pub(crate) groups: Vec<GroupId>,
    /// Pages being read for it, in the order in which they were asked for.
    pub(crate) reading: VecDeque<Reading>,
    /// Something waits in it that nobody in reach wants.
    pub(crate) no_demand: bool,
    /// All of its groups know that something waits in it.
    pub(crate) is_told: bool,
}

/// Objects in the order of arrival. Nearly all come behind the others and leave before them; one
/// that comes back or is taken out of turn moves the others of a window, which is small.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Front(VecDeque<(Loc, Slot)>);

/// A page that is being read.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Reading {
    pub(crate) record: RecordNumber,
    /// It came before its turn, and is read again then.
    pub(crate) early: bool,
}

/// All types and queues.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Queues {
    #[serde(skip)]
    types: SlicedVec<Type>,
    /// In order, for patterns.
    #[serde(skip)]
    by_name: BTreeMap<TypeName, TypeId>,
    /// The same for one name.
    #[serde(skip)]
    ids: Index<TypeName, TypeId>,
    #[serde(skip)]
    queues: SlicedVec<Queue>,
}

impl Front {
    /// Adds an object at its place, which nobody has.
    pub(crate) fn insert(&mut self, place: Loc, slot: Slot) {
        match self.0.back() {
            Some((last, _)) if *last >= place => {
                let at = self.position(place).expect_err("a place is one object's");
                self.0.insert(at, (place, slot));
            }
            _ => self.0.push_back((place, slot)),
        }
    }

    /// Takes the object of a place out.
    pub(crate) fn remove(&mut self, place: Loc) -> Option<Slot> {
        if self.0.front().is_some_and(|(first, _)| *first == place) {
            return self.0.pop_front().map(|(_, slot)| slot);
        }
        let at = self.position(place).ok()?;
        self.0.remove(at).map(|(_, slot)| slot)
    }

    pub(crate) fn get(&self, place: Loc) -> Option<Slot> {
        self.position(place).ok().map(|at| self.0[at].1)
    }

    /// The object that came first.
    pub(crate) fn first(&self) -> Option<Slot> {
        self.0.front().map(|(_, slot)| *slot)
    }

    /// All of them, in order.
    pub(crate) fn slots(&self) -> impl DoubleEndedIterator<Item = Slot> + '_ {
        self.0.iter().map(|(_, slot)| *slot)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn position(&self, place: Loc) -> Result<usize, usize> {
        self.0.binary_search_by_key(&place, |(at, _)| *at)
    }
}

impl Type {
    /// The count of its objects in a phase. Those that are ready are counted by their queues.
    pub(crate) fn count(&mut self, phase: &Phase) -> Option<&mut u64> {
        match phase {
            Phase::Writing | Phase::Moving(_) => Some(&mut self.writing),
            Phase::Delayed(_) => Some(&mut self.delayed),
            Phase::Leased(_) => Some(&mut self.leased),
            Phase::Offered(_) => Some(&mut self.offered),
            Phase::Held(_) => Some(&mut self.held),
            Phase::Ready => None,
        }
    }
}

impl Queue {
    pub(crate) fn len(&self) -> u64 {
        self.window.len() as u64 + self.paged_count
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.window.is_empty() && self.paged_count == 0
    }
}

impl Queues {
    pub(crate) fn new(seed: u64) -> Self {
        Self { ids: index(seed), ..Self::default() }
    }

    /// What goes into a snapshot in slices.
    pub(crate) fn slices(&mut self) -> [&mut dyn Slices; 2] {
        [&mut self.types, &mut self.queues]
    }

    /// What follows from the slices: the names. The catalogue knows the pages.
    pub(crate) fn derive(&mut self) {
        let ids = (0..).map(TypeId);
        let names = self.types.iter().map(|t| t.name.clone()).zip(ids);
        self.by_name = names.clone().collect();
        self.ids = names.collect();
        for n in 0..self.types.len() {
            let ty = &mut self.types[n];
            ty.demands = demands_for(&ty.name);
            ty.unhandled = ty.queues.get(&[][..]).copied();
        }
    }

    pub(crate) fn type_id(&self, name: &TypeName) -> Option<TypeId> {
        self.ids.get(name).copied()
    }

    /// The type's number; a new type gets one.
    pub(crate) fn intern(&mut self, name: &TypeName) -> TypeId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = TypeId(u32::try_from(self.types.len()).expect("types are bounded"));
        self.types.push(Type {
            name: name.clone(),
            demands: demands_for(name),
            queues: BTreeMap::new(),
            unhandled: None,
            books: Books::default(),
            leased: 0,
            delayed: 0,
            parked: 0,
            offered: 0,
            held: 0,
            writing: 0,
            no_demand: false,
        });
        self.by_name.insert(name.clone(), id);
        self.ids.insert(name.clone(), id);
        id
    }

    pub(crate) fn types_len(&self) -> usize {
        self.types.len()
    }

    pub(crate) fn ty(&self, id: TypeId) -> &Type {
        &self.types[id.0 as usize]
    }

    pub(crate) fn ty_mut(&mut self, id: TypeId) -> &mut Type {
        &mut self.types[id.0 as usize]
    }

    pub(crate) fn types(&self) -> impl Iterator<Item = (TypeId, &Type)> {
        self.by_name.values().map(|id| (*id, self.ty(*id)))
    }

    /// Types that a pattern matches.
    pub(crate) fn matching<'a>(
        &'a self,
        pattern: &'a Pattern,
    ) -> Box<dyn Iterator<Item = TypeId> + 'a> {
        if pattern.is_exact() {
            return Box::new(self.by_name.get(pattern.as_str()).copied().into_iter());
        }
        let prefix = pattern.as_str().trim_end_matches('*');
        Box::new(
            self.by_name
                .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
                .take_while(move |(name, _)| name.as_str().starts_with(prefix))
                .map(|(_, id)| *id),
        )
    }

    /// The queue of a type and a set of handled names, if it exists.
    pub(crate) fn find(&self, ty: TypeId, handled: &[Name]) -> Option<QueueId> {
        let ty = self.ty(ty);
        if handled.is_empty() { ty.unhandled } else { ty.queues.get(handled).copied() }
    }

    /// Makes the queue of a type and a set of handled names, which must not exist.
    pub(crate) fn create(&mut self, ty: TypeId, handled: &[Name], groups: Vec<GroupId>) -> QueueId {
        let id = QueueId(u32::try_from(self.queues.len()).expect("queues are bounded"));
        self.queues.push(Queue {
            ty,
            handled: handled.to_vec(),
            window: Front::default(),
            paged_count: 0,
            groups,
            reading: VecDeque::new(),
            no_demand: false,
            is_told: false,
        });
        let ty = self.ty_mut(ty);
        let before = ty.queues.insert(handled.to_vec(), id);
        assert!(before.is_none(), "a queue is made once");
        if handled.is_empty() {
            ty.unhandled = Some(id);
        }
        id
    }

    pub(crate) fn len(&self) -> usize {
        self.queues.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Queue> {
        self.queues.iter()
    }

    /// Queues with something in them.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = QueueId> + '_ {
        let ids = (0..).map(QueueId).zip(self.queues.iter());
        ids.filter(|(_, q)| !q.is_empty()).map(|(id, _)| id)
    }

    pub(crate) fn get(&self, id: QueueId) -> &Queue {
        &self.queues[id.0 as usize]
    }

    pub(crate) fn get_mut(&mut self, id: QueueId) -> &mut Queue {
        &mut self.queues[id.0 as usize]
    }

    /// Ready objects of a type, over all its queues.
    pub(crate) fn ready(&self, ty: TypeId) -> u64 {
        self.ty(ty).queues.values().map(|q| self.get(*q).len()).sum()
    }
}

/// The least key of demand for each pattern that a type matches.
fn demands_for(ty: &TypeName) -> Vec<DemandKey> {
    let patterns = Pattern::all_of(ty).into_iter();
    patterns.map(|pattern| DemandKey::new(pattern, Name::least())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_stands_where_it_stood() {
        let place = |n: u32| Loc { record: RecordNumber(1), position: n };
        let mut front = Front::default();
        for n in [2, 4, 6, 8, 1, 5] {
            front.insert(place(n), Slot(n));
        }
        let slots = |front: &Front| front.slots().map(|slot| slot.0).collect::<Vec<_>>();
        assert_eq!(slots(&front), [1, 2, 4, 5, 6, 8]);
        assert_eq!(front.remove(place(1)), Some(Slot(1)));
        assert_eq!(front.remove(place(5)), Some(Slot(5)));
        assert_eq!(front.remove(place(5)), None);
        front.insert(place(9), Slot(9));
        assert_eq!((slots(&front), front.first()), (vec![2, 4, 6, 8, 9], Some(Slot(2))));
        assert_eq!((front.get(place(8)), front.get(place(7))), (Some(Slot(8)), None));
    }
}

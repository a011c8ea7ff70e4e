//! Looks for an object in the histories of lanes in the tables: for what ended with nodes that are
//! gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dpc_core::ids::{LaneId, ObjectId, RecordNumber};
use dpc_core::store::{Done, StoreError};
use dpc_core::{Span, Wall};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::oneshot;

use super::super::decided;
use super::super::ended;
use super::super::index::{self, Kind, Known};
use super::super::pack::BadRow;
use super::super::rows::{Finished, TraceLine};
use super::sending::oldest;
use super::{Ask, HistoryTables, PartRow, Row, RowKind, segment};

/// What the tables tell of an object in one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Story {
    pub(crate) lane: LaneId,
    /// The node that had the lane.
    pub(crate) node: Arc<str>,
    /// How it ended there, if that is known.
    pub(crate) end: Option<Finished>,
    /// Decisions, in order: the first and the last of many.
    pub(crate) lines: Vec<TraceLine>,
    /// How many decisions are known of that are not among the lines.
    pub(crate) dropped: u64,
    /// Whether the tables tell of everything from when the object can have come to the lane to its end.
    pub(crate) whole: bool,
}

/// Which lanes are looked at.
#[derive(Clone, Debug)]
pub(crate) enum Lanes {
    Only(LaneId),
    Except(BTreeSet<LaneId>),
}

/// Records of a lane of which the parts in the tables tell everything, one part behind the other.
struct Run {
    lane: LaneId,
    first: RecordNumber,
    next: RecordNumber,
    since: Wall,
}

impl Run {
    /// Whether an object that has ended there came while the run had begun.
    fn tells(&self, end: &Finished) -> bool {
        let from_the_start = self.first <= RecordNumber(1) || self.since <= end.pushed_at;
        self.lane == end.lane
            && end.loc.record < self.next
            && end.loc.record >= self.first
            && from_the_start
    }
}

/// What parts, sorted by lane and end, tell without a gap.
fn runs(parts: &[PartRow]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for part in parts.iter().filter(|part| part.whole) {
        match runs.last_mut() {
            Some(run) if run.lane == part.lane && part.first <= run.next => run.next = part.next,
            _ => runs.push(Run {
                lane: part.lane,
                first: part.first,
                next: part.next,
                since: part.first_wall,
            }),
        }
    }
    runs
}

/// What the rows of one part hold that were read, by kind and first block.
type Rows = BTreeMap<(RowKind, u64), Vec<Vec<u8>>>;

/// The histories of all lanes in a store.
#[derive(Clone)]
pub(crate) struct Finding {
    pub(crate) tables: Arc<dyn HistoryTables>,
    /// How long histories are kept.
    pub(crate) time: Span,
}

impl Finding {
    /// The stories of an object, the lane in which it was last first.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the tables do not answer, or hold something else than what was written; then
    /// nothing is said of what could be read.
    pub(crate) async fn stories(
        &self,
        id: ObjectId,
        lanes: &Lanes,
        now: Wall,
    ) -> Result<Vec<Story>, StoreError> {
        let mut parts = self.parts(now).await?;
        parts.retain(|part| lanes.include(part.lane));
        parts.sort_by_key(|part| (part.lane, part.next));
        let runs = runs(&parts);
        let known = stream::iter(parts)
            .map(|part| async move { Ok((self.known(&part, id).await?, part)) })
            .buffered(ASKED_AT_ONCE)
            .try_filter(|(known, _)| std::future::ready(!known.refs.is_empty()));
        let known: Vec<(Known, PartRow)> = known.try_collect().await?;
        let mut stories = BTreeMap::new();
        for (known, part) in known {
            let story = stories.entry(part.lane).or_insert_with(|| Story {
                lane: part.lane,
                node: Arc::clone(&part.node),
                end: None,
                lines: Vec::new(),
                dropped: 0,
                whole: false,
            });
            self.tell(story, &part, &known).await?;
        }
        let mut stories: Vec<Story> = stories.into_values().collect();
        for story in &mut stories {
            story.lines.sort_by_key(|line| (line.moves, line.loc));
            // Two parts may tell of the same record.
            story.lines.dedup_by_key(|line| line.loc);
            story.whole = story.dropped == 0
                && story.end.as_ref().is_some_and(|end| runs.iter().any(|run| run.tells(end)));
        }
        stories.sort_by_key(|story| std::cmp::Reverse(story.end.as_ref().map(|end| end.at)));
        Ok(stories)
    }

    /// The record after the last one of a lane that the tables tell of.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the tables do not answer.
    pub(crate) async fn told_until(
        &self,
        lane: LaneId,
        now: Wall,
    ) -> Result<Option<RecordNumber>, StoreError> {
        let parts = self.parts(now).await?;
        Ok(parts.iter().filter(|part| part.lane == lane).map(|part| part.next).max())
    }

    async fn parts(&self, now: Wall) -> Result<Vec<PartRow>, StoreError> {
        self.ask(|done| Ask::Parts(oldest(now, self.time), done)).await
    }

    /// What a part knows of an object.
    async fn known(&self, part: &PartRow, id: ObjectId) -> Result<Known, StoreError> {
        let Some(row) = self.row(part, RowKind::Page, id.0.to_vec()).await? else {
            return Ok(Known::default());
        };
        let bad = |bad| damaged(part.lane, RowKind::Page, bad);
        for page in segment::bodies(&row).map_err(bad)? {
            let known = index::find(&page, id).map_err(bad)?;
            if !known.refs.is_empty() {
                return Ok(known);
            }
        }
        Ok(Known::default())
    }

    /// Adds what a part knows to the story.
    async fn tell(
        &self,
        story: &mut Story,
        part: &PartRow,
        known: &Known,
    ) -> Result<(), StoreError> {
        story.dropped += known.dropped;
        let mut rows = Rows::new();
        for r in &known.refs {
            let kind = match r.kind {
                Kind::Decided => RowKind::Decided,
                Kind::Ended => RowKind::Ended,
            };
            let Some(body) = self.block(part, kind, r.block, &mut rows).await? else {
                // The part has been let go meanwhile.
                story.dropped += 1;
                continue;
            };
            let bad = |bad| damaged(part.lane, kind, bad);
            match r.kind {
                Kind::Ended => {
                    let found = ended::read(body).map_err(bad)?;
                    let found = found.into_iter().nth(r.item as usize);
                    let end = found.filter(|object| object.id == r.id);
                    story.end = Some(end.ok_or_else(|| bad(BadRow("an item is missing")))?);
                }
                Kind::Decided => {
                    let found = decided::read(body).map_err(bad)?.into_iter().nth(r.item as usize);
                    let found = found.ok_or_else(|| bad(BadRow("an item is missing")))?;
                    story.lines.push(found.line(r.moves));
                }
            }
        }
        Ok(())
    }

    /// A block of a part, which is kept in `rows` for the next one.
    async fn block<'a>(
        &self,
        part: &PartRow,
        kind: RowKind,
        block: u64,
        rows: &'a mut Rows,
    ) -> Result<Option<&'a [u8]>, StoreError> {
        let holds = |first: u64, bodies: &[Vec<u8>]| block - first < bodies.len() as u64;
        let before = rows.range(..=(kind, block)).next_back();
        let there = before.filter(|((k, first), bodies)| *k == kind && holds(*first, bodies));
        let first = match there {
            Some(((_, first), _)) => *first,
            None => {
                let key = block.to_be_bytes().to_vec();
                let Some(row) = self.row(part, kind, key).await? else { return Ok(None) };
                let first = row.key.as_slice().try_into().map(u64::from_be_bytes);
                let bad = |bad| damaged(part.lane, kind, bad);
                let first = first.map_err(|_| bad(BadRow("a block's number")))?;
                let bodies = segment::bodies(&row).map_err(bad)?;
                if !holds(first, &bodies) {
                    return Ok(None);
                }
                rows.insert((kind, first), bodies);
                first
            }
        };
        Ok(Some(&rows[&(kind, first)][(block - first) as usize]))
    }

    async fn row(
        &self,
        part: &PartRow,
        kind: RowKind,
        key: Vec<u8>,
    ) -> Result<Option<Row>, StoreError> {
        let (lane, part) = (part.lane, part.part);
        let found = self.ask(|done| Ask::Find(lane, part, kind, key, done)).await?;
        Ok(found.map(|(key, body)| Row { lane, part, kind, key, body }))
    }

    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(Done<Result<T, StoreError>>) -> Ask,
    ) -> Result<T, StoreError> {
        let (done, answer) = oneshot::channel();
        // Whoever asked may have gone.
        self.tables.ask(ask(Box::new(move |answered| drop(done.send(answered)))));
        match tokio::time::timeout(ANSWER_MAX, answer).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(_)) => Err(StoreError::Io("the database's thread has ended".into())),
            Err(_) => Err(StoreError::Io(format!("no answer for {ANSWER_MAX:?}"))),
        }
    }
}

impl Lanes {
    fn include(&self, lane: LaneId) -> bool {
        match self {
            Self::Only(only) => *only == lane,
            Self::Except(except) => !except.contains(&lane),
        }
    }
}

/// Damage in a lane's rows.
fn damaged(lane: LaneId, kind: RowKind, bad: BadRow) -> StoreError {
    let place = format!("table history_row, lane {lane}, {}", kind.as_str());
    StoreError::Damaged { place, what: bad.0.into() }
}

/// Parts that are asked for an id at a time.
const ASKED_AT_ONCE: usize = 16;
/// How long one answer of the tables is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(10);

//! `dpc serve --restored`: a restored backup or a copied folder gets a new lane, so that it cannot
//! be taken for the one it was copied from.
//!
//! The new lane is written beside the old folder, then the two change places by two renames. The
//! old folder stays as `NAME.before-LANE`, to be deleted by a person.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use dpc_core::ids::{Incarnation, LaneId, RecordNumber};
use dpc_core::message::Protocols;
use dpc_core::names::Name;
use dpc_core::record::{Entry, entries};
use dpc_core::store::{Appended, StoreError};
use dpc_core::{Core, Effect, Effects, Input, Limits, Now, Settings};

use crate::files::sync_folder;
use crate::node::{append, claim, read, recover};
use crate::store::{Embedded, Options};

/// Bytes read from the old log at once.
const STEP_BYTES: usize = 4 << 20;

/// Refuses to start where an earlier `--restored` was cut off between its two renames.
pub(crate) fn check(data_dir: &Path) -> Result<(), StoreError> {
    if data_dir.exists() || !beside(data_dir, "restored").exists() {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "an earlier start with --restored of {} did not finish; start with --restored again",
        data_dir.display()
    )))
}

/// Gives the folder's objects a new lane. Says how many came over, and where the old folder is.
///
/// # Errors
///
/// What the old or the new store refuses. The old folder is unchanged then.
pub(crate) async fn renew(
    data_dir: &Path,
    name: Name,
    limits: Limits,
    now: impl Fn() -> Now,
) -> Result<(u64, PathBuf), StoreError> {
    let fresh = beside(data_dir, "restored");
    if !data_dir.exists() && fresh.exists() {
        rename(&fresh, data_dir)?;
        tracing::info!("an earlier start with --restored is finished now");
        return Ok((0, data_dir.to_path_buf()));
    }
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh).map_err(|e| io("cannot remove", &fresh, &e))?;
    }
    let Brought { objects, from, lane } = bring_over(data_dir, &fresh, name, limits, now).await?;
    let before = beside(data_dir, &format!("before-{}", from.short()));
    rename(data_dir, &before)?;
    rename(&fresh, data_dir)?;
    report(objects, from, lane, &before);
    Ok((objects, before))
}

/// What came over into a new lane.
pub(crate) struct Brought {
    pub(crate) objects: u64,
    pub(crate) from: LaneId,
    pub(crate) lane: LaneId,
}

/// Makes a new lane in the folder `fresh` of what is alive in another one, flagged as possible
/// duplicates.
///
/// # Errors
///
/// What the old or the new store refuses.
pub(crate) async fn bring_over(
    old: &Path,
    fresh: &Path,
    name: Name,
    limits: Limits,
    now: impl Fn() -> Now,
) -> Result<Brought, StoreError> {
    let (mut old, old_lane) = Embedded::open(old, &Options::default())?;
    let (mut new, lane) = Embedded::open(fresh, &Options::default())?;
    let settings = |lane| Settings {
        name: name.clone(),
        lane,
        incarnation: Incarnation(1),
        seed: 1,
        limits: limits.clone(),
        protocols: Protocols::default(),
        fence: None,
        heir: None,
    };
    let claimed = claim(&mut old).await?;
    let source = recover(settings(old_lane), claimed, &mut old, Vec::new()).await?;
    let core = Core::new(settings(lane), claim(&mut new).await?);
    let mut target = Target { core, store: new };
    let objects = target.take_over(&source, &mut old, now).await?;
    Ok(Brought { objects, from: old_lane, lane })
}

fn report(moved: u64, old: LaneId, new: LaneId, before: &Path) {
    tracing::warn!(
        objects = moved,
        old_lane = %old,
        lane = %new,
        kept = %before.display(),
        "restored into a new lane; its objects may exist elsewhere, too, and are flagged so"
    );
}

/// The new lane while it is filled.
struct Target {
    core: Core,
    store: Embedded,
}

impl Target {
    async fn take_over(
        &mut self,
        source: &Core,
        old: &mut Embedded,
        now: impl Fn() -> Now,
    ) -> Result<u64, StoreError> {
        let mut fx = Effects::new();
        self.core.start(now(), &mut fx);
        self.commit(&now, &mut fx).await?;
        let mut moved = 0;
        for (record, positions) in source.survivors() {
            let positions: BTreeSet<u32> = positions.into_iter().collect();
            for (at, entry) in self.entries(old, record).await? {
                if let Entry::Object { standing, object, .. } = entry
                    && positions.contains(&at.position)
                {
                    let standing = source.survivor_standing(standing);
                    self.core.bring_back(now(), &standing, *object, &mut fx);
                    moved += 1;
                }
            }
            self.commit(&now, &mut fx).await?;
        }
        Ok(moved)
    }

    async fn entries(
        &self,
        old: &mut Embedded,
        record: RecordNumber,
    ) -> Result<Vec<(dpc_core::ids::Loc, Entry)>, StoreError> {
        let damaged =
            |what: String| StoreError::Damaged { place: format!("record {record}"), what };
        let found = read(old, record, STEP_BYTES).await?;
        let (_, bytes) = found
            .into_iter()
            .find(|(number, _)| *number == record)
            .ok_or_else(|| damaged("it is missing".into()))?;
        entries(&bytes).map(|(_, entries)| entries).map_err(|bad| damaged(bad.to_string()))
    }

    /// Makes everything that has been taken over durable.
    async fn commit(&mut self, now: &impl Fn() -> Now, fx: &mut Effects) -> Result<(), StoreError> {
        loop {
            if let Some(why) = fx.drain(..).find_map(|effect| match effect {
                Effect::Stop(why) => Some(why),
                _ => None,
            }) {
                return Err(StoreError::Refused(why));
            }
            let Some(record) = self.core.take_record(now()) else { return Ok(()) };
            let epoch = self.core.epoch();
            match append(&mut self.store, epoch, record.number, record.bytes).await {
                Appended::Committed => {}
                Appended::DefinitelyNot(error) | Appended::Unknown(error) => return Err(error),
            }
            self.core.handle(now(), Input::Committed(record.number), fx);
        }
    }
}

fn beside(data_dir: &Path, what: &str) -> PathBuf {
    let mut name = data_dir.file_name().unwrap_or(data_dir.as_os_str()).to_os_string();
    name.push(".");
    name.push(what);
    data_dir.with_file_name(name)
}

fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    std::fs::rename(from, to).map_err(|e| io("cannot rename", from, &e))?;
    let parent =
        to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    sync_folder(parent).map_err(|e| io("cannot sync the folder of", to, &e))
}

fn io(what: &str, path: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Io(format!("{what} {}: {error}", path.display()))
}

//! The history of a repository through the mesh: commits are pushed at the first node, expanded at
//! one in the middle, counted at the last, and the table is compared with git's own.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dpc_client::proto::v1;
use dpc_client::{Client, Delivery, Entity, Object, Subscription, Uuid, Window};
use prost::Name;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::history::GitError;
use super::history::expand::Expander;
use super::history::objects::{self, Commit, CountedCommit, FileChange, Next};
use super::history::repository::Repository;
use super::history::table::{FileNumbers, HistoryTable, Numbers};
use super::history::truth::table_of_git;
use super::say;
use crate::cli::client::of_client;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::cli::table::Table;
use crate::nodes::Mesh;

/// How many clients expand, and how many count.
const WORKERS: usize = 2;

/// Objects that a worker has at a time.
const CREDIT: u32 = 512;

/// Objects that a worker takes together.
const BATCH_COUNT: usize = 128;

/// Commits that are read ahead of the pushes.
const READ_AHEAD_COUNT: usize = 1_024;

/// Without any progress for so long, something is wrong.
const PATIENCE: Duration = Duration::from_secs(120);

/// How many authors and extensions are shown; all are compared.
const LINES_SHOWN: usize = 12;

/// How many differences are shown.
const DIFFERENCES_SHOWN: usize = 20;

/// The repository at `folder`.
pub(super) fn open(folder: &Path) -> Result<Repository, Failure> {
    Repository::open(folder).map_err(|error| of_git(&error).field("--repo"))
}

fn of_git(error: &GitError) -> Failure {
    Failure::local("GIT_FAILED", error.to_string())
}

fn wrong(message: impl Into<String>) -> Failure {
    Failure::local("DEMO_FAILED", message)
}

/// What the counters share.
#[derive(Default)]
struct Tally {
    state: Mutex<Counted>,
    changed: Notify,
}

/// The table in the making.
#[derive(Default)]
struct Counted {
    table: HistoryTable,
    /// Every object that was counted.
    seen: BTreeSet<Uuid>,
    commits: u64,
    files: u64,
    /// Files that the counted commits have.
    files_expected: u64,
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, Counted> {
        // Another counter that panicked has ended the demo already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an object once, however often it is delivered.
    ///
    /// This is the pattern for effects that must happen exactly once although deliveries happen at
    /// least once: the id of the object is kept together with what it did, in the same place and
    /// in the same step (here a table in memory under one lock, elsewhere one transaction of a
    /// database), and an id that is there already has done its work.
    fn count(&self, id: Uuid, delivery: &Delivery) -> Result<(), Failure> {
        let unreadable = |error| wrong(format!("object {id} cannot be read: {error}"));
        let mut counted = self.lock();
        if !counted.seen.insert(id) {
            return Ok(());
        }
        if delivery.object_type() == CountedCommit::full_name() {
            let commit: CountedCommit = delivery.decode().map_err(unreadable)?;
            counted.table.add_commit(commit.author());
            counted.commits += 1;
            counted.files_expected += commit.files;
        } else {
            let file: FileChange = delivery.decode().map_err(unreadable)?;
            let change = super::history::Change {
                path: file.path.clone(),
                added: file.added,
                deleted: file.deleted,
            };
            let (added, deleted) = (file.added, file.deleted);
            let numbers = FileNumbers { added, deleted, first: file.first_of_extension };
            counted.table.add_file(file.author(), change.extension(), numbers);
            counted.files += 1;
        }
        Ok(())
    }
}

/// Tells the story, with `git` as the judge.
pub(super) async fn tell(
    repository: Repository,
    mesh: &Mesh,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let began = Instant::now();
    let total = repository.count().map_err(|error| of_git(&error))?;
    let (first, middle, last) = (mesh.first(), &mesh.nodes()[mesh.nodes().len() / 2], mesh.last());
    let text = format!(
        "\n{total} commits are pushed at node {}, one object each.\n\
         {WORKERS} clients at node {} expand every commit into one object per changed file.\n\
         {WORKERS} clients at node {} count them, each object once, by its id.",
        first.name, middle.name, last.name
    );
    say(output, "chapter", &text)?;

    let tally = Arc::new(Tally::default());
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        workers.spawn(expand(repository.clone(), middle.client()?));
        workers.spawn(count(last.client()?, Arc::clone(&tally)));
    }
    let pushing = push(repository.clone(), first.client()?);
    tokio::select! {
        // A worker that fails ends the demo, whatever the others do.
        biased;
        Some(ended) = workers.join_next() => {
            let failure = ended.map_err(|error| wrong(format!("a worker panicked: {error}")))?;
            return Err(failure.err().unwrap_or_else(|| wrong("a worker ended early")));
        }
        done = work(pushing, total, &tally, output) => done?,
    }
    settle_down(mesh).await?;
    // What they hold is nothing: aborting them ends their subscriptions.
    workers.shutdown().await;

    let table = std::mem::take(&mut tally.lock().table);
    show(&table, output)?;
    let seconds = began.elapsed().as_secs_f64();
    say(output, "time", &format!("\nDone in {seconds:.1} s. The same from git alone:"))?;
    compare(repository, &table, output).await
}

/// Pushes every commit, and waits until every object is counted.
async fn work(
    pushing: impl Future<Output = Result<u64, Failure>>,
    total: u64,
    tally: &Tally,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut pushing = std::pin::pin!(pushing);
    let mut progress = Progress::new("commits counted", Some(total));
    let (mut pushed, mut shown) = (None, 0);
    loop {
        let changed = tally.changed.notified();
        let (commits, files, expected) = {
            let counted = tally.lock();
            (counted.commits, counted.files, counted.files_expected)
        };
        progress.advance(commits - shown, output);
        shown = commits;
        if pushed == Some(commits) && files == expected {
            progress.finish(output);
            let text = format!("  counted   {commits} commits and {files} changed files");
            return say(output, "counted", &text);
        }
        tokio::select! {
            biased;
            done = &mut pushing, if pushed.is_none() => {
                let count = done?;
                pushed = Some(count);
                say(output, "pushed", &format!("  pushed    {count} commits, all safe on disk"))?;
            }
            () = changed => {}
            () = tokio::time::sleep(PATIENCE) => {
                let message = format!(
                    "nothing moved for {PATIENCE:?}: {commits} of {total} commits and {files} of \
                     {expected} files are counted"
                );
                return Err(wrong(message));
            }
        }
    }
}

/// Pushes every commit of the history; says how many there were.
async fn push(repository: Repository, client: Client) -> Result<u64, Failure> {
    let (sender, mut commits) = mpsc::channel(READ_AHEAD_COUNT);
    let reading = tokio::task::spawn_blocking(move || -> Result<(), GitError> {
        for commit in repository.commits()? {
            // Nobody waits for the rest when the demo has ended.
            if sender.blocking_send(commit?).is_err() {
                break;
            }
        }
        Ok(())
    });
    let pusher = client.push_stream(Window::default());
    let mut count = 0;
    while let Some(commit) = commits.recv().await {
        let id = objects::commit_id(&commit.oid);
        let object = Object::message(&Commit::new(commit)).id(id);
        pusher.send(object).await.map_err(|error| of_client(&error))?;
        count += 1;
    }
    let read = reading.await.map_err(|error| wrong(format!("reading git panicked: {error}")))?;
    read.map_err(|error| of_git(&error))?;
    pusher.close().await.map_err(|error| of_client(&error))?;
    Ok(count)
}

async fn subscribe(
    client: Client,
    patterns: Vec<String>,
    processor: &str,
) -> Result<Subscription, Failure> {
    let subscription = client.subscribe(patterns).processor(processor).credit(CREDIT).await;
    subscription.map_err(|error| of_client(&error))
}

/// Expands commits, for as long as the demo runs.
async fn expand(repository: Repository, client: Client) -> Result<(), Failure> {
    let mut expander = Expander::new(&repository).map_err(|error| of_git(&error))?;
    let subscription = subscribe(client, vec![Commit::full_name()], "expander").await?;
    loop {
        let batch =
            subscription.next_batch(BATCH_COUNT).await.map_err(|error| of_client(&error))?;
        if batch.is_empty() {
            return Ok(());
        }
        let read = |delivery: &Delivery| delivery.decode::<Commit>();
        let commits: Result<Vec<_>, _> = batch.iter().map(read).collect();
        let commits =
            commits.map_err(|error| wrong(format!("a commit cannot be read: {error}")))?;
        // Git answers on a pipe: another thread waits for it, so that the leases stay extended.
        let expanded = tokio::task::spawn_blocking(move || {
            let expansions = commits.iter().map(|commit| {
                let changes = expander.expand(&commit.oid)?;
                Ok(objects::expansion(commit, &changes))
            });
            let expansions: Result<Vec<_>, GitError> = expansions.collect();
            (expander, expansions)
        });
        let (back, expansions) =
            expanded.await.map_err(|error| wrong(format!("expanding panicked: {error}")))?;
        expander = back;
        let mut settles = Vec::with_capacity(batch.len());
        for (delivery, expansion) in batch.iter().zip(expansions.map_err(|error| of_git(&error))?) {
            // The commit moves on and its files are emitted in one step: both or neither.
            let mut settle = delivery.advance(Some(match &expansion.next {
                Next::Again(commit) => Entity::message(commit),
                Next::Counted(commit) => Entity::message(commit),
            }));
            for (id, file) in &expansion.emits {
                settle = settle.emit(Object::message(file).id(*id));
            }
            settles.push(settle.into_future());
        }
        for settled in settles {
            lost_or(settled.await)?;
        }
    }
}

/// Counts, for as long as the demo runs.
async fn count(client: Client, tally: Arc<Tally>) -> Result<(), Failure> {
    let patterns = vec![CountedCommit::full_name(), FileChange::full_name()];
    let subscription = subscribe(client, patterns, "counter").await?;
    loop {
        let batch =
            subscription.next_batch(BATCH_COUNT).await.map_err(|error| of_client(&error))?;
        if batch.is_empty() {
            return Ok(());
        }
        for delivery in &batch {
            tally.count(delivery.id(), delivery)?;
        }
        if let Err(error) = subscription.finalise_all(batch).await {
            for (delivery, error) in error.refused {
                let _token = delivery.abandon();
                lost_or(Err(error))?;
            }
        }
        tally.changed.notify_one();
    }
}

/// A lease that was lost is no failure: the object comes again, and whoever gets it knows its id.
fn lost_or(settled: Result<(), dpc_client::Error>) -> Result<(), Failure> {
    match settled {
        Err(error) if !error.is_lease_lost() => Err(of_client(&error)),
        _ => Ok(()),
    }
}

/// Waits until no node has anything left: the last settles are under way when all is counted.
async fn settle_down(mesh: &Mesh) -> Result<(), Failure> {
    let began = Instant::now();
    for node in mesh.nodes() {
        let client = node.client()?;
        loop {
            let asked = client.ask(|mut node| async move {
                node.list_types(v1::ListTypesRequest::default()).await
            });
            let types = asked.await.map_err(|error| of_client(&error))?.types;
            let open =
                |t: &v1::TypeInfo| t.ready + t.leased + t.delayed + t.parked + t.offered + t.held;
            let left: u64 = types.iter().map(open).sum();
            if left == 0 {
                break;
            }
            if began.elapsed() > PATIENCE {
                let message = format!("{left} objects are left at node {}", node.name);
                return Err(wrong(message));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

fn show(table: &HistoryTable, output: &mut Output) -> Result<(), Failure> {
    for (heading, lines) in [("author", table.by_author()), ("extension", table.by_extension())] {
        let mut shown = Table::new(&[heading, "commits", "files", "added", "deleted"]);
        let rest = lines.len().saturating_sub(LINES_SHOWN);
        for (name, numbers) in lines.into_iter().take(LINES_SHOWN) {
            let Numbers { commits, files, added, deleted } = numbers;
            let numbers = [commits, files, added, deleted].map(|number| number.to_string());
            shown.row([name].into_iter().chain(numbers));
        }
        let mut text = format!("\n{}", shown.render(str::to_owned).trim_end());
        if rest > 0 {
            text.push_str(&format!("\n(and {rest} more)"));
        }
        say(output, heading, &text)?;
    }
    Ok(())
}

/// Says whether git agrees; any difference is a failure.
async fn compare(
    repository: Repository,
    table: &HistoryTable,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let git = tokio::task::spawn_blocking(move || table_of_git(&repository)).await;
    let git = git.map_err(|error| wrong(format!("reading git panicked: {error}")))?;
    let git = git.map_err(|error| of_git(&error))?;
    let differences = table.differences(&git);
    if differences.is_empty() {
        let Numbers { commits, files, added, deleted } = table.total();
        let text = format!(
            "agrees with git to the line: {commits} commits, {files} changed files, {added} lines \
             added, {deleted} deleted"
        );
        say(output, "agrees", &text)?;
        return Ok(Exit::Done);
    }
    differences.iter().take(DIFFERENCES_SHOWN).for_each(|line| output.note(line));
    let message = format!("the table differs from git's in {} lines", differences.len());
    Err(wrong(message))
}

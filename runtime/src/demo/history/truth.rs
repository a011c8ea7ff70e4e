//! The same table from `git log` alone, to compare with.

use std::collections::BTreeSet;

use super::repository::{COMMIT_MARK, Repository};
use super::table::{FileNumbers, HistoryTable};
use super::{Author, Change, GitError};

/// The table as `git log --numstat` has it.
pub(crate) fn table_of_git(repository: &Repository) -> Result<HistoryTable, GitError> {
    let mut log = repository.log(&["--numstat"])?;
    let mut table = HistoryTable::default();
    let (mut author, mut extensions) = (None::<Author>, BTreeSet::new());
    while let Some(token) = log.token()? {
        if token.first() == Some(&COMMIT_MARK) {
            let commit = log.commit(&token)?;
            table.add_commit(commit.author.clone());
            author = Some(commit.author);
            extensions.clear();
            continue;
        }
        // Git puts an empty line between a commit and its files.
        let change = Change::parse(token.strip_prefix(b"\n").unwrap_or(&token))?;
        let Some(author) = &author else {
            return Err(GitError::Malformed { what: "files before the first commit".to_owned() });
        };
        let first = extensions.insert(change.extension().to_vec());
        let numbers = FileNumbers { added: change.added, deleted: change.deleted, first };
        table.add_file(author.clone(), change.extension(), numbers);
    }
    log.finish()?;
    Ok(table)
}

//! Commits, files and lines per author and per extension.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use super::Author;

/// One line of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// Commits; in a line of an extension, those that touched a file of it.
    pub(crate) commits: u64,
    /// Changed files, each counted once for every commit that changed it.
    pub(crate) files: u64,
    /// Lines added.
    pub(crate) added: u64,
    /// Lines deleted.
    pub(crate) deleted: u64,
}

impl AddAssign for Numbers {
    fn add_assign(&mut self, other: Self) {
        self.commits += other.commits;
        self.files += other.files;
        self.added += other.added;
        self.deleted += other.deleted;
    }
}

/// The table of a history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HistoryTable {
    authors: BTreeMap<Author, Numbers>,
    extensions: BTreeMap<Vec<u8>, Numbers>,
}

impl HistoryTable {
    /// Counts one commit for its author, without its files.
    pub(crate) fn add_commit(&mut self, author: Author) {
        self.authors.entry(author).or_default().commits += 1;
    }

    /// Counts one changed file. `first` says that no file of the same commit and extension was
    /// counted before: the commit itself counts once for each extension.
    pub(crate) fn add_file(&mut self, author: Author, extension: &[u8], file: FileNumbers) {
        let FileNumbers { added, deleted, first } = file;
        let numbers = Numbers { commits: 0, files: 1, added, deleted };
        *self.authors.entry(author).or_default() += numbers;
        let commits = u64::from(first);
        *self.extensions.entry(extension.to_vec()).or_default() += Numbers { commits, ..numbers };
    }

    /// Everything together, by author.
    pub(crate) fn total(&self) -> Numbers {
        let mut total = Numbers::default();
        self.authors.values().for_each(|numbers| total += *numbers);
        total
    }

    /// The lines of the authors, most commits first.
    pub(crate) fn by_author(&self) -> Vec<(String, Numbers)> {
        sorted(self.authors.iter().map(|(author, numbers)| (author.to_string(), *numbers)))
    }

    /// The lines of the extensions, most commits first.
    pub(crate) fn by_extension(&self) -> Vec<(String, Numbers)> {
        sorted(self.extensions.iter().map(|(name, numbers)| (extension_name(name), *numbers)))
    }

    /// Each line in which the two tables differ, in words; none if they agree.
    pub(crate) fn differences(&self, git: &Self) -> Vec<String> {
        let mut all = Vec::new();
        compare(&self.authors, &git.authors, "author", Author::to_string, &mut all);
        let name = |extension: &Vec<u8>| extension_name(extension);
        compare(&self.extensions, &git.extensions, "extension", name, &mut all);
        all
    }
}

/// What one file adds to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileNumbers {
    pub(crate) added: u64,
    pub(crate) deleted: u64,
    pub(crate) first: bool,
}

fn sorted(lines: impl Iterator<Item = (String, Numbers)>) -> Vec<(String, Numbers)> {
    let mut lines: Vec<_> = lines.collect();
    lines.sort_by(|(name_a, a), (name_b, b)| {
        (b.commits, b.files).cmp(&(a.commits, a.files)).then_with(|| name_a.cmp(name_b))
    });
    lines
}

fn extension_name(extension: &[u8]) -> String {
    match std::str::from_utf8(extension) {
        Ok("") => "(none)".to_owned(),
        Ok(text) => format!(".{text}"),
        Err(_) => format!(".{}", extension.escape_ascii()),
    }
}

fn compare<K: Ord>(
    ours: &BTreeMap<K, Numbers>,
    git: &BTreeMap<K, Numbers>,
    what: &str,
    name: impl Fn(&K) -> String,
    all: &mut Vec<String>,
) {
    let none = Numbers::default();
    let missing = git.keys().filter(|key| !ours.contains_key(*key));
    for key in ours.keys().chain(missing) {
        let (mine, theirs) = (ours.get(key).unwrap_or(&none), git.get(key).unwrap_or(&none));
        if mine != theirs {
            all.push(format!("{what} {}: counted {mine:?}, git says {theirs:?}", name(key)));
        }
    }
}

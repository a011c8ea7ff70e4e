//! Repositories made for the purpose, and the table counted in both ways.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use super::expand::Expander;
use super::objects::{self, Expansion, Next};
use super::repository::Repository;
use super::table::{FileNumbers, HistoryTable};
use super::truth::table_of_git;
use super::{Author, Change, GitError};

#[expect(unreachable_pub, reason = "the tests of whole systems use it, too")]
#[path = "../../../../tests/support/history.rs"]
mod made;

/// The table as the nodes make it, without the nodes: every expansion goes through the objects.
fn table_of_objects(repository: &Repository) -> HistoryTable {
    let mut expander = Expander::new(repository).expect("git runs");
    let (mut table, mut ids) = (HistoryTable::default(), BTreeSet::new());
    for commit in repository.commits().expect("git runs") {
        let commit = commit.expect("a commit");
        assert!(ids.insert(objects::commit_id(&commit.oid)), "ids differ");
        let changes = expander.expand(&commit.oid).expect("an expansion");
        let mut object = objects::Commit::new(commit);
        loop {
            let Expansion { next, emits } = objects::expansion(&object, &changes);
            assert!(emits.len() < 1_000, "a transaction has at most 1,000 items");
            for (id, file) in emits {
                assert!(ids.insert(id), "ids differ");
                let path = Change { path: file.path.clone(), added: 0, deleted: 0 };
                let (added, deleted) = (file.added, file.deleted);
                let numbers = FileNumbers { added, deleted, first: file.first_of_extension };
                table.add_file(file.author(), path.extension(), numbers);
            }
            match next {
                Next::Again(again) => object = again,
                Next::Counted(counted) => {
                    assert_eq!(counted.files, changes.len() as u64);
                    table.add_commit(counted.author());
                    break;
                }
            }
        }
    }
    table
}

fn agrees(folder: &Path) -> HistoryTable {
    let repository = Repository::open(folder).expect("a repository");
    let git = table_of_git(&repository).expect("git log");
    let objects = table_of_objects(&repository);
    assert_eq!(objects.differences(&git), Vec::<String>::new());
    assert_eq!(git.total().commits, repository.count().expect("a count"));
    git
}

fn git(folder: &Path, arguments: &[&str]) {
    let status = Command::new("git").arg("-C").arg(folder).args(arguments).status();
    assert!(status.expect("git runs").success(), "git {arguments:?}");
}

#[test]
fn made_histories_agree_with_git_to_the_line() {
    for seed in [1, 2] {
        let folder = tempfile::tempdir().expect("a folder");
        let repo = folder.path().join("repo");
        let made = made::make(&repo, seed, 600);
        eprintln!("seed {seed}: {made:?}");
        let all = [made.merges, made.empty, made.renames, made.binaries, made.odd_paths];
        assert!(all.iter().all(|count| *count > 0) && made.roots > 1, "{made:?}");
        let table = agrees(&repo);
        assert_eq!(table.total().commits, 600);
        assert!(table.by_author().iter().any(|(name, _)| name.contains("\\xfc")), "Latin-1 names");
    }
}

#[test]
fn the_users_configuration_changes_nothing_or_both() {
    let folder = tempfile::tempdir().expect("a folder");
    let repo = folder.path().join("repo");
    made::make(&repo, 3, 150);
    let plain = agrees(&repo);
    let settings = [
        ("log.showRoot", "false"),
        ("log.showSignature", "true"),
        ("log.diffMerges", "first-parent"),
        ("diff.renames", "copies"),
        ("diff.relative", "true"),
        ("color.ui", "always"),
        ("core.quotePath", "true"),
    ];
    for (key, value) in settings {
        git(&repo, &["config", key, value]);
        assert_eq!(agrees(&repo), plain, "{key}");
    }
    git(&repo, &["config", "diff.algorithm", "patience"]);
    agrees(&repo);
}

#[test]
fn what_is_no_history_is_refused_in_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = Repository::open(folder.path()).expect_err("no repository");
    assert!(error.to_string().contains("not a git repository"), "{error}");
    git(folder.path(), &["init", "-q"]);
    let error = Repository::open(folder.path()).expect_err("no commits");
    assert!(matches!(error, GitError::Empty(_)), "{error}");
}

#[test]
fn an_expander_names_a_commit_that_is_not_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let repo = folder.path().join("repo");
    made::make(&repo, 4, 3);
    let repository = Repository::open(&repo).expect("a repository");
    let mut expander = Expander::new(&repository).expect("git runs");
    let error = expander.expand(&"1".repeat(40)).expect_err("no such commit");
    assert!(error.to_string().contains("1111111"), "{error}");
}

#[test]
fn extensions_are_of_the_file_and_not_of_its_folder() {
    let cases: [(&[u8], &[u8]); 6] = [
        (b"a.rs", b"rs"),
        (b"a.d/b", b""),
        (b".profile", b""),
        (b"x/.a.b", b"b"),
        (b"a.", b""),
        (b"a.tar.\xff", b"\xff"),
    ];
    for (path, extension) in cases {
        let change = Change { path: path.to_vec(), added: 0, deleted: 0 };
        assert_eq!(change.extension(), extension);
    }
}

#[test]
fn a_large_commit_is_expanded_in_several_transactions() {
    let path = |i: usize| format!("f{i}").into_bytes();
    let changes: Vec<_> =
        (0..2_500).map(|i| Change { path: path(i), added: 1, deleted: 0 }).collect();
    let author = Author { name: b"a".to_vec(), email: b"b".to_vec() };
    let commit = super::Commit { oid: "0".repeat(40), author };
    let mut object = objects::Commit::new(commit);
    let (mut rounds, mut firsts) = (0, 0);
    let counted = loop {
        rounds += 1;
        let Expansion { next, emits } = objects::expansion(&object, &changes);
        firsts += emits.iter().filter(|(_, file)| file.first_of_extension).count();
        match next {
            Next::Again(again) => object = again,
            Next::Counted(counted) => break counted,
        }
    };
    assert_eq!((rounds, firsts, counted.files), (3, 1, 2_500));
    // Repeating a part gives the very same objects.
    assert_eq!(objects::expansion(&object, &changes), objects::expansion(&object, &changes));
}

#[test]
fn tables_that_differ_say_where() {
    let author = |name: &str| Author { name: name.into(), email: Vec::new() };
    let (mut a, mut b) = (HistoryTable::default(), HistoryTable::default());
    a.add_commit(author("x"));
    b.add_commit(author("x"));
    assert_eq!(a.differences(&b), Vec::<String>::new());
    b.add_file(author("y"), b"rs", FileNumbers { added: 1, deleted: 2, first: true });
    let differences = a.differences(&b);
    assert_eq!(differences.len(), 2, "{differences:?}");
    assert!(differences[0].starts_with("author y <>"), "{differences:?}");
}

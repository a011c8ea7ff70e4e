//! What commits changed, from one `git diff-tree` that lives as long as the work: a process for
//! each commit would cost more than everything else.

use std::io::Write;

use super::repository::{Repository, Running};
use super::{Change, GitError};

/// Ends the answer to one commit. Git echoes a line that names no commit, and flushes what it has
/// to say before it; no record of a file begins like this.
const END: &[u8] = b"=end\n";

/// Expands commits into changes.
pub(crate) struct Expander {
    diff: Running,
}

impl Expander {
    /// An expander for the commits of a repository.
    pub(crate) fn new(repository: &Repository) -> Result<Self, GitError> {
        Ok(Self { diff: repository.diff_tree()? })
    }

    /// What a commit changed, file by file; nothing for a merge.
    pub(crate) fn expand(&mut self, oid: &str) -> Result<Vec<Change>, GitError> {
        self.ask(oid).map_err(|cause| self.diff.broken(cause))?;
        let unknown = || GitError::Malformed { what: format!("it does not know commit {oid}") };
        // The commit's own name comes first; without it, git has none of that name.
        if self.at_end()? || self.diff.token()?.as_deref() != Some(oid.as_bytes()) {
            return Err(unknown());
        }
        let mut changes = Vec::new();
        while !self.at_end()? {
            changes.push(Change::parse(&self.diff.token()?.ok_or_else(unknown)?)?);
        }
        Ok(changes)
    }

    fn ask(&mut self, oid: &str) -> std::io::Result<()> {
        let stdin = self.diff.stdin.as_mut().expect("open until the expander is gone");
        let mut question = format!("{oid}\n").into_bytes();
        question.extend_from_slice(END);
        stdin.write_all(&question)?;
        stdin.flush()
    }

    /// True if the mark of the end comes next; it is taken then.
    fn at_end(&mut self) -> Result<bool, GitError> {
        use std::io::BufRead;
        let next = self.diff.stdout.fill_buf().map(|buffer| buffer.first().copied());
        if next.map_err(|cause| self.diff.broken(cause))? != END.first().copied() {
            return Ok(false);
        }
        match self.diff.read_until(b'\n')? {
            Some(line) if line == END[..END.len() - 1] => Ok(true),
            line => {
                let what = line.unwrap_or_default().escape_ascii().to_string();
                Err(GitError::Malformed { what })
            }
        }
    }
}

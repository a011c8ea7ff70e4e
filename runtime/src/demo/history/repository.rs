//! Runs git in one repository, in the same way whatever the environment and the configuration of
//! its user say.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::{Author, Commit, GitError};

/// Begins each commit in the output of `git log`: no record of a file begins with it.
pub(crate) const COMMIT_MARK: u8 = b'=';

/// What `git log` says of each commit, the fields separated by NUL.
const COMMIT_FORMAT: &str = "--format=tformat:=%H%x00%an%x00%ae";

/// The most of git's own words that an error repeats.
const SAID_BYTES_MAX: u64 = 2_000;

/// A repository with at least one commit.
#[derive(Clone, Debug)]
pub(crate) struct Repository {
    folder: PathBuf,
    /// The user's choice of how lines are matched: `git log` follows it by itself, `git diff-tree`
    /// has to be told.
    algorithm: Option<String>,
}

impl Repository {
    /// The repository that `folder` is, or is in.
    pub(crate) fn open(folder: &Path) -> Result<Self, GitError> {
        let mut repository = Self { folder: folder.to_owned(), algorithm: None };
        repository.ask(&["rev-parse", "--git-dir"])?;
        if repository.ask(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]).is_err() {
            return Err(GitError::Empty(folder.display().to_string()));
        }
        // An unset key is no error, but git ends with 1 for it.
        let algorithm = repository.ask(&["config", "--get", "diff.algorithm"]).ok();
        repository.algorithm = algorithm.filter(|name| !name.is_empty());
        Ok(repository)
    }

    /// How many commits the history has.
    pub(crate) fn count(&self) -> Result<u64, GitError> {
        let count = self.ask(&["rev-list", "--count", "HEAD"])?;
        count.parse().map_err(|_| GitError::Malformed { what: count })
    }

    /// Every commit of the history, the latest first.
    pub(crate) fn commits(&self) -> Result<Commits, GitError> {
        Ok(Commits { log: self.log(&["-s"])? })
    }

    /// `git log` with what the table of the demo stands on, and these arguments.
    pub(crate) fn log(&self, arguments: &[&str]) -> Result<Running, GitError> {
        // What a user's configuration could change in the numbers is set to git's own defaults.
        let mut all = vec!["-c", "log.showRoot=true", "log", "-z", "--no-renames", "--no-mailmap"];
        all.extend(["--no-diff-merges", "--no-relative", "--no-show-signature", "--no-color"]);
        all.push(COMMIT_FORMAT);
        all.extend(arguments);
        self.start(&all)
    }

    /// `git diff-tree` that reads names of commits from its stdin.
    pub(crate) fn diff_tree(&self) -> Result<Running, GitError> {
        let algorithm = self.algorithm.as_ref().map(|name| format!("--diff-algorithm={name}"));
        let mut all = vec!["diff-tree", "--stdin", "-r", "-z", "--numstat", "--root"];
        all.extend(["--no-renames", "--always"]);
        all.extend(algorithm.as_deref());
        self.start(&all)
    }

    fn ask(&self, arguments: &[&str]) -> Result<String, GitError> {
        let mut running = self.start(arguments)?;
        let mut answer = String::new();
        let read = running.stdout.read_to_string(&mut answer);
        read.map_err(|cause| running.broken(cause))?;
        running.finish()?;
        Ok(answer.trim().to_owned())
    }

    fn start(&self, arguments: &[&str]) -> Result<Running, GitError> {
        let said = tempfile::tempfile().map_err(GitError::NotRun)?;
        let said_by_git = said.try_clone().map_err(GitError::NotRun)?;
        let mut command = Command::new("git");
        command.arg("-C").arg(&self.folder).args(arguments);
        // The folder was named: what a hook or a wrapper left in the environment is about another.
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"] {
            command.env_remove(name);
        }
        command.env("GIT_PAGER", "cat").env("LC_ALL", "C");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(said_by_git);
        let mut child = command.spawn().map_err(GitError::NotRun)?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let command = arguments.join(" ");
        Ok(Running { command, child, stdin, stdout, said })
    }
}

/// A git that runs. Dropping it ends it.
pub(crate) struct Running {
    command: String,
    child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: BufReader<ChildStdout>,
    said: File,
}

impl Running {
    /// What comes before the next NUL; nothing at the end.
    pub(crate) fn token(&mut self) -> Result<Option<Vec<u8>>, GitError> {
        self.read_until(0)
    }

    /// What comes before the next `end`; nothing at the end.
    pub(crate) fn read_until(&mut self, end: u8) -> Result<Option<Vec<u8>>, GitError> {
        let mut token = Vec::new();
        let read = self.stdout.read_until(end, &mut token);
        if read.map_err(|cause| self.broken(cause))? == 0 {
            return Ok(None);
        }
        if token.pop() != Some(end) {
            return Err(GitError::Malformed { what: "an answer that ends half-way".to_owned() });
        }
        Ok(Some(token))
    }

    /// The rest of a commit whose mark and name are `first`.
    pub(crate) fn commit(&mut self, first: &[u8]) -> Result<Commit, GitError> {
        let malformed = |what: &[u8]| GitError::Malformed { what: what.escape_ascii().to_string() };
        let (mark, oid) = first.split_first().ok_or_else(|| malformed(first))?;
        if *mark != COMMIT_MARK || oid.is_empty() || !oid.iter().all(u8::is_ascii_hexdigit) {
            return Err(malformed(first));
        }
        let oid = String::from_utf8(oid.to_vec()).map_err(|_| malformed(first))?;
        let mut field = || self.token()?.ok_or_else(|| malformed(b"a commit without author"));
        let author = Author { name: field()?, email: field()? };
        Ok(Commit { oid, author })
    }

    /// A pipe to or from this git broke: what git said about it counts more, if it said something.
    pub(crate) fn broken(&mut self, cause: std::io::Error) -> GitError {
        self.stdin = None;
        let failed = self.child.wait().is_ok_and(|status| !status.success());
        match self.said() {
            said if failed && !said.is_empty() => self.failed(said),
            _ => GitError::Pipe { command: self.command.clone(), cause },
        }
    }

    /// Waits for the end, and for it to be a good one.
    pub(crate) fn finish(&mut self) -> Result<(), GitError> {
        self.stdin = None;
        let status = self.child.wait();
        match status.map_err(|cause| self.broken(cause))? {
            status if status.success() => Ok(()),
            status => {
                let said = self.said();
                Err(self.failed(if said.is_empty() { status.to_string() } else { said }))
            }
        }
    }

    fn failed(&self, said: String) -> GitError {
        GitError::Failed { command: self.command.clone(), said }
    }

    fn said(&mut self) -> String {
        let mut said = Vec::new();
        // An error that cannot be explained is still an error: the status says so.
        let _unread = self
            .said
            .rewind()
            .and_then(|()| (&mut self.said).take(SAID_BYTES_MAX).read_to_end(&mut said));
        String::from_utf8_lossy(&said).trim().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _gone = self.child.kill();
        let _waited = self.child.wait();
    }
}

/// The commits of a history, read as they are asked for.
pub(crate) struct Commits {
    log: Running,
}

impl Iterator for Commits {
    type Item = Result<Commit, GitError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.log.token() {
            Ok(Some(first)) => Some(self.log.commit(&first)),
            // A history that ends because git failed is not the whole history.
            Ok(None) => self.log.finish().err().map(Err),
            Err(error) => Some(Err(error)),
        }
    }
}

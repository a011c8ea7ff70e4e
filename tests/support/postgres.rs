//! A private PostgreSQL that ends with its test, by `tests/servers/postgres`.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A running server.
pub struct Postgres {
    folder: TempDir,
    pub url: String,
}

impl Postgres {
    /// Starts one, if PostgreSQL is installed; `tests/run` says so if it is not.
    pub fn start() -> Option<Self> {
        if !script().arg("bin").output().expect("the script is there").status.success() {
            println!("PostgreSQL is not installed: nothing was tested");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("dpc-pg-").tempdir().expect("a folder");
        let url = order("start", folder.path());
        Some(Self { folder, url })
    }

    /// Runs a script by `psql`, as a person would.
    pub fn psql(&self, sql: &str) -> Output {
        let programs = script().arg("bin").output().expect("the script is there").stdout;
        let programs = String::from_utf8(programs).expect("text");
        let mut psql = Command::new(Path::new(programs.trim()).join("psql"));
        psql.args(["-qAtX", "-v", "ON_ERROR_STOP=1", &self.url]).stdin(Stdio::piped());
        let child = psql.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("psql comes with PostgreSQL");
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(sql.as_bytes()).expect("psql reads");
        drop(input);
        child.wait_with_output().expect("psql ends")
    }

    /// `kill`, `start`, `restart`, `pause`, `stall`, `resume`.
    pub fn order(&self, what: &str) {
        order(what, self.folder.path());
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.order("kill");
    }
}

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/servers/postgres"))
}

fn order(what: &str, folder: &Path) -> String {
    let done = script().arg(what).arg(folder).output().expect("the script runs");
    assert!(done.status.success(), "{what}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("text").trim().to_owned()
}

//! The first test of all: one seed gives one log, byte for byte, in any process. While it fails no
//! other result of this harness means anything.

use std::io::Write;
use std::process::Command;

use libtest_mimic::Failed;
use tracing::Level;

use crate::{swarm, telling};

/// Asks this program to tell a seed, with every event of every crate.
pub(crate) const TELL: &str = "--tell";

/// The seed whose log is compared.
const SEED: u64 = 3;

/// Writes the log of a seed to the standard output.
pub(crate) fn tell(seed: u64) {
    let report = telling::with(Level::TRACE, std::io::stdout(), || swarm::run(seed));
    println!("{report:?}");
    std::io::stdout().flush().expect("whoever asked reads it");
}

fn told(seed: u64) -> Result<Vec<u8>, Failed> {
    let program = std::env::current_exe()?;
    let child = Command::new(program).args([TELL, &seed.to_string()]).output()?;
    if !child.status.success() {
        return Err(String::from_utf8_lossy(&child.stderr).into_owned().into());
    }
    Ok(child.stdout)
}

/// Two processes tell the same.
pub(crate) fn twice() -> Result<(), Failed> {
    let (once, twice) = (told(SEED)?, told(SEED)?);
    if let Some((number, here, there)) = first_difference(&once, &twice) {
        return Err(format!("line {number} differs:\n{here}\n{there}").into());
    }
    if once != twice {
        return Err("they differ in their line ends".into());
    }
    let lines = once.iter().filter(|byte| **byte == b'\n').count();
    if lines < 10_000 {
        return Err(format!("{lines} lines tell hardly anything").into());
    }
    Ok(())
}

/// Another seed tells something else.
pub(crate) fn other() -> Result<(), Failed> {
    if told(SEED)? == told(SEED + 1)? {
        return Err("two seeds tell the same: the seed is not used".into());
    }
    Ok(())
}

/// Where two logs part, for a readable failure.
fn first_difference(a: &[u8], b: &[u8]) -> Option<(usize, String, String)> {
    let (mut a, mut b) = (a.split(|c| *c == b'\n'), b.split(|c| *c == b'\n'));
    let text = |line: Option<&[u8]>| {
        line.map_or_else(|| "the end".to_owned(), |line| String::from_utf8_lossy(line).into_owned())
    };
    for number in 1.. {
        match (a.next(), b.next()) {
            (None, None) => return None,
            (here, there) if here != there => return Some((number, text(here), text(there))),
            _ => {}
        }
    }
    None
}

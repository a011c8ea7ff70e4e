//! Asking before something over many objects is done.

use std::io::{self, BufRead, IsTerminal, Write};

use super::exit::Exit;
use super::failure::Failure;

/// Asks on the terminal whether to do `what`; without a terminal it takes `--yes`.
pub(crate) fn confirm(what: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        let message = format!("{what}: nobody is there to ask; say --yes if you are sure");
        return Err(Failure::usage(message).field("--yes"));
    }
    // The question goes to stderr: stdout carries results only.
    write!(io::stderr(), "{what}? [y/N] ")?;
    answer_of(&mut io::stdin().lock())
}

fn answer_of(input: &mut impl BufRead) -> Result<(), Failure> {
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        Ok(())
    } else {
        let message = "not confirmed; nothing was done";
        Err(Failure::new(Exit::NotDone, "CANCELLED", "NOT_CONFIRMED", message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_a_yes() {
        for yes in ["y\n", "Y\n", "yes\n", " YES \n"] {
            assert_eq!(answer_of(&mut yes.as_bytes()), Ok(()));
        }
        for no in ["", "\n", "n\n", "yep\n", "oui\n"] {
            let failure = answer_of(&mut no.as_bytes()).expect_err("not a yes");
            assert_eq!((failure.exit, failure.reason.as_str()), (Exit::NotDone, "NOT_CONFIRMED"));
        }
        assert_eq!(confirm("anything", true), Ok(()));
    }
}

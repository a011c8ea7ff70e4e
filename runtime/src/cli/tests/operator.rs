//! Operators' verbs against a node on a real socket: output, stderr and exit code of each.

use clap::Parser;

use super::fake::{FATAL, Fake, KNOWN};
use crate::cli::output::captured;
use crate::cli::{Cli, dispatch};

const UNKNOWN: &str = "00000000-0000-0000-0000-000000000001";

/// What a command line did: its exit code, stdout and stderr.
fn run(fake: &Fake, line: &str) -> (u8, String, String) {
    let line = line.replace("KNOWN", KNOWN).replace("STRANGE", UNKNOWN).replace("FATAL", FATAL);
    let line = format!("dpc {line} --node {}", fake.address);
    let cli =
        Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{line}: {e}"));
    let (mut output, out, err) = captured::output(cli.output);
    let exit = match dispatch(cli.command, &mut output) {
        Ok(exit) => exit,
        Err(failure) => {
            output.failure(&failure);
            failure.exit
        }
    };
    (exit.number(), out.text(), err.text())
}

#[test]
fn each_verb_prints_what_the_node_says() {
    let fake = Fake::start();
    let cases = [
        ("object get KNOWN", "data        hi\n"),
        ("object get KNOWN", "deliveries  0, 0 failed\n"),
        ("object get KNOWN -o json", "\"complete\":true,\"asked\":[\"a\"],\"hops\":0,"),
        ("object why KNOWN", "It waits at a for demand.\n  b: no demand\n"),
        ("object trace KNOWN", "-  a #0  wait\n-  a #0  deliver\n"),
        ("object trace KNOWN -o json", "\"decision\":\"deliver\",\"candidates\":[]}\n"),
        ("object ls", "acme.Order  ready  a"),
        ("object discard KNOWN", "discarded 0192"),
        ("object discard KNOWN -o json", "\"status\":\"discarded\"}\n"),
        ("parked ls", "rejected: no"),
        ("type ls", "acme.Order      0"),
        ("sub ls", "SESSION  TYPE  PROCESSOR"),
        ("node ls -o json", "{\"node\":\"a\",\"lane\":\"\",\"self\":true"),
        ("node show", "node         a\n"),
        ("node drain", "draining: 1 leases are open, 2 objects stay"),
        ("node resume", "the node takes pushes and delivers again\n"),
        ("node resume -o json", "{\"resumed\":true}\n"),
        ("node forget b", "forgot b: it is refused from now on, 0 objects came back\n"),
        ("node forget b --reclaim --yes -o json", "{\"node\":\"b\",\"reclaimed\":3}\n"),
    ];
    for (line, expected) in cases {
        let (code, out, err) = run(&fake, line);
        assert_eq!(code, 0, "{line}: {err}");
        assert!(out.contains(expected), "{line}: {out}");
    }
}

#[test]
fn a_refusal_is_named_and_exits_with_1() {
    let fake = Fake::start();
    for verb in ["get", "why", "trace", "discard"] {
        let (code, out, err) = run(&fake, &format!("object {verb} STRANGE -o json"));
        assert_eq!((code, out.as_str()), (1, ""), "{verb}");
        assert_eq!(
            err,
            format!(
                "error: no object {UNKNOWN} is known here [OBJECT_UNKNOWN]\n\
                 {{\"code\":\"NOT_FOUND\",\"reason\":\"OBJECT_UNKNOWN\",\"message\":\"no object \
                 {UNKNOWN} is known here\",\"field\":\"id\",\"given\":\"{UNKNOWN}\"}}\n"
            ),
            "{verb}"
        );
    }
}

#[test]
fn a_lost_connection_is_4_for_a_question_and_3_for_a_change() {
    let fake = Fake::start();
    let (code, _, err) = run(&fake, "object get FATAL");
    assert_eq!(code, 4, "{err}");
    let (code, _, err) = run(&fake, "object discard FATAL");
    assert_eq!(code, 3, "{err}");
    assert!(
        err.contains("may have been done or not") && err.contains("[OUTCOME_UNKNOWN]"),
        "{err}"
    );
}

#[test]
fn a_recording_that_ends_too_early_leaves_no_file() {
    let fake = Fake::start();
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("a.dpcrec");
    let (code, out, err) = run(&fake, &format!("record dump {}", file.display()));
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("4 of 10 bytes") && err.contains("[RECORDING_CUT]"), "{err}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0);
}

#[test]
fn a_bulk_goes_on_until_nothing_is_left() {
    let fake = Fake::start();
    let (code, out, err) = run(&fake, "parked redrive --type acme.Order");
    assert_eq!((code, out.as_str(), err.as_str()), (0, "redriven 30\n", ""));
    let (code, out, err) = run(&fake, "parked discard --all --yes -o json");
    assert_eq!(code, 3, "{err}");
    assert_eq!(out, "{\"status\":\"discarded\",\"count\":0}\n", "the summary comes all the same");
}

#[test]
fn of_several_ids_each_gets_its_line_and_the_worst_counts() {
    let fake = Fake::start();
    let (code, out, err) = run(&fake, "parked redrive KNOWN STRANGE");
    assert_eq!((code, out), (1, format!("redriven {KNOWN}\n")));
    assert_eq!(err, format!("error: {UNKNOWN}: it is not parked [NOT_PARKED]\n"));
    let (code, out, _) = run(&fake, "parked discard STRANGE -o json");
    assert_eq!(code, 1);
    assert!(out.contains("\"status\":\"refused\",\"error\":{\"code\":\"NOT_FOUND\""), "{out}");
}

#[test]
fn what_is_left_out_is_said() {
    let fake = Fake::start();
    let (code, _, err) = run(&fake, "object ls --limit 1");
    assert_eq!(code, 0);
    assert!(err.starts_with("there are more than these 1"), "{err}");
    let (_, _, err) = run(&fake, "object why KNOWN");
    assert!(err.starts_with("incomplete: ") && err.contains("(asked: a)"), "{err}");
    let (code, _, _) = run(&fake, "node drain --wait");
    assert_eq!(code, 1, "the node is not drained");
}

#[test]
fn nodes_are_tried_in_order() {
    let fake = Fake::start();
    let dead = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = dead.local_addr().expect("bound");
    drop(dead);
    let line = format!("dpc type ls --node {address},{}", fake.address);
    let cli = Cli::try_parse_from(line.split_whitespace()).expect("parses");
    let (mut output, out, _) = captured::output(cli.output);
    dispatch(cli.command, &mut output).expect("the second one answers");
    assert!(out.text().contains("acme.Order"));
}

#[test]
fn nothing_over_many_is_done_unasked() {
    let fake = Fake::start();
    for line in ["parked redrive --all", "parked discard --all", "node forget b --reclaim"] {
        // Tests have no terminal; where one is attached, nobody would answer it.
        if std::io::IsTerminal::is_terminal(&std::io::stdin()) {
            return;
        }
        let (code, out, err) = run(&fake, line);
        assert_eq!((code, out.as_str()), (2, ""), "{line}");
        assert!(err.contains("--yes"), "{line}: {err}");
    }
}

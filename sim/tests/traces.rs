//! Scenarios as snapshots: `scenarios/NAME.scn` is told, and its trace is `snapshots/NAME.snap`.
//! A change of a trace is reviewed like code: every changed line must be explained.
//! `INSTA_UPDATE=always cargo test -p sim --test traces` writes them anew, `DPC_SCENARIO=ring` looks
//! at one only.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn names(of: &str, ending: &str) -> BTreeSet<String> {
    let files = std::fs::read_dir(folder(of)).expect("the folder is there");
    files
        .filter_map(|f| f.expect("it can be read").file_name().into_string().ok())
        .filter_map(|f| f.strip_suffix(ending).map(str::to_owned))
        .collect()
}

#[test]
fn every_scenario_is_told_as_its_snapshot_says() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(folder("snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let only = std::env::var("DPC_SCENARIO").ok();
    let mut wrong = Vec::new();
    for name in names("scenarios", ".scn") {
        if only.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        let path = folder("scenarios").join(format!("{name}.scn"));
        let script = std::fs::read_to_string(&path).expect("it can be read");
        match sim::script::tell(&script) {
            Ok(trace) => {
                let same = catch_unwind(AssertUnwindSafe(|| {
                    settings.bind(|| insta::assert_snapshot!(name.as_str(), trace));
                }));
                if same.is_err() {
                    wrong.push(format!("{name}: its trace has changed"));
                }
            }
            Err(error) => wrong.push(format!("{name}.scn, {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_snapshot_has_its_scenario() {
    assert_eq!(names("snapshots", ".snap"), names("scenarios", ".scn"));
}

/// Rows of `docs/scenarios.md`: the name and the file of each.
fn documented() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/scenarios.md");
    let table = std::fs::read_to_string(path).expect("the table is there");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| ["));
    rows.map(|row| {
        let (name, rest) = row.split_once("](../").expect("a row names its file");
        let (file, _) = rest.split_once(')').expect("a link ends");
        (name.to_owned(), file.to_owned())
    })
    .collect()
}

#[test]
fn every_scenario_is_in_the_table_once_and_the_reverse() {
    let rows = documented();
    let scripts: Vec<&String> =
        rows.iter().filter(|(_, file)| file.ends_with(".scn")).map(|(name, _)| name).collect();
    let unique: BTreeSet<String> = scripts.iter().map(|name| (*name).clone()).collect();
    assert_eq!(scripts.len(), unique.len(), "a scenario stands in the table twice");
    assert_eq!(unique, names("scenarios", ".scn"));
    for (name, file) in rows {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(&file);
        let text = std::fs::read_to_string(path).expect("the file of a row is there");
        let is_test = text.contains(&format!("fn {}(", name.replace('-', "_")));
        assert!(file.ends_with(&format!("/{name}.scn")) || is_test, "{name} is not in {file}");
    }
}

#[test]
fn every_scenario_says_its_invariant_first_and_asserts_it() {
    for name in names("scenarios", ".scn") {
        let path = folder("scenarios").join(format!("{name}.scn"));
        let script = std::fs::read_to_string(&path).expect("it can be read");
        assert!(script.starts_with("# "), "{name} does not begin with its invariant");
        let asserted = script.lines().any(|line| line.starts_with("expect "));
        assert!(asserted, "{name} is only told, and asserts nothing");
    }
}

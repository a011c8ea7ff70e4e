//! Scenarios and the stories they tell, reviewed as snapshots: `tests/scenarios/NAME.scn` and the
//! snapshot beside it.

#[test]
fn every_scenario_tells_its_story() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios");
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .expect("the scenarios are there")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|e| e == "scn"))
        .collect();
    names.sort();
    assert!(names.len() > 20, "the scenarios are found");
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(folder);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let _bound = settings.bind_to_scope();
    for path in names {
        let text = std::fs::read_to_string(&path).expect("readable");
        let name = path.file_stem().and_then(|n| n.to_str()).expect("a name");
        let story = match sim::script::run(&text) {
            Ok(story) => story,
            Err(what) => panic!("{name}: {what}"),
        };
        insta::assert_snapshot!(name, format!("{text}\n{story}"));
    }
}

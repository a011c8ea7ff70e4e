//! The language of scenarios: what a bad script is told, and what its seed decides.

use sim::script;

#[test]
fn a_bad_script_says_what_is_wrong_and_where() {
    let error = |script: &str| script::tell(script).expect_err("it is wrong").to_string();
    assert_eq!(
        error("line 2\npush n3 img \"a\""),
        "line 2: `push n3 img \"a\"`: there is no node n3"
    );
    assert_eq!(error("node 1; dance n1"), "line 1: `dance n1`: dance is not a verb");
    assert_eq!(
        error("node 1; push n1 img \"a\" credit 1"),
        "line 1: `push n1 img \"a\" credit 1`: credit is one word too many"
    );
    assert_eq!(
        error("node 1\nlimit lease 1s"),
        "line 2: `limit lease 1s`: it is too late for this: the world has begun"
    );
    assert_eq!(
        error("node 1\nuntil n1 sends Offer"),
        "line 2: `until n1 sends Offer`: this does not happen"
    );
}

#[test]
fn a_seed_is_one_story_even_when_a_script_leaves_hardly_anything_to_chance() {
    let script = "line 2; subscribe n2 img then emit doc; push n1 img \"a\" times 9; wait 9s";
    let told = |seed: u64| {
        let story = script::tell(&format!("seed {seed}; {script}")).expect("a good script");
        story.replacen(&format!("seed {seed}"), "", 1)
    };
    assert_eq!(told(1), told(1));
    assert_ne!(told(1), told(2));
}

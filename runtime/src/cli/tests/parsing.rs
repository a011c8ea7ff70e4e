//! The shape of the command line: every verb parses as documented and says how it is used.

use crate::cli::*;

const ID: &str = "0192f0c1-7a5e-7cc3-98a4-3f1c2d3e4f50";

fn parse(line: &str) -> Result<Cli, clap::Error> {
    let words = line.split_whitespace().map(|word| word.replace("ID", ID));
    Cli::read(words)
}

#[test]
fn the_definition_is_consistent() {
    Cli::definition().debug_assert();
}

#[test]
fn the_documented_commands_parse() {
    let lines = [
        "dpc serve",
        "dpc serve --config F --node-name n --data-dir d --listen-clients 127.0.0.1:0 \
         --listen-nodes 127.0.0.1:0 --listen-admin 127.0.0.1:0 --peer a:1 --peer b:2 --restored \
         --insecure --set limits.max_hops=2 --set log.level=debug",
        "dpc demo --nodes 5 --keep",
        "dpc demo --repo .",
        "dpc push t --data x --id ID --header k=v --header a=b=c --delay 10s --expires-in 1h",
        "dpc push t --file - --not-before 2026-11-24T10:00:00Z --expires-at 2026-11-25T10:00:00Z",
        "dpc push --lines",
        "dpc push t --lines --header k=v",
        "dpc push t",
        "dpc subscribe t u.* * --processor p --credit 4 --count 2 --idle-exit 5s --settle none",
        "dpc subscribe t --settle finalize",
        "dpc sub t --exec cat",
        "dpc sub ls",
        "dpc sub ls --node a:1,b:2",
        "dpc settle AAEC finalise",
        "dpc settle AAEC finalize",
        "dpc settle AAEC release --delay 1s --failed",
        "dpc settle AAEC reject --reason no",
        "dpc settle AAEC advance",
        "dpc settle AAEC extend",
        "dpc settle -HEC release --delay 1s -o json",
        "dpc settle --EC finalise",
        "dpc object get ID --local",
        "dpc object why ID",
        "dpc object trace ID --local -o json",
        "dpc object discard ID",
        "dpc object ls --type t --state held --since 1h --limit 5",
        "dpc object ls --since 2026-11-24T10:00:00Z",
        "dpc parked ls --type t",
        "dpc parked redrive ID ID",
        "dpc parked redrive --type t",
        "dpc parked redrive --all --yes",
        "dpc parked discard --all",
        "dpc type ls -o json",
        "dpc node ls --node a:1",
        "dpc node show",
        "dpc node drain --wait",
        "dpc node resume",
        "dpc node forget b --reclaim --yes",
        "dpc sim run",
        "dpc sim run --seed 7 --profile partitions --nodes 3 --only 3,17..20 --trace",
        "dpc sim run --seed 7 -v",
        "dpc sim run --seeds 0..1000 --jobs 2 -o json",
        "dpc sim run --minutes 5 --profile none",
        "dpc sim meta --seed 7 --profile disk",
        "dpc config show --origin --set limits.max_hops=2 --output json",
        "dpc config validate F",
        "dpc store init",
        "dpc store check --config F",
        "dpc store export --data-dir d a.dpclane",
        "dpc store export -",
        "dpc store import --data-dir d a.dpclane",
        "dpc store move --data-dir d --set store.kind=postgres",
        "dpc completion bash",
        "dpc completion zsh",
        "dpc completion fish",
    ];
    for line in lines {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn wrong_usage_is_refused() {
    let lines = [
        "dpc",
        "dpc fly",
        "dpc push",
        "dpc push t --data x --file f",
        "dpc push t --lines --id ID",
        "dpc push t --delay 1s --not-before 2026-11-24T10:00:00Z",
        "dpc push t --delay soon",
        "dpc push t --not-before 2026-11-24",
        "dpc push t --header novalue",
        "dpc push t --id 7",
        "dpc subscribe",
        "dpc sub",
        "dpc subscribe t --count 0",
        "dpc subscribe t --exec cat --settle none",
        "dpc settle AAEC extinguish",
        "dpc settle == finalise",
        "dpc object get",
        "dpc object ls --state lost",
        "dpc object ls --limit 0",
        "dpc parked redrive",
        "dpc parked redrive ID --all",
        "dpc parked discard --type t --all",
        "dpc node ls --node nowhere",
        "dpc serve --node a:1",
        "dpc --node a:1 serve",
        "dpc --node a:1 config show",
        "dpc config show --node a:1",
        "dpc demo --node a:1",
        "dpc completion powershell",
        "dpc object get ID -o yaml",
        "dpc bench speed",
        "dpc sim",
        "dpc sim run --node a:1",
        "dpc sim run --seed 7 --seeds 0..9",
        "dpc sim run --seed 7 --minutes 1",
        "dpc sim run --seeds 0..9 --minutes 1",
        "dpc sim run --seeds 9",
        "dpc sim run --profile fire",
        "dpc sim run --trace",
        "dpc sim run --only 3",
        "dpc sim meta --seeds 0..9",
        "dpc store export",
        "dpc store import --node a:1 a.dpclane",
        "dpc store move a.dpclane",
    ];
    for line in lines {
        let error = parse(line).map(|_| ()).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn whom_to_ask_and_the_form_may_stand_before_the_verb_or_behind_it() {
    let nodes = |line: &str| match parse(line).unwrap_or_else(|e| panic!("{line}: {e}")) {
        Cli { command: Command::Push(args), output: Format::Json, .. } => args.node.nodes,
        Cli { command: Command::Sub(args), output: Format::Json, .. } => match args.command {
            Some(SubCommand::Ls(args)) => args.node.nodes,
            None => args.subscribe.node.nodes,
        },
        Cli {
            command: Command::Node(node::NodeCommand::Ls(args)), output: Format::Json, ..
        } => args.node.nodes,
        other => panic!("{line}: {other:?}"),
    };
    let lines = [
        "dpc --node a:1,b:2 -o json push t",
        "dpc push t --node a:1,b:2 -o json",
        "dpc -o json push --node a:1,b:2 t",
        "dpc --node a:1,b:2 sub t -o json",
        "dpc --node a:1,b:2 -o json sub ls",
        "dpc sub ls --node a:1,b:2 -o json",
        "dpc -o json node --node a:1,b:2 ls",
        "dpc --node a:1,b:2 node -o json ls",
    ];
    for line in lines {
        let asked: Vec<_> = nodes(line).iter().map(ToString::to_string).collect();
        assert_eq!(asked, ["a:1", "b:2"], "{line}");
    }
}

#[test]
fn only_verbs_that_ask_a_node_offer_it() {
    for (line, offered) in [
        ("dpc --help", true),
        ("dpc push --help", true),
        ("dpc object get --help", true),
        ("dpc serve --help", false),
        ("dpc config show --help", false),
        ("dpc sim run --help", false),
    ] {
        let help = parse(line).map(|_| ()).expect_err("prints help").to_string();
        assert!(!help.starts_with("Which nodes"), "{line} says what it does: {help}");
        assert_eq!(help.contains("--node <ADDR"), offered, "{line}: {help}");
        assert!(help.contains("--output"), "{line}: {help}");
    }
}

#[test]
fn sub_is_subscribe_and_also_the_noun_of_ls() {
    let Ok(Cli { command: Command::Sub(args), .. }) = parse("dpc sub t u --credit 4") else {
        panic!("sub subscribes");
    };
    assert!(args.command.is_none());
    let subscribe = args.subscribe;
    assert_eq!(subscribe.types, ["t", "u"]);
    assert_eq!((subscribe.processor.as_str(), subscribe.credit), ("default", Some(4)));
    let Ok(Cli { command: Command::Sub(args), .. }) = parse("dpc sub ls") else {
        panic!("sub ls lists");
    };
    assert!(matches!(args.command, Some(SubCommand::Ls(_))));
}

#[test]
fn every_verb_has_an_example_that_parses() {
    fn visit(command: &clap::Command, path: &str, examples: &mut Vec<String>) {
        let help = command.get_after_help().unwrap_or_else(|| panic!("{path} has no example"));
        let help = help.to_string();
        let lines = help.lines().filter_map(|line| line.strip_prefix("  "));
        let own: Vec<_> = lines.map(str::to_owned).collect();
        assert!(own.iter().all(|line| line.starts_with("dpc ")), "{path}: {help}");
        assert!(own[0].starts_with(path), "{path}: {help}");
        examples.extend(own);
        for sub in command.get_subcommands() {
            visit(sub, &format!("{path} {}", sub.get_name()), examples);
        }
    }
    let mut examples = Vec::new();
    visit(&Cli::definition(), "dpc", &mut examples);
    assert!(examples.len() > 25, "{}", examples.len());
    for example in examples {
        // The shell would take away the quotes and the redirection.
        let line = example.split(" > ").next().expect("a first part");
        let line = line.split(" | ").next().expect("a first part");
        let line = line.replace(['\'', '"'], "").replace("$TOKEN", "AAEC");
        if let Err(error) = parse(&line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn json_is_asked_for_even_where_the_rest_is_wrong() {
    let asks = |line: &str| {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        asks_for_json(&words)
    };
    for line in ["dpc -o json fly", "dpc fly --output json", "dpc -ojson", "dpc --output=json"] {
        assert!(asks(line), "{line}");
    }
    for line in ["dpc fly", "dpc -o text json", "dpc json -o"] {
        assert!(!asks(line), "{line}");
    }
}

#[test]
fn the_version_names_the_commit() {
    let error = parse("dpc --version").map(|_| ()).expect_err("prints the version");
    assert_eq!(error.exit_code(), 0);
    assert_eq!(error.to_string(), format!("dpc {VERSION}\n"));
    assert!(VERSION.starts_with("0.") && VERSION.ends_with(')'), "{VERSION}");
}

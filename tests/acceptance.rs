//! The acceptance story with the command line alone: two nodes, two subscribers, two pushes.

mod support;

use support::transaction::is_all_or_nothing;
use support::{Node, by_id, command, ended, folder};

#[tokio::test]
async fn two_nodes_two_clients_crosswise() {
    let folder = folder();
    let a = Node::start(folder.path(), "a", &[]);
    let b = Node::linked(folder.path(), "b", &[&a]);

    // One object is there before anybody wants it, the other one comes to a waiting subscriber.
    let pushed_1 = a.json(&["push", "type.One", "--data", "first", "--header", "k=v"]).await;
    let subscribe = |node: &Node, object_type: &str| {
        let arguments = ["subscribe", object_type, "--count", "1", "-o", "json", "--node"];
        let mut command = command(&arguments);
        command.arg(&node.ready.clients).spawn().expect("dpc subscribe starts")
    };
    let (client_1, client_2) = (subscribe(&a, "type.Two"), subscribe(&b, "type.One"));
    let pushed_2 = b.json(&["push", "type.Two", "--data", "second"]).await;

    let (ran_1, ran_2) = tokio::join!(ended(client_1), ended(client_2));
    for (ran, pushed, data, origin, node, owner) in [
        (&ran_2, &pushed_1[0], "first", "a", &b, "b"),
        (&ran_1, &pushed_2[0], "second", "b", &a, "a"),
    ] {
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert_eq!(
            (&pushed["status"], &pushed["durability"]),
            (&"stored".into(), &"synced".into())
        );
        let delivered = ran.lines();
        assert_eq!(delivered.len(), 1);
        let delivered = &delivered[0];
        assert_eq!(delivered["id"], pushed["id"]);
        assert_eq!(delivered["data"], data);
        assert_eq!(delivered["origin"], origin);
        assert_eq!((&delivered["hops"], &delivered["delivery"]), (&1.into(), &1.into()));
        assert!(delivered["lease"]["token"].is_string() && delivered["pushed_at"].is_string());

        let id = pushed["id"].as_str().expect("an id");
        // Whoever is asked follows the object to where it ended.
        for asked in [&a, &b] {
            let object = asked.json(&["object", "get", id]).await.remove(0);
            assert_eq!(object["state"], "final", "{object}");
            assert_eq!((&object["owner"], &object["complete"]), (&owner.into(), &true.into()));
        }
        let trace = node.json(&["object", "trace", id, "--local"]).await;
        assert!(trace.iter().any(|decision| decision["decision"] == "receive"), "{trace:?}");
        assert!(trace.iter().any(|decision| decision["decision"] == "deliver"), "{trace:?}");
    }
    assert_eq!(ran_2.lines()[0]["headers"], serde_json::json!({"k": "v"}));
    assert_eq!((a.open().await, b.open().await), (0, 0));
    let mut nodes = [a, b];
    for node in &mut nodes {
        assert_eq!(node.stop(), Some(0), "a node that is asked to end ends well");
    }
}

#[tokio::test]
async fn lines_are_answered_in_order_and_settled_by_a_command() {
    let folder = folder();
    let a = Node::start(folder.path(), "a", &[]);
    let mut input = String::new();
    for n in 0..500 {
        input.push_str(&format!("{{\"type\":\"t.Lines\",\"data\":\"{n}\"}}\n"));
        if n == 250 {
            input.push_str("this is no object\n");
        }
    }
    let arguments = ["push", "--lines", "-o", "json", "--node", &a.ready.clients];
    let ran = support::cli_with_stdin(&arguments, input.as_bytes()).await;
    assert_eq!(ran.code, Some(1), "one line of them was refused: {}", ran.stderr);
    let results = ran.lines();
    assert_eq!(results.len(), 501);
    for (index, result) in results.iter().enumerate() {
        let expected = if index == 251 { "refused" } else { "stored" };
        assert_eq!(result["status"], expected, "line {index}: {result}");
    }
    assert_eq!(results[251]["error"]["reason"], "MALFORMED_LINE");

    // Exit 0 finalises, 75 gives back without blame, anything else blames the object.
    let script = "read n; case $DPC_DELIVERY$n in 17) exit 75;; 19) exit 3;; esac; exit 0";
    let arguments = ["subscribe", "t.Lines", "--exec", script, "--count", "502", "--credit", "8"];
    let ran = a.cli(&[arguments.as_slice(), &["-o", "json"]].concat()).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let delivered = ran.lines();
    assert_eq!(delivered.len(), 502);
    let again: Vec<_> = delivered.iter().filter(|line| line["delivery"] == 2).collect();
    let failed = |data: &str| {
        let line = again.iter().find(|line| line["data"] == data).expect("delivered again");
        line["failed_deliveries"].clone()
    };
    assert_eq!((failed("7"), failed("9")), (0.into(), 1.into()));
    assert_eq!(by_id(&delivered).len(), 500, "no other came twice");
    assert_eq!(a.open().await, 0);
}

#[tokio::test]
async fn a_transaction_is_all_or_nothing_on_the_embedded_store() {
    let folder = folder();
    is_all_or_nothing(&mut Node::start(folder.path(), "a", &[])).await;
}

#[tokio::test]
async fn a_lease_that_nobody_settles_outlives_its_subscriber() {
    let folder = folder();
    let a = Node::start(folder.path(), "a", &[]);
    let id = a.json(&["push", "t.None", "--data", "x"]).await[0]["id"].clone();
    let taken = a.json(&["subscribe", "t.None", "--settle", "none", "--count", "1"]).await;
    assert_eq!(taken[0]["id"], id);
    let id = id.as_str().expect("an id");
    let why = a.why(id).await;
    assert_eq!((&why["state"], &why["waits_for"]), (&"leased".into(), &"lease".into()), "{why}");
    // A script settles it by the token of the delivery line, once.
    let token = taken[0]["lease"]["token"].as_str().expect("a token");
    a.json(&["settle", token, "finalise"]).await;
    a.json(&["settle", token, "finalise"]).await;
    let other = a.cli(&["settle", token, "release", "-o", "json"]).await;
    assert_eq!((other.code, &other.error()["reason"]), (Some(1), &"LEASE_LOST".into()));
    assert_eq!(a.json(&["object", "get", id]).await[0]["state"], "final");
}

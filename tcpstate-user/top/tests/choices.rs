//! The choices that a person makes while it runs: the grouping of the services, and what is written to files.

#[path = "support/run.rs"]
mod run;
#[path = "support/screen.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod screen;
#[path = "../../tests/support/golden.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod support;

use std::sync::Arc;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use tcpstate_core::{
    diagnosis::{Finding, Place, RULES, Severity},
    model::By,
    present::RunSnapshot,
    service::Role,
};
use tcpstate_top::{Input, Then};

use self::run::Run;

#[test]
fn the_services_are_grouped_anew_by_a_key() {
    let mut run = Run::new();
    for _ in 0..3 {
        run.second();
    }
    run.press("2b");
    run.compare("services-by-comm-at-once");
    for _ in 0..2 {
        run.second();
    }
    run.compare("services-by-comm");
    // Back to the port, once around to the other side.
    run.press("B");
    let text = run.frame((80, 24));
    assert!(text.contains("by port and role since "), "{text}");
    assert!(text.contains("443 server"), "{text}");
    run.press("BBBBBBB");
    run.second();
    run.compare("services-by-raddr");
    run.press("b");
    run.second();
    run.compare("services-by-prefix");
    run.press("\n");
    let text = run.frame((80, 24));
    assert!(text.contains(" of 10.0.0.0/24"), "{text}");
}

#[test]
fn a_filter_leaves_the_services_with_a_connection_that_matches() {
    let mut run = Run::new();
    for _ in 0..3 {
        run.second();
    }
    let services = |run: &mut Run| -> Vec<String> {
        let text = run.frame((80, 24));
        let names = text.lines().skip_while(|line| !line.contains(" SERVICE "));
        let names = names.skip(1).take_while(|line| !line.is_empty());
        names.map(|line| line[1..22].trim().to_owned()).collect()
    };
    run.press("2");
    assert_eq!(services(&mut run), ["443 server", "5432 client"]);
    // Those that are refused have no connection that is open.
    for (filter, matched) in [
        ("state fin-wait-1", &["443 server"][..]),
        ("comm nginx and dst 10.0.0.1", &["443 server"]),
        ("dport 5432", &[]),
        ("dst 10.0.0.9", &[]),
    ] {
        run.press(&format!("/{filter}\n"));
        assert_eq!(services(&mut run), matched, "{filter}");
        let text = run.frame((80, 24));
        assert!(text.contains(&format!("matches {filter}")), "{text}");
        assert!(text.contains("[2 services]"), "{text}");
        run.press("\x1b");
        assert_eq!(services(&mut run).len(), 2, "{filter}");
    }
    // It holds for the list of a service, and comes back with the services.
    run.press("/state fin-wait-1\n\n");
    let text = run.frame((80, 24));
    assert!(
        text.contains("3 of 6 of 443 server state fin-wait-1"),
        "{text}"
    );
    let services_json = written(&mut run, "\x1b");
    assert_eq!(services_json[0].1["ports"].as_array().unwrap().len(), 1);
    assert!(
        services_json
            .iter()
            .skip(1)
            .all(|(_, line)| line["service_port"] == 443)
    );
    assert_eq!(services(&mut run), ["443 server"]);
    // One that was changed in the list is left first.
    run.press("\n/ or state established\n\x1b");
    let text = run.frame((80, 24));
    assert!(text.contains("6 of 6 of 443 server, by age"), "{text}");
    run.press("\x1b");
    assert_eq!(services(&mut run), ["443 server", "5432 client"]);
    // Other groups have the filter too.
    run.press("/comm nginx\nb");
    run.second();
    assert_eq!(services(&mut run), ["nginx"]);
}

#[test]
fn a_list_of_a_group_that_is_no_longer_there_is_left() {
    let mut run = Run::new();
    run.second();
    run.press("2\n");
    let text = run.frame((80, 24));
    assert!(text.contains(" of 443 server"), "{text}");
    run.press("2b3");
    let text = run.frame((80, 24));
    assert!(text.contains("2 of 2, by age"), "{text}");
    // The list of a group of the new kind.
    run.press("2\n");
    let text = run.frame((80, 24));
    assert!(text.contains(" of nginx"), "{text}");
}

#[test]
fn a_grouping_that_was_asked_for_is_told_until_it_is_there() {
    let mut run = Run::new();
    run.second();
    run.press("2");
    let key = KeyEvent::new(KeyCode::Char('b'), KeyModifiers::NONE);
    assert_eq!(run.app.update(Input::Key(key)), Then::GroupBy(By::Comm));
    let text = run.frame((80, 24));
    assert!(text.contains("; next by process name"), "{text}");
    run.publisher.asker().group_by(By::Comm);
    run.answer();
    let text = run.frame((80, 24));
    assert!(text.contains("by process name since"), "{text}");
    assert!(!text.contains("next by"), "{text}");
    // On other screens the key does nothing.
    run.press("1");
    assert_eq!(run.app.update(Input::Key(key)), Then::Nothing);
}

/// The lines of JSON that are written, each with its type.
fn written(run: &mut Run, keys: &str) -> Vec<(String, serde_json::Value)> {
    run.press(keys);
    run.frame((80, 24));
    let key = KeyEvent::new(KeyCode::Char('w'), KeyModifiers::NONE);
    assert_eq!(run.app.update(Input::Key(key)), Then::Write, "{keys}");
    let text = String::from_utf8(run.app.written().unwrap().text).unwrap();
    let lines = text.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        (line["type"].as_str().unwrap().to_owned(), line)
    });
    lines.collect()
}

#[test]
fn every_screen_is_written_as_the_commands_write_it() {
    let mut run = Run::new();
    for _ in 0..3 {
        run.second();
    }
    let types = |lines: &[(String, serde_json::Value)]| -> Vec<String> {
        let mut types: Vec<String> = lines.iter().map(|(of, _)| of.clone()).collect();
        types.dedup();
        types
    };
    let overview = written(&mut run, "1");
    assert_eq!(types(&overview), ["rates"]);
    assert_eq!(overview[0].1["opened"], 3);
    let services = written(&mut run, "2");
    assert_eq!(types(&services), ["rates", "histogram"]);
    assert_eq!(services[0].1["ports"].as_array().unwrap().len(), 2);
    let connections = written(&mut run, "3");
    assert_eq!(types(&connections), ["connection"]);
    let states: Vec<_> = connections
        .iter()
        .map(|(_, line)| line["states"].as_array().unwrap().last().unwrap()["state"].clone())
        .collect();
    // In the order of the screen: the oldest first.
    assert_eq!(
        states,
        [
            "ESTABLISHED",
            "FIN_WAIT1",
            "ESTABLISHED",
            "FIN_WAIT1",
            "ESTABLISHED",
            "FIN_WAIT1"
        ]
    );
    let machine = written(&mut run, "4");
    assert_eq!(types(&machine), ["states"]);
    let dwell = written(&mut run, "5");
    assert_eq!(types(&dwell), ["histogram"]);
    assert!(dwell.iter().all(|(_, line)| line["state"] == "ESTABLISHED"));
    let connection = written(&mut run, "3\n");
    assert_eq!(types(&connection), ["connection"]);
    assert_eq!(connection.len(), 1);
    assert_eq!(connection[0].1, connections[0].1);
    let explanation = written(&mut run, "1jje");
    assert_eq!(types(&explanation), ["explained_state"]);
}

#[test]
fn the_name_of_a_file_is_told_until_the_next_key() {
    let mut run = Run::new();
    run.second();
    run.press("2");
    let stem = run.app.written().unwrap().stem;
    let (name, at) = stem.split_at("tcpstate-services-".len());
    assert_eq!(
        (name, at.len()),
        ("tcpstate-services-", "20260101-000000".len())
    );
    run.app.update(Input::Written(Ok(format!("{stem}.json"))));
    let text = run.frame((40, 12));
    let last = text.lines().last().unwrap();
    assert!(last.starts_with(&format!("{stem}.json")), "{text}");
    run.press("1");
    let text = run.frame((80, 24));
    assert!(!text.contains("json"), "{text}");
    run.app.update(Input::Written(Err(
        "Permission denied (os error 13)".to_owned()
    )));
    let text = run.frame((80, 24));
    assert!(
        text.contains("no file written: Permission denied"),
        "{text}"
    );
    // A key that means nothing else takes it away.
    run.press("x");
    assert!(run.frame((80, 24)).contains("q quit"));
    // The last minutes are those up to now, whatever is on top.
    run.press("?");
    let key = KeyEvent::new(KeyCode::Char('W'), KeyModifiers::NONE);
    assert_eq!(run.app.update(Input::Key(key)), Then::Record);
    let stem = run.app.stem_of_recording().unwrap();
    let (name, at) = stem.split_at("tcpstate-".len());
    assert_eq!((name, at.len()), ("tcpstate-", "20260101-000000".len()));
    // Help is no content.
    let key = KeyEvent::new(KeyCode::Char('w'), KeyModifiers::NONE);
    assert_eq!(run.app.update(Input::Key(key)), Then::Nothing);
    assert!(run.app.written().is_none());
}

#[test]
fn the_times_in_a_state_are_those_of_one_service() {
    let mut run = Run::new();
    for _ in 0..5 {
        run.second();
    }
    // SYN_SENT ends at the client, SYN_RECV at the server.
    let ended = |run: &mut Run| -> u64 {
        let text = run.frame((120, 40));
        let title = text.lines().nth(1).unwrap().to_owned();
        let (before, _) = title.split_once(" ended").unwrap();
        before.rsplit(' ').next().unwrap().parse().unwrap()
    };
    run.press("5");
    assert_eq!(ended(&mut run), 5, "nginx closes one a second");
    run.press("p");
    run.compare("dwell-of-a-service");
    assert_eq!(ended(&mut run), 5);
    run.press("hh");
    assert!(
        run.frame((80, 24))
            .contains("time in SYN_SENT of 443 server, 0 ended")
    );
    run.press("p");
    let text = run.frame((80, 24));
    assert!(
        text.contains("time in SYN_SENT of 5432 client, 5 ended"),
        "{text}"
    );
    let lines = written(&mut run, "");
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].1["service_port"], 5432);
    run.press("p");
    assert!(run.frame((80, 24)).contains("time in SYN_SENT, 5 ended"));
    // Of other groups it begins with them.
    run.press("2b5");
    run.second();
    run.press("p");
    let text = run.frame((80, 24));
    assert!(text.contains("time in SYN_SENT of curl, 1 ended"), "{text}");
}

#[test]
fn findings_of_a_kind_take_one_line_and_open_together() {
    let mut run = Run::new();
    let findings = vec![
        finding("close_wait_leak", Severity::Warning, 80),
        finding("connects_fail", Severity::Note, 1),
        finding("connects_fail", Severity::Note, 2),
        finding("connects_fail", Severity::Note, 3),
    ];
    run.second();
    let snapshot = RunSnapshot {
        findings: Some(findings),
        ..RunSnapshot::clone(&run.subscriber.latest().unwrap())
    };
    run.app.update(Input::Snapshot(Arc::new(snapshot)));
    run.compare("overview-of-many-findings");
    let text = run.frame((80, 24));
    assert_eq!(text.matches("connects_fail").count(), 1, "{text}");
    assert!(text.contains("connects_fail (3): client port 1"), "{text}");
    // The last item of the overview stands for all three.
    run.press("G\n");
    let text = run.frame((120, 80));
    for port in 1..=3 {
        assert!(text.contains(&format!("client port {port}")), "{text}");
    }
    let lines = run.app.written().unwrap();
    assert_eq!(String::from_utf8(lines.text).unwrap().lines().count(), 3);
    run.press("e");
    let text = run.frame((80, 24));
    assert!(
        text.starts_with("tcpstate top") && text.contains("connects_fail: "),
        "{text}"
    );
}

fn finding(name: &str, severity: Severity, port: u16) -> Finding {
    let rule = RULES.iter().find(|rule| rule.text.name == name).unwrap();
    Finding::new(
        &rule.text,
        severity,
        Place {
            role: Role::Client,
            port: Some(port),
            ..Place::default()
        },
        format!("{port} of them"),
    )
}

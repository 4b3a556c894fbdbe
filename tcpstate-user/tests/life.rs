//! `tcpstate life`: its output is compared with `tests/golden`, and its selection of connections is tested.

#[path = "support/golden.rs"]
mod support;

use std::time::Duration;

use jiff::tz::TimeZone;
use serde_json::Value;
use tcpstate_common::State;
use tcpstate_core::{
    expression::Expression,
    options::{Format, Until},
    view::{Flow, View},
};
use tcpstate_text::{
    format::text::Columns,
    life::{Life, Options},
    settings::Settings,
};

use self::support::{compare, end, events, names, origin};

fn options(format: Format) -> Options {
    Options {
        settings: Settings {
            zone: TimeZone::fixed(jiff::tz::offset(1)),
            ..Settings::plain(format)
        },
        live: false,
        until: Until::Close,
        expression: Expression::default(),
        states: None,
        causes: None,
        longer_than: None,
        count: None,
        columns: Columns::Usual,
        time: false,
        timestamp: false,
        reset_reason: false,
    }
}

/// Standard output and standard error of a whole run.
fn run(options: &Options) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut life = Life::new(options);
    life.set_names(names());
    life.start(&origin(), &mut out).unwrap();
    for event in events() {
        if life.event(&event, &mut out).unwrap() == Flow::Done {
            break;
        }
    }
    life.finish(&end(), &mut out, &mut err).unwrap();
    (
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
    )
}

/// The connections of a run, and its summary.
fn lines(options: &Options) -> (Vec<Value>, Value) {
    let (out, err) = run(&Options {
        settings: Settings {
            format: Format::Json,
            ..options.settings.clone()
        },
        ..options.clone()
    });
    assert_eq!(err, "");
    let mut lines: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let summary = lines.pop().unwrap();
    assert_eq!(summary["type"], "summary");
    assert_eq!(summary["shown"], lines.len());
    (lines, summary)
}

fn cookies(options: &Options) -> Vec<Option<u64>> {
    lines(options)
        .0
        .iter()
        .map(|line| line["cookie"].as_u64())
        .collect()
}

#[test]
fn text() {
    let (out, err) = run(&options(Format::Text));
    compare("life.txt", &out);
    compare("life.stderr.txt", &err);
}

#[test]
fn text_with_open_connections_and_the_time() {
    let options = Options {
        live: true,
        time: true,
        ..options(Format::Text)
    };
    compare("life-live.txt", &run(&options).0);
}

/// IPv4 and IPv6; no line is wider than the terminal.
#[test]
fn text_on_a_terminal() {
    let on_a_terminal = |width| {
        let mut options = Options {
            live: true,
            ..options(Format::Text)
        };
        options.settings.width = Some(width);
        run(&options).0
    };
    for width in [40, 80, 200] {
        compare(&format!("life-{width}.txt"), &on_a_terminal(width));
    }
    for width in 1..300 {
        let out = on_a_terminal(width);
        let widest = out.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(width), "{width}:\n{out}");
    }
}

#[test]
fn json_and_csv() {
    for (format, name) in [(Format::Json, "life.jsonl"), (Format::Csv, "life.csv")] {
        let options = Options {
            live: true,
            ..options(format)
        };
        compare(name, &run(&options).0);
    }
}

/// CSV and JSON have the same values under the same names, and the dwells sum to the lifetime.
#[test]
fn csv_has_the_fields_of_json() {
    let all = Options {
        live: true,
        ..options(Format::Csv)
    };
    let (lines, _) = lines(&all);
    let csv = run(&all).0;
    let mut rows = csv::Reader::from_reader(csv.as_bytes());
    let titles = rows.headers().unwrap().clone();
    let rows: Vec<csv::StringRecord> = rows.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), lines.len());
    for (row, line) in rows.iter().zip(&lines) {
        let mut fields = 0;
        for (title, value) in titles.iter().zip(row) {
            if let Some(state) = title.strip_suffix("_ns").and_then(State::from_name) {
                assert_eq!(value, dwell(line, state), "{title}");
                continue;
            }
            if title == "sampled" {
                // Marked in each element of `states`.
                let stays = line["states"].as_array().unwrap().iter();
                let sampled = stays.filter(|stay| stay["sampled"] == true);
                let names = sampled.map(|stay| stay["state"].as_str().unwrap());
                assert_eq!(value, names.collect::<Vec<_>>().join(" "));
                continue;
            }
            if title == "dwell_at_least_ns" {
                let stays = line["states"].as_array().unwrap().iter();
                let mut bounds = stays.filter_map(|stay| stay[title].as_u64());
                let bound = bounds.next().map(|ns| ns.to_string());
                assert_eq!(value, bound.unwrap_or_default());
                continue;
            }
            fields += 1;
            let expected = match title.strip_prefix("owner_") {
                Some(inner) => &line["owner"][inner],
                None => &line[title],
            };
            match expected {
                Value::Null => assert_eq!(value, "", "{title}"),
                Value::Array(stays) => {
                    let path = stays.iter().map(|stay| match &stay["state"] {
                        Value::String(name) => name.clone(),
                        number => number.to_string(),
                    });
                    assert_eq!(value, path.collect::<Vec<_>>().join(" "));
                }
                // Has an escape syntax of its own.
                Value::String(_) if title == "owner_comm" => assert_ne!(value, ""),
                Value::String(text) => assert_eq!(value, text, "{title}"),
                other => assert_eq!(value, other.to_string(), "{title}"),
            }
        }
        // CSV has no `type` and no `processes`, and has `owner` in three columns.
        assert_eq!(fields, line.as_object().unwrap().len() - 2 + 2);
    }
}

/// The sum of all stays in the state, in the format of CSV.
fn dwell(line: &Value, state: State) -> String {
    let stays = line["states"].as_array().unwrap();
    let stays: Vec<&Value> = stays
        .iter()
        .filter(|stay| stay["state"] == state.to_string())
        .map(|stay| &stay["dwell_ns"])
        .collect();
    let sum: Option<u64> = stays.iter().map(|dwell| dwell.as_u64()).sum();
    match sum {
        Some(ns) if !stays.is_empty() => ns.to_string(),
        _ => String::new(),
    }
}

#[test]
fn the_dwells_sum_to_the_lifetime() {
    let (lines, _) = lines(&Options {
        live: true,
        ..options(Format::Json)
    });
    let mut whole = 0;
    for line in &lines {
        let stays = line["states"].as_array().unwrap();
        let sum: Option<u64> = stays.iter().map(|stay| stay["dwell_ns"].as_u64()).sum();
        if line["goes_on"] == "FIN_WAIT2" {
            // Only the socket was freed.
            let last = stays.last().unwrap();
            assert_eq!(
                (&last["state"], &last["dwell_ns"]),
                (&line["goes_on"], &Value::Null)
            );
            continue;
        }
        // All dwells are known or none is: this run has no gaps.
        assert_eq!(line["lifetime_ns"].as_u64(), sum, "{line}");
        whole += u64::from(sum.is_some());
    }
    assert!(whole >= 3, "{whole} of {}", lines.len());
}

#[test]
fn the_open_ones_come_only_when_asked_for() {
    let ended = cookies(&options(Format::Json));
    let all = cookies(&Options {
        live: true,
        ..options(Format::Json)
    });
    assert_eq!(all[..ended.len()], ended);
    assert!(all.len() > ended.len());
    let (lines, _) = lines(&Options {
        live: true,
        ..options(Format::Json)
    });
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line["ended"], index < ended.len(), "{line}");
    }
}

#[test]
fn longer_than_is_about_the_lifetime() {
    let longer = |time| Options {
        longer_than: Some(time),
        ..options(Format::Json)
    };
    // It existed before the capture, for an unknown time, and then for 60 s.
    let (lines, summary) = lines(&longer(Duration::from_secs(59)));
    let found: Vec<_> = lines.iter().map(|line| &line["cookie"]).collect();
    assert_eq!(found, [1_234_567_890, 4_102]);
    assert_eq!(lines[0]["lifetime_ns"], Value::Null);
    assert_eq!(summary["time_unknown"], 0);
    // 60.4985 s is exactly the limit, and not longer.
    let exactly = Duration::from_micros(60_498_500);
    let shorter = Duration::from_micros(60_498_499);
    assert_eq!(cookies(&longer(exactly)), []);
    assert_eq!(cookies(&longer(shorter)), [Some(4_102)]);
    // The dwell of the first one is unknown.
    let (_, summary) = self::lines(&longer(exactly));
    assert_eq!(summary["time_unknown"], 1);
}

#[test]
fn longer_than_with_a_state_is_about_the_time_in_it() {
    let stuck = Options {
        states: Some("CLOSE_WAIT".parse().unwrap()),
        longer_than: Some(Duration::from_secs(30)),
        ..options(Format::Json)
    };
    let (lines, summary) = lines(&stuck);
    let found: Vec<_> = lines.iter().map(|line| &line["cookie"]).collect();
    assert_eq!(found, [4_102]);
    // Another one left CLOSE_WAIT after an unknown time.
    assert_eq!(summary["time_unknown"], 1);
    let text = Options {
        settings: Settings {
            format: Format::Text,
            ..stuck.settings.clone()
        },
        ..stuck
    };
    let (_, err) = run(&text);
    let words = "\n1 connection not shown, because what was asked for is unknown\n";
    assert!(err.contains(words), "{err}");
}

/// Finds leaks: a connection that has been in a state for long is shown while it is there.
#[test]
fn open_connections_are_selected_by_their_age_in_the_state() {
    let stuck = |state: &str, time| Options {
        live: true,
        states: Some(state.parse().unwrap()),
        longer_than: Some(time),
        ..options(Format::Json)
    };
    let second = Duration::from_secs(1);
    // The connection of Postgres is in LAST_ACK since 62.1 s, and the run ends at 65 s.
    let (lines, _) = lines(&stuck("LAST_ACK", 2 * second));
    let open = lines.last().unwrap();
    assert_eq!(
        (&open["ended"], &open["owner"]),
        (&false.into(), &Value::Null)
    );
    assert_eq!(
        open["states"][2],
        serde_json::json!({"state": "LAST_ACK", "dwell_ns": 2_899_999_211u64, "sampled": false})
    );
    let longer = self::lines(&stuck("LAST_ACK", 3 * second)).0;
    assert!(
        longer.iter().all(|line| line["ended"] == true),
        "{longer:?}"
    );
}

#[test]
fn connections_are_chosen_by_the_cause_of_their_end() {
    let of = |causes: &str| {
        cookies(&Options {
            causes: Some(causes.parse().unwrap()),
            live: true,
            ..options(Format::Json)
        })
    };
    assert_eq!(of("refused"), [Some(4_103)]);
    assert_eq!(
        of("reset_by_peer,fin"),
        [Some(4_101), Some(1_234_567_890), Some(4_102), Some(4_105)]
    );
    // An open connection has no cause of its end.
    assert!(of("timed_out,unknown").is_empty());
}

#[test]
fn as_many_connections_are_shown_as_asked_for() {
    for count in [1, 3] {
        let some = Options {
            count: Some(count),
            live: true,
            ..options(Format::Json)
        };
        assert_eq!(lines(&some).0.len() as u64, count);
    }
}

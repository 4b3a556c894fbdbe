use std::{net::SocketAddr, sync::Arc};

use serde_json::{Value, json};
use tcpstate_common::record::{AF_INET, AF_INET6};
use tcpstate_core::{
    books::CaptureCost,
    expression::NoNames,
    inventory::{DumpStats, Listening, TcpInfo},
    names::{NameBook, Names},
};

use super::*;

const NETNS: u32 = 4_026_531_833;

fn socket(cookie: u64, state: State, local: &str, remote: &str) -> Socket {
    let (local, remote): (SocketAddr, SocketAddr) =
        (local.parse().unwrap(), remote.parse().unwrap());
    Socket {
        netns: NETNS,
        cookie,
        family: if local.is_ipv4() { AF_INET } else { AF_INET6 },
        state,
        laddr: local.ip(),
        lport: local.port(),
        raddr: remote.ip(),
        rport: remote.port(),
        interface: None,
        timer: None,
        rqueue: 0,
        wqueue: 0,
        uid: None,
        inode: None,
        cgroup: None,
        shutdown: None,
        v6only: None,
        drops: None,
        info: None,
    }
}

fn timer(kind: TimerKind, expires_ms: u32, retransmits: u8) -> Timer {
    Timer {
        kind,
        expires_ms,
        retransmits,
    }
}

/// One of each kind, out of order.
fn inventory() -> Inventory {
    let sockets = vec![
        Socket {
            timer: Some(timer(TimerKind::TimeWait, 59_900, 0)),
            ..socket(5, State::TIME_WAIT, "192.0.2.1:443", "203.0.113.9:51000")
        },
        Socket {
            timer: Some(timer(TimerKind::Retransmit, 1_500, 1)),
            ..socket(4, State::SYN_RECV, "192.0.2.1:443", "203.0.113.8:52000")
        },
        Socket {
            uid: Some(1_000),
            inode: Some(77),
            cgroup: Some(4_242),
            wqueue: 1_448,
            shutdown: Some(0),
            interface: Some(2),
            timer: Some(timer(TimerKind::Other(9), 204, 0)),
            info: Some(TcpInfo {
                srtt_us: Some(1_250),
                retransmits: Some(2),
                bytes_received: Some(20_000),
                bytes_sent: Some(1_000),
                last_sent_ms: Some(3),
                last_received_ms: Some(4),
                last_ack_received_ms: Some(5),
                ..TcpInfo::default()
            }),
            ..socket(
                3,
                State::ESTABLISHED,
                "192.0.2.1:40000",
                "198.51.100.2:5432",
            )
        },
        Socket {
            uid: Some(0),
            inode: Some(78),
            rqueue: 3,
            wqueue: 128,
            v6only: Some(false),
            ..socket(1, State::LISTEN, "[::]:443", "[::]:0")
        },
        Socket {
            info: Some(TcpInfo {
                last_ack_received_ms: Some(17_210),
                last_received_ms: Some(20_000),
                ..TcpInfo::default()
            }),
            ..socket(6, State::CLOSE_WAIT, "192.0.2.1:22", "192.0.2.7:50000")
        },
        socket(7, State(200), "192.0.2.1:40001", "192.0.2.7:50001"),
    ];
    let book = NameBook::default();
    book.add_paths([(4_242, "/system.slice/web.service")]);
    let listening = Listening::new(&sockets, [(NETNS, 32_768..=60_999)], |one| one.age(true));
    Inventory {
        sockets,
        superseded: 1,
        namespaces: vec![DumpedNetns {
            netns: NETNS,
            name: "self".into(),
            ts_ns: 5_000_000_000_000,
            wall_ns: 1_769_862_896_000_000_789,
            took_ns: 0,
            never_deferred: true,
            dump: DumpStats {
                answers: 9,
                malformed: 2,
                repeats: 1,
                inconsistent: true,
            },
        }],
        hidden: 0,
        hidden_files: 0,
        who_sees: "root sees them",
        undumped: vec!["7 (blue): cannot enter it".into()],
        missing: Vec::new(),
        listening,
        holders: None,
        names: Names::new(Arc::new(book)),
    }
}

fn options(format: Format) -> Options {
    Options {
        settings: Settings::plain(format),
        states: None,
        expression: Expression::default(),
        columns: Columns::Usual,
        with_owner: false,
        with_cgroup: false,
        with_info: false,
        verbose: false,
    }
}

fn cost() -> Cost {
    Cost {
        cpu_ns: 1_000,
        max_rss_bytes: Some(4_096),
        capture: CaptureCost::default(),
    }
}

fn written(inventory: &Inventory, options: &Options) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    write(inventory, options, cost, &mut out, &mut err).unwrap();
    (
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
    )
}

fn json(inventory: &Inventory, options: &Options) -> (Vec<Value>, Value) {
    let (out, err) = written(inventory, options);
    assert_eq!(err, "");
    let mut lines: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let summary = lines.pop().unwrap();
    (lines, summary)
}

#[test]
fn text_is_sorted_and_says_what_is_not_known() {
    let (out, err) = written(&inventory(), &options(Format::Text));
    assert_eq!(
        out,
        "\
STATE            AGE ROLE   SERVICE RECV-Q SEND-Q LOCAL                 REMOTE                  UID TIMER
LISTEN             - server     443      3    128 [::]:443              [::]:-                    0 -
ESTABLISHED        - client    5432      0   1448 192.0.2.1:40000       198.51.100.2:5432      1000 9 204 ms
SYN_RECV     >990 ms server     443      0      0 192.0.2.1:443         203.0.113.8:52000         - retransmit 1.50 s (1)
TIME_WAIT     100 ms server     443      0      0 192.0.2.1:443         203.0.113.9:51000         - timewait 59.9 s
CLOSE_WAIT   >17.2 s -            -      0      0 192.0.2.1:22          192.0.2.7:50000           - -
200                - -            -      0      0 192.0.2.1:40001       192.0.2.7:50001           - -
"
    );
    assert_eq!(
        err,
        "\
6 sockets: ESTABLISHED 1, SYN_RECV 1, TIME_WAIT 1, CLOSE_WAIT 1, LISTEN 1, 200 1
The kernel does not record when a state began: AGE is `-`, or `>` and a lower bound by the last packet. `tcpstate trace` measures ages, from the moment it runs.
REJECTED 2: the kernel described sockets in a way that could not be read.
INCONSISTENT: sockets of network namespace 4026531833 (self) came and went while they were listed; some may be missing.
MISSING: network namespace 7 (blue): cannot enter it.
"
    );
}

#[test]
fn namespaces_that_could_not_be_dumped_take_a_line() {
    let mut inventory = inventory();
    let missing = |inventory: &Inventory, verbose: bool| -> Vec<String> {
        let options = Options {
            verbose,
            ..options(Format::Text)
        };
        let err = written(inventory, &options).1;
        let lines = err.lines().filter(|line| line.starts_with("MISSING"));
        lines.map(str::to_owned).collect()
    };
    inventory.undumped.push("8 (red): cannot enter it".into());
    inventory.hidden = 5;
    let hidden = "5 processes of other users may be in network namespaces that are hidden from this one; root sees them";
    let first = "2 network namespaces, the first 7 (blue): cannot enter it";
    let in_short = format!("MISSING: {first}; {hidden} (-v names each).");
    assert_eq!(missing(&inventory, false), [in_short]);
    let each = [
        "MISSING: network namespace 7 (blue): cannot enter it.".to_owned(),
        "MISSING: network namespace 8 (red): cannot enter it.".to_owned(),
        format!("MISSING: {hidden}."),
    ];
    assert_eq!(missing(&inventory, true), each);
}

#[test]
fn text_has_more_columns_if_asked() {
    let mut options = Options {
        states: Some("established".parse().unwrap()),
        with_owner: true,
        with_cgroup: true,
        with_info: true,
        ..options(Format::Text)
    };
    options.settings.several_netns = true;
    let (out, _) = written(&inventory(), &options);
    let words: Vec<Vec<&str>> = out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let titles = "NETNS STATE AGE ROLE SERVICE RECV-Q SEND-Q LOCAL REMOTE UID PID COMM \
        CGROUP SENT RECEIVED RETR RTT LAST-PKT TIMER";
    assert_eq!(words[0].join(" "), titles);
    let line = "4026531833 ESTABLISHED - client 5432 0 1448 192.0.2.1:40000 198.51.100.2:5432 1000 \
        - - /system.slice/web.service 1000 B 19.5 KiB 2 1.25 ms 4.00 ms 9 204 ms";
    assert_eq!(words[1].join(" "), line);
    assert_eq!(words.len(), 2);
}

fn on_a_terminal(width: usize) -> String {
    let mut inventory = inventory();
    inventory.sockets.push(socket(
        9,
        State::ESTABLISHED,
        "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:1111]:40000",
        "[2001:db8:1:2:3:4:5:6]:443",
    ));
    let mut options = options(Format::Text);
    options.settings.width = Some(width);
    written(&inventory, &options).0
}

#[test]
fn on_a_terminal_lines_are_fitted_to_its_width() {
    assert_eq!(
        on_a_terminal(40),
        "\
STATE       LOCAL  REMOTE
LISTEN      :443   [::]:-
ESTABLISHED :40000 [2001:d..3:4:5:6]:443
ESTABLISHED :40000 198.51.100.2:5432
SYN_RECV    :443   203.0.113.8:52000
TIME_WAIT   :443   203.0.113.9:51000
CLOSE_WAIT  :22    192.0.2.7:50000
200         :40001 192.0.2.7:50001
"
    );
    assert_eq!(
        on_a_terminal(80),
        "\
STATE       RECV-Q SEND-Q LOCAL                        REMOTE
LISTEN           3    128 [::]:443                     [::]:-
ESTABLISHED      0      0 [2001:db8:..eeee:1111]:40000 [2001:db8..2:3:4:5:6]:443
ESTABLISHED      0   1448 192.0.2.1:40000              198.51.100.2:5432
SYN_RECV         0      0 192.0.2.1:443                203.0.113.8:52000
TIME_WAIT        0      0 192.0.2.1:443                203.0.113.9:51000
CLOSE_WAIT       0      0 192.0.2.1:22                 192.0.2.7:50000
200              0      0 192.0.2.1:40001              192.0.2.7:50001
"
    );
    for width in 1..300 {
        let out = on_a_terminal(width);
        let widest = out.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(width), "{width}:\n{out}");
    }
    // Nothing is cut where there is room.
    let wide = on_a_terminal(200);
    assert!(!wide.contains(".."), "{wide}");
    assert!(wide.contains("COOKIE") && wide.contains("sk:3"), "{wide}");
}

#[test]
fn a_terminal_shows_the_counters_beside_the_ends_and_the_age() {
    let shown = |width: usize, with_owner: bool| {
        let mut options = Options {
            with_info: true,
            with_owner,
            ..options(Format::Text)
        };
        options.settings.width = Some(width);
        written(&inventory(), &options).0
    };
    assert_eq!(
        shown(80, true),
        "\
STATE           AGE LOCAL  REMOTE            PID   SENT RECEIVED RETR     RTT
LISTEN            - :443   [::]:-              -      -        -    -       -
ESTABLISHED       - :40000 198.51.100.2:5432   - 1000 B 19.5 KiB    2 1.25 ms
SYN_RECV    >990 ms :443   203.0.113.8:52000   -      -        -    -       -
TIME_WAIT    100 ms :443   203.0.113.9:51000   -      -        -    -       -
CLOSE_WAIT  >17.2 s :22    192.0.2.7:50000     -      -        -    -       -
200               - :40001 192.0.2.7:50001     -      -        -    -       -
"
    );
    for width in 1..300 {
        let out = shown(width, true);
        let widest = out.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(width), "{width}:\n{out}");
    }
    assert!(!shown(300, false).contains("PID"));
    assert!(shown(120, true).contains("COMM"));
}

#[test]
fn json_has_every_field_and_the_books_last() {
    let (lines, summary) = json(
        &inventory(),
        &Options {
            with_info: true,
            ..options(Format::Json)
        },
    );
    // The macro expands no more fields at once.
    let mut expected = json!({
        "container": null, "container_name": null, "pod": null, "pod_namespace": null, "pod_uid": null,
    });
    expected.as_object_mut().unwrap().extend(
        json!({
            "type": "socket", "ts": "2026-01-31T12:34:56.000000789Z", "ts_ns": 5_000_000_000_000u64,
            "cookie": 3, "netns": NETNS, "family": "ipv4",
            "laddr": "192.0.2.1", "lport": 40000, "raddr": "198.51.100.2", "rport": 5432,
            "service_port": 5432, "role": "client", "owner": null, "uid": 1000,
            "cgroup": "/system.slice/web.service", "cgroup_id": 4242, "unit": "web.service",
            "state": "ESTABLISHED", "accepted": null, "age_ns": null, "age_at_least_ns": null,
            "recv_queue": 0, "send_queue": 1448,
            "half_open": null, "half_open_oldest_ms": null,
            "half_open_oldest_at_least_ms": null,
            "timer": {"kind": "other", "expires_ms": 204, "retransmits": 0},
            "interface": 2, "inode": 77, "shutdown": 0,
            "bytes_sent": 1000, "bytes_received": 20000, "retransmits": 2, "srtt_us": 1250,
            "last_sent_ms": 3, "last_received_ms": 4, "last_packet_ms": 4, "processes": null,
        })
        .as_object()
        .unwrap()
        .clone(),
    );
    assert_eq!(lines[1], expected);
    let listener = &lines[0];
    assert_eq!(listener["half_open"], 1);
    assert_eq!(listener["half_open_oldest_ms"], Value::Null);
    assert_eq!(listener["half_open_oldest_at_least_ms"], 990);
    assert_eq!(listener["rport"], 0);
    assert_eq!(
        summary,
        json!({
            "type": "summary",
            "complete": false,
            "accounting": {
                "seen": 9, "shown": 6, "filtered": 0, "undecided": 0, "superseded": 1, "rejected": 2,
            },
            "states": {
                "ESTABLISHED": 1, "SYN_RECV": 1, "TIME_WAIT": 1, "CLOSE_WAIT": 1, "LISTEN": 1, "200": 1,
            },
            "namespaces": [{"netns": NETNS, "name": "self", "repeats": 1, "inconsistent": true}],
            "missing": ["network namespace 7 (blue): cannot enter it"],
            "self": {
                "cpu_ns": 1000, "max_rss_bytes": 4096, "bpf_run_ns": null, "bpf_run_count": null,
                "ring_high_water_bytes": null,
            },
        })
    );
}

#[test]
fn the_books_add_up_whatever_is_asked_for() {
    let inventory = inventory();
    for states in ["all", "listen", "bucket", "close"] {
        for port in ["", "sport 443", "sport 1"] {
            let options = Options {
                states: Some(states.parse().unwrap()),
                expression: Expression::parse(port, &NoNames).unwrap(),
                ..options(Format::Json)
            };
            let (lines, summary) = json(&inventory, &options);
            let books = |name: &str| summary["accounting"][name].as_u64().unwrap();
            assert_eq!(books("shown"), lines.len() as u64);
            let gone = books("filtered") + books("superseded") + books("rejected");
            assert_eq!(books("seen"), books("shown") + gone);
        }
    }
}

#[test]
fn what_an_expression_cannot_decide_is_counted() {
    let inventory = inventory();
    let by = |text: &str, format| Options {
        expression: Expression::parse(text, &NoNames).unwrap(),
        ..options(format)
    };
    let shown = |text: &str| {
        let (lines, summary) = json(&inventory, &by(text, Format::Json));
        let books = &summary["accounting"];
        let states = lines
            .iter()
            .map(|line| line["state"].as_str().unwrap().to_owned());
        assert_eq!(books["filtered"], 6 - lines.len());
        (
            states.collect::<Vec<_>>(),
            books["undecided"].as_u64().unwrap(),
        )
    };
    assert_eq!(shown("state listen"), (vec!["LISTEN".to_owned()], 0));
    // Without --info too: nothing but ESTABLISHED has it here.
    assert_eq!(
        shown("bytes_sent > 999"),
        (vec!["ESTABLISHED".to_owned()], 5)
    );
    assert_eq!(shown("bytes_sent > 1000 or dport = 1"), (vec![], 5));
    let (_, err) = written(&inventory, &by("bytes_sent > 999", Format::Text));
    assert!(err.contains("UNDECIDED 5 sockets: "), "{err}");
}

#[test]
fn half_open_is_unknown_where_they_were_not_asked_for() {
    let options = Options {
        states: Some("listen".parse().unwrap()),
        ..options(Format::Json)
    };
    let (lines, _) = json(&inventory(), &options);
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["half_open"], Value::Null);
}

/// A JSON value as CSV has it.
fn field(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[test]
fn csv_says_what_json_says() {
    let inventory = inventory();
    let (lines, _) = json(&inventory, &options(Format::Json));
    let (out, err) = written(&inventory, &options(Format::Csv));
    assert!(err.starts_with("6 sockets"), "{err}");
    let mut reader = csv::Reader::from_reader(out.as_bytes());
    let titles = reader.headers().unwrap().clone();
    let rows: Vec<_> = reader.records().map(|row| row.unwrap()).collect();
    assert_eq!(rows.len(), lines.len());
    for (row, line) in rows.iter().zip(&lines) {
        let mut fields = 0;
        for (title, value) in titles.iter().zip(row) {
            let (object, key) = match title.split_once('_') {
                Some((object @ ("owner" | "timer"), key)) => (&line[object], key),
                _ => (line, title),
            };
            assert_eq!(
                value,
                field(object.get(key).unwrap_or(&Value::Null)),
                "{title}"
            );
            fields += 1;
        }
        // All but `type` and `processes`; an object of three fields for `owner` and for `timer`.
        assert_eq!(fields, line.as_object().unwrap().len() - 2 + 2 + 2);
    }
}

#[test]
fn an_age_is_exact_a_bound_or_unknown() {
    const MS: u64 = 1_000_000;
    let ages = |inventory: &Inventory| {
        let (lines, _) = json(inventory, &options(Format::Json));
        let ages = lines.into_iter().map(|line| {
            (
                line["cookie"].as_u64().unwrap(),
                line["age_ns"].as_u64(),
                line["age_at_least_ns"].as_u64(),
            )
        });
        let mut ages: Vec<_> = ages.collect();
        ages.sort_unstable();
        ages
    };
    let mut inventory = inventory();
    assert_eq!(
        ages(&inventory),
        [
            (1, None, None),
            (3, None, None),
            (4, None, Some(990 * MS)),
            (5, Some(100 * MS), None),
            // The FIN came with the last packet, after the last data.
            (6, None, Some(17_200 * MS)),
            (7, None, None),
        ]
    );
    // The dump took a while, in which they may have grown older.
    inventory.namespaces[0].took_ns = 500 * MS;
    let bounds = ages(&inventory);
    assert_eq!(bounds[2], (4, None, Some(490 * MS)));
    assert_eq!(bounds[3], (5, Some(100 * MS), None));
    assert_eq!(bounds[4], (6, None, Some(16_700 * MS)));
}

#[test]
fn the_last_packet_bounds_the_time_in_states_that_a_packet_begins() {
    let bound_ms = |state, last_ack_received_ms, last_sent_ms| {
        let socket = Socket {
            info: Some(TcpInfo {
                last_ack_received_ms: Some(last_ack_received_ms),
                last_sent_ms: Some(last_sent_ms),
                last_received_ms: Some(9_000_000),
                ..TcpInfo::default()
            }),
            ..socket(1, state, "192.0.2.1:22", "192.0.2.7:50000")
        };
        let age = socket.age(true);
        assert!(age.is_none_or(|age| !age.is_exact));
        age.map(|age| age.at_least_ns / 1_000_000)
    };
    assert_eq!(bound_ms(State::ESTABLISHED, 5_010, 7_010), Some(7_000));
    assert_eq!(bound_ms(State::ESTABLISHED, 8_010, 7_010), Some(8_000));
    assert_eq!(bound_ms(State::CLOSE_WAIT, 5_010, 7_010), Some(5_000));
    assert_eq!(bound_ms(State::FIN_WAIT2, 5_010, 7_010), Some(5_000));
    assert_eq!(bound_ms(State::CLOSING, 5_010, 7_010), Some(5_000));
    // The kernel's clock may have ticked in between.
    assert_eq!(bound_ms(State::CLOSE_WAIT, 10, 7_010), None);
    // The application begins these, at any time after the last packet.
    for state in [State::FIN_WAIT1, State::LAST_ACK, State::SYN_SENT] {
        assert_eq!(bound_ms(state, 5_010, 7_010), None, "{state}");
    }
}

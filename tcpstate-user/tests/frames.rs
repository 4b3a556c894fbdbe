//! The screen of a terminal at the end of each command, of two sizes, for IPv4 and for IPv6,
//! compared with the files in `tests/golden/frames`.
//!
//! The terminals are real, and another project's emulator draws what arrives there. The commands read a recording;
//! the reports of `ls` and `doctor`, which only a host has, come from here.

#[path = "support/golden.rs"]
mod support;

use std::{
    fs::File,
    io::Read as _,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use tcpstate_common::{
    State,
    record::{AF_INET, AF_INET6},
};
use tcpstate_core::{
    books::{Accounting, Cost},
    expression::Expression,
    inventory::{DumpStats, DumpedNetns, Inventory, Listening, Socket, Timer, TimerKind},
    mode::Mode,
    names::{NameBook, Names},
    options::Format,
    report::{Check, Report, Status},
};
use tcpstate_recording::{Options, Writer};
use tcpstate_text::{doctor, format::text::Columns, ls, settings::Settings};

use self::support::{compare, end, events, names, origin};

/// Rows and columns.
const SIZES: [(u16, u16); 2] = [(24, 80), (50, 200)];

/// The commands, and the name of their frames.
const COMMANDS: [(&str, &[&str]); 8] = [
    ("trace", &["trace"]),
    ("life", &["life", "--live"]),
    ("hist", &["hist"]),
    ("hist-transitions", &["hist", "--of", "transitions"]),
    ("rates", &["rates", "1m"]),
    ("rates-by", &["rates", "1m", "--by", "comm"]),
    ("record", &["record", "-w", "copy"]),
    ("books", &["trace", "--state", "listen", "-v"]),
];

#[test]
fn recordings() {
    let folder = tempfile::tempdir().unwrap();
    record(&folder.path().join("FILE"));
    for (name, command) in COMMANDS {
        for size in SIZES {
            let frames = ["-4", "-6"].map(|family| {
                let words = [command, &[family, "-r", "FILE"]].concat();
                let frame = screen(size, &run(folder.path(), &words, size));
                format!("$ tcpstate {}\n{}", words.join(" "), without_cost(&frame))
            });
            compare_frames(name, size, &frames.join("\n"));
        }
        // Lines are broken where they have to be, and nowhere else.
        let narrow = (24, 40);
        let words = [command, &["-r", "FILE"]].concat();
        let out = String::from_utf8(run(folder.path(), &words, narrow)).unwrap();
        assert!(!out.contains(r"\u{a}"), "{out}");
    }
}

fn compare_frames(name: &str, (rows, columns): (u16, u16), frames: &str) {
    compare(&format!("frames/{name}-{columns}x{rows}.txt"), frames);
}

/// Records the run without what it lost.
fn record(path: &Path) {
    let mut writer = Writer::create(path, &origin(), Options::default()).unwrap();
    writer = writer.naming(names());
    let events = events();
    writer.append(&events, end().now_ns).unwrap();
    let received = events.len() as u64;
    let accounting = Accounting {
        seen: received,
        submitted: received,
        received,
        ..Accounting::default()
    };
    writer.finish(Some(&accounting), None).unwrap();
}

/// The output of a command on a terminal of this size.
fn run(folder: &Path, words: &[&str], (rows, columns): (u16, u16)) -> Vec<u8> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&master, size).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let open = || {
        let mut options = File::options();
        options.read(true).write(true).custom_flags(libc::O_NOCTTY);
        Stdio::from(options.open(name.to_str().unwrap()).unwrap())
    };
    let mut child = Command::new(env!("CARGO_BIN_EXE_tcpstate"))
        .args(words)
        .current_dir(folder)
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .stdout(open())
        .stderr(open())
        .spawn()
        .unwrap();
    // Its end is an error: nobody has the other side open any more.
    let mut out = Vec::new();
    let _ = File::from(master).read_to_end(&mut out);
    assert!(child.wait().unwrap().success());
    out
}

/// The screen after these bytes, without the blanks at the ends of lines.
fn screen((rows, columns): (u16, u16), bytes: &[u8]) -> String {
    let mut terminal = vt100::Parser::new(rows, columns, 0);
    terminal.process(bytes);
    let rows = terminal.screen().rows(0, columns);
    let frame: String = rows.map(|row| row.trim_end().to_owned() + "\n").collect();
    frame.trim_end().to_owned() + "\n"
}

/// The same, without what differs from run to run, and from one version of the compressor to another.
fn without_cost(frame: &str) -> String {
    let masked = |line: &str, from: &str, to: &str| {
        let (before, rest) = line.split_once(from)?;
        let after = rest.find(to).and_then(|at| rest.get(at..));
        Some(format!("{before}{from}...{}", after.unwrap_or_default()))
    };
    let lines = frame.lines().map(|line| {
        let cost = masked(line, "cost: ", "\n");
        let size = || masked(line, " in copy, ", ";");
        cost.or_else(size).unwrap_or_else(|| line.to_owned()) + "\n"
    });
    lines.collect()
}

/// The output on a terminal of this size, where each line feed returns.
fn typed(write: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>)) -> Vec<u8> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    write(&mut out, &mut err);
    out.append(&mut err);
    let text = String::from_utf8(out).unwrap();
    text.replace('\n', "\r\n").into()
}

const NETNS: u32 = 4_026_531_840;

fn socket(cookie: u64, state: State, local: &str, remote: &str) -> Socket {
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    let (local, remote) = (address(local), address(remote));
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
        uid: Some(33),
        inode: None,
        cgroup: None,
        shutdown: None,
        v6only: None,
        drops: None,
        info: None,
    }
}

/// The sockets of a web server with a database.
fn inventory(addresses: [&str; 3]) -> Inventory {
    let [local, database, client] = addresses;
    let at = |address: &str, port: u16| {
        let colons = address.contains(':');
        if colons {
            format!("[{address}]:{port}")
        } else {
            format!("{address}:{port}")
        }
    };
    let any = if local.contains(':') { "::" } else { "0.0.0.0" };
    let timer = |kind, expires_ms, retransmits| {
        Some(Timer {
            kind,
            expires_ms,
            retransmits,
        })
    };
    let sockets = vec![
        Socket {
            wqueue: 128,
            ..socket(1, State::LISTEN, &at(any, 443), &at(any, 0))
        },
        Socket {
            wqueue: 1_448,
            timer: timer(TimerKind::Retransmit, 204, 0),
            ..socket(
                2,
                State::ESTABLISHED,
                &at(local, 40_000),
                &at(database, 5432),
            )
        },
        Socket {
            rqueue: 517,
            ..socket(3, State::CLOSE_WAIT, &at(local, 443), &at(client, 51_000))
        },
        Socket {
            uid: None,
            timer: timer(TimerKind::TimeWait, 42_500, 0),
            ..socket(4, State::TIME_WAIT, &at(local, 443), &at(client, 51_001))
        },
        Socket {
            uid: None,
            timer: timer(TimerKind::Retransmit, 1_500, 1),
            ..socket(5, State::SYN_RECV, &at(local, 443), &at(client, 51_002))
        },
    ];
    let listening = Listening::new(&sockets, [(NETNS, 32_768..=60_999)], |one| one.age(true));
    Inventory {
        sockets,
        superseded: 0,
        namespaces: vec![DumpedNetns {
            netns: NETNS,
            name: "self".into(),
            ts_ns: 5_000_000_000_000,
            wall_ns: 1_769_862_896_000_000_789,
            took_ns: 0,
            never_deferred: true,
            dump: DumpStats::default(),
        }],
        hidden: 0,
        hidden_files: 0,
        who_sees: "",
        undumped: Vec::new(),
        missing: Vec::new(),
        listening,
        holders: None,
        names: Names::new(Arc::new(NameBook::default())),
    }
}

#[test]
fn list() {
    for size in SIZES {
        let frames = [
            ["192.0.2.10", "198.51.100.2", "203.0.113.9"],
            [
                "2001:db8:aaaa:bbbb:cccc:dddd:eeee:1111",
                "2001:db8:1:2:3:4:5:6",
                "2001:db8::9",
            ],
        ]
        .map(|addresses| {
            let mut settings = Settings::plain(Format::Text);
            settings.width = Some(size.1.into());
            let options = ls::Options {
                settings,
                states: None,
                expression: Expression::default(),
                columns: Columns::Usual,
                with_owner: true,
                with_cgroup: false,
                with_info: false,
                verbose: false,
            };
            let inventory = inventory(addresses);
            let bytes = typed(|out, err| {
                ls::write(&inventory, &options, Cost::default, out, err).unwrap();
            });
            format!("$ tcpstate ls\n{}", screen(size, &bytes))
        });
        compare_frames("ls", size, &frames.join("\n"));
    }
}

/// The report of `doctor` to an ordinary user in a container.
#[test]
fn diagnosis() {
    let check = |name, status, detail: &str, costs: Option<&str>, remedy: Option<&str>| Check {
        name,
        status,
        detail: detail.to_owned(),
        costs: costs.map(str::to_owned),
        remedy: remedy.map(str::to_owned),
    };
    let give = "As root, give this binary the two capabilities, or run it as root:\n  \
        sudo setcap cap_bpf,cap_perfmon=ep /usr/local/bin/tcpstate";
    let report = Report {
        host: "web-1".into(),
        kernel: "6.18.0".into(),
        checks: vec![
            check("kernel", Status::Ok, "6.18.0", None, None),
            check(
                "capabilities",
                Status::Missing,
                "none of CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN",
                Some("no BPF program can be loaded: only `ls` and recordings work"),
                Some(give),
            ),
            check(
                "attach_btf",
                Status::Missing,
                "the kernel refused to load a BPF program: operation not permitted (os error 1)",
                None,
                Some(give),
            ),
        ],
        attach: None,
    };
    let works = Report {
        checks: vec![check("kernel", Status::Ok, "6.18.0", None, None)],
        attach: Some(Mode::Btf),
        ..report.clone()
    };
    for size in SIZES {
        let frames = [&report, &works].map(|report| {
            let bytes = typed(|out, _| {
                doctor::write_text(report, true, Some(size.1.into()), out).unwrap();
            });
            format!("$ tcpstate doctor\n{}", screen(size, &bytes))
        });
        compare_frames("doctor", size, &frames.join("\n"));
    }
}

//! Any text is a filter expression or an error.
//!
//! An expression that is written out is read as the same and judges sockets the same; its negation judges the contrary.
//! An error marks a part of the text.
#![no_main]

use std::{net::IpAddr, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use tcpstate_common::State;
use tcpstate_core::{
    catalogue::{Common, SocketRow},
    expression::{Expression, ExpressionError, NoNames, Truth},
    inventory::Age,
    names::Cgroup,
    owner::{Comm, How, Owner},
    service::Role,
};

/// Texts up to here stay within the parser's bounds when they are written with all parentheses.
const SHORT: usize = 8 << 10;
/// The same for the depth.
const SHALLOW: usize = 60;

static SOCKETS: LazyLock<Vec<SocketRow>> = LazyLock::new(|| {
    let known = SocketRow {
        accepted: Some(true),
        age: Some(Age {
            at_least_ns: 90_000_000_000,
            is_exact: true,
        }),
        bytes_sent: Some(20_000),
        bytes_received: Some(1_000),
        retransmits: Some(2),
        srtt_us: Some(1_250),
        ..socket(State::ESTABLISHED, "10.1.2.3", 40_000, "192.0.2.1", 443)
    };
    let unknown = socket(State::TIME_WAIT, "2001:db8::1", 80, "2001:db8:1::2", 0);
    let unknown = SocketRow {
        common: Common {
            netns: None,
            uid: None,
            cgroup: None,
            service_port: None,
            role: Role::Unknown,
            owner: Owner::UNKNOWN,
            ..unknown.common
        },
        ..unknown
    };
    let bounded = SocketRow {
        age: Some(Age {
            at_least_ns: 1_000_000_000,
            is_exact: false,
        }),
        ..socket(State::CLOSE_WAIT, "127.0.0.1", 22, "127.0.0.1", 50_000)
    };
    vec![known, unknown, bounded]
});

fn socket(state: State, laddr: &str, lport: u16, raddr: &str, rport: u16) -> SocketRow {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    let mut comm = [0; 16];
    comm[..5].copy_from_slice(b"nginx");
    SocketRow {
        common: Common {
            wall_ns: 0,
            ts_ns: 0,
            cookie: Some(1),
            netns: Some(4_026_531_840),
            is_ipv4: address(laddr).is_ipv4(),
            laddr: address(laddr),
            lport,
            raddr: address(raddr),
            rport,
            service_port: Some(lport),
            role: Role::Server,
            owner: Owner {
                pid: Some(7),
                comm: Some(Comm(comm)),
                how: How::Exact,
            },
            uid: Some(33),
            cgroup: Some(Cgroup::of("/system.slice/nginx.service").into()),
            cgroup_id: Some(1),
        },
        state,
        accepted: None,
        age: None,
        recv_queue: 0,
        send_queue: 0,
        half_open: None,
        half_open_oldest: None,
        timer: None,
        interface: None,
        inode: None,
        shutdown: None,
        bytes_sent: None,
        bytes_received: None,
        retransmits: None,
        srtt_us: None,
        last_sent_ms: None,
        last_received_ms: None,
        last_packet_ms: None,
        processes: None,
    }
}

fn judged(expression: &Expression) -> Vec<Truth> {
    let judged = SOCKETS.iter().map(|socket| expression.judge(socket));
    judged.collect()
}

/// Carets stand below the text of an error, or one behind it.
fn check(text: &str, error: &ExpressionError) {
    assert!(!error.message().is_empty());
    let shown = error.to_string();
    let lines: Vec<&str> = shown.lines().collect();
    let [_, below, carets] = lines[..] else {
        panic!("not three lines: {shown:?}");
    };
    assert!(carets.trim_start().chars().all(|c| c == '^'), "{shown:?}");
    assert!(carets.contains('^'), "{shown:?}");
    assert!(
        carets.chars().count() <= below.chars().count() + 1,
        "{shown:?}"
    );
    // The text of one that is too long is left out.
    if text.len() <= 16 << 10 {
        assert!(text.get(error.at()).is_some(), "{:?}", error.at());
    }
}

fuzz_target!(|text: &str| {
    let expression = match Expression::parse(text, &NoNames) {
        Ok(expression) => expression,
        Err(error) => return check(text, &error),
    };
    let written = expression.to_string();
    let depth = written.matches("( ").count() + written.matches("not ").count();
    if depth >= SHALLOW || written.len() >= SHORT {
        return;
    }
    assert_eq!(
        Expression::parse(&written, &NoNames).as_ref(),
        Ok(&expression),
        "{written}"
    );
    if expression.wants_all() {
        return;
    }
    let contrary = Expression::parse(&format!("not ( {written} )"), &NoNames);
    let contrary = contrary.expect("an expression in parentheses is one");
    let expected: Vec<_> = judged(&expression).into_iter().map(Truth::not).collect();
    assert_eq!(judged(&contrary), expected, "{written}");
});

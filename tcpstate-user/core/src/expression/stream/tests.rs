use tcpstate_common::{
    Record, State,
    record::{AF_INET6, flags},
};

use super::*;
use crate::{
    expression::Expression,
    filter::{Family, Filter, PortSet},
};

const SKADDR: u64 = 0xffff_8881_0000_1000;

/// An event of a socket with a cookie, except a child cloned from its listener.
fn event(change: (State, State), laddr: &str, lport: u16, raddr: &str, rport: u16) -> Event {
    let address = |text: &str| match text.parse().unwrap() {
        IpAddr::V4(v4) => (AF_INET, v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => (AF_INET6, v6),
    };
    let (family, laddr) = address(laddr);
    let (_, raddr): (_, Ipv6Addr) = address(raddr);
    let child = change == (State::LISTEN, State::SYN_RECV);
    let record = Record {
        cookie: if child { 0 } else { 7 },
        flags: if child {
            flags::SOCKET
        } else {
            flags::SOCKET | flags::COOKIE
        },
        skaddr: SKADDR,
        netns: 4_026_531_840,
        laddr: laddr.octets(),
        raddr: raddr.octets(),
        lport,
        rport,
        family,
        oldstate: change.0,
        newstate: change.1,
        ..Record::default()
    };
    Event::try_from(record).unwrap()
}

fn with(event: Event, edit: impl FnOnce(&mut Record)) -> Event {
    let mut record = *event.record();
    edit(&mut record);
    Event::try_from(record).unwrap()
}

fn ports(list: &str) -> PortSet {
    list.parse().unwrap()
}

fn family(family: Family) -> Filter {
    Filter {
        family: Some(family),
        ..Filter::default()
    }
}

const CONNECT: (State, State) = (State::CLOSE, State::SYN_SENT);
const CONNECTED: (State, State) = (State::SYN_SENT, State::ESTABLISHED);
const CHILD: (State, State) = (State::LISTEN, State::SYN_RECV);
const LISTENS: (State, State) = (State::CLOSE, State::LISTEN);
const LISTENED: (State, State) = (State::LISTEN, State::CLOSE);

fn facts<'a>(event: &'a Event, cgroups: &'a Cgroups) -> EventFacts<'a> {
    EventFacts {
        event,
        latest: event,
        applied: None,
        cgroups,
        with_holders: true,
    }
}

fn judge(filter: &Filter, event: &Event) -> Truth {
    Expression::from(filter).judge(&facts(event, &Cgroups::default()))
}

#[test]
fn each_criterion_judges_by_what_the_event_shows() {
    use Truth::{No as Drop, Unknown as Undecided, Yes as Keep};
    let l = Filter {
        lport: Some(ports("80")),
        ..Filter::default()
    };
    let d = Filter {
        rport: Some(ports("80")),
        ..Filter::default()
    };
    let p = Filter {
        port: Some(ports("80")),
        ..Filter::default()
    };
    let v4 = |change, lport, rport| event(change, "192.0.2.1", lport, "198.51.100.2", rport);
    for (name, filter, event, verdict) in [
        ("-L, its port", &l, v4(CONNECTED, 80, 9), Keep),
        ("-L, the other side's port", &l, v4(CONNECTED, 9, 80), Drop),
        (
            "-L, client without a port yet",
            &l,
            v4(CONNECT, 0, 80),
            Undecided,
        ),
        ("-L, bound client", &l, v4(CONNECT, 81, 80), Drop),
        (
            "-L, connect that never got a port",
            &l,
            v4((State::SYN_SENT, State::CLOSE), 0, 80),
            Drop,
        ),
        (
            "-L, listener that was never bound",
            &l,
            v4(LISTENS, 0, 0),
            Undecided,
        ),
        ("-L, listener", &l, v4(LISTENS, 80, 0), Keep),
        ("-L, child", &l, v4(CHILD, 80, 0), Keep),
        ("-D, its port", &d, v4(CONNECT, 0, 80), Keep),
        (
            "-D, child without a peer yet",
            &d,
            v4(CHILD, 80, 0),
            Undecided,
        ),
        ("-D, child with its peer", &d, v4(CHILD, 80, 9), Drop),
        (
            "-D, a listener never has a peer",
            &d,
            v4(LISTENS, 80, 0),
            Drop,
        ),
        ("-P, local", &p, v4(CONNECTED, 80, 9), Keep),
        ("-P, remote", &p, v4(CONNECT, 0, 80), Keep),
        ("-P, neither", &p, v4(CONNECTED, 9, 10), Drop),
        (
            "-P, client without a port yet",
            &p,
            v4(CONNECT, 0, 9),
            Undecided,
        ),
        (
            "-P, child without a peer yet",
            &p,
            v4(CHILD, 9, 0),
            Undecided,
        ),
        ("-P, child on the port", &p, v4(CHILD, 80, 0), Keep),
        ("-P, another listener", &p, v4(LISTENED, 9, 0), Drop),
    ] {
        assert_eq!(judge(filter, &event), verdict, "{name}");
    }
}

#[test]
fn the_family_is_the_one_on_the_wire() {
    use Truth::{No as Drop, Unknown as Undecided, Yes as Keep};
    for (name, event, ipv4, ipv6) in [
        (
            "IPv4",
            event(CONNECTED, "192.0.2.1", 9, "192.0.2.2", 80),
            Keep,
            Drop,
        ),
        (
            "IPv6",
            event(CONNECTED, "2001:db8::1", 9, "2001:db8::2", 80),
            Drop,
            Keep,
        ),
        (
            "v4-mapped",
            event(CONNECTED, "::ffff:192.0.2.1", 9, "::ffff:192.0.2.2", 80),
            Keep,
            Drop,
        ),
        (
            "v4-mapped connect",
            event(CONNECT, "::", 0, "::ffff:192.0.2.2", 80),
            Keep,
            Drop,
        ),
        (
            "IPv4 listener",
            event(LISTENS, "0.0.0.0", 80, "0.0.0.0", 0),
            Keep,
            Drop,
        ),
        (
            "dual-stack listener",
            event(LISTENS, "::", 80, "::", 0),
            Drop,
            Keep,
        ),
        (
            "dual-stack listener ends",
            event(LISTENED, "::", 80, "::", 0),
            Drop,
            Keep,
        ),
        (
            "its child, cloned",
            event(CHILD, "::", 80, "::", 0),
            Undecided,
            Undecided,
        ),
        (
            "its child, filled",
            event(CHILD, "::ffff:192.0.2.1", 80, "::ffff:192.0.2.2", 9),
            Keep,
            Drop,
        ),
        (
            "its IPv6 child, filled",
            event(CHILD, "2001:db8::1", 80, "2001:db8::2", 9),
            Drop,
            Keep,
        ),
        (
            "child of a bound listener",
            event(CHILD, "2001:db8::1", 80, "::", 0),
            Drop,
            Keep,
        ),
        (
            "child of an IPv4 listener",
            event(CHILD, "0.0.0.0", 80, "0.0.0.0", 0),
            Keep,
            Drop,
        ),
    ] {
        assert_eq!(judge(&family(Family::Ipv4), &event), ipv4, "-4: {name}");
        assert_eq!(judge(&family(Family::Ipv6), &event), ipv6, "-6: {name}");
    }
}

#[test]
fn an_unknown_namespace_decides_nothing() {
    let filter = Filter {
        netns: Some(4_026_531_840),
        ..Filter::default()
    };
    let known = event(CONNECT, "0.0.0.0", 0, "192.0.2.1", 80);
    assert_eq!(judge(&filter, &known), Truth::Yes);
    assert_eq!(
        judge(&filter, &with(known, |record| record.netns = 1)),
        Truth::No
    );
    assert_eq!(
        judge(&filter, &with(known, |record| record.netns = 0)),
        Truth::Unknown
    );
}

#[test]
fn all_criteria_must_match() {
    let filter = Filter {
        lport: Some(ports("40000")),
        rport: Some(ports("80")),
        ..Filter::default()
    };
    let connect = |rport| event(CONNECT, "0.0.0.0", 0, "192.0.2.1", rport);
    assert_eq!(judge(&filter, &connect(80)), Truth::Unknown);
    assert_eq!(judge(&filter, &connect(81)), Truth::No);
}

/// An expression's truth for an event by itself.
fn says(text: &str, event: &Event) -> Truth {
    let expression = Expression::parse(text, &crate::expression::NoNames).unwrap();
    expression.judge(&facts(event, &Cgroups::default()))
}

#[test]
fn a_prefix_waits_for_the_addresses_of_a_child() {
    use Truth::{No, Unknown, Yes};
    let connect = event(CONNECT, "10.0.0.1", 0, "192.0.2.1", 80);
    let cloned = event(CHILD, "::", 80, "::", 0);
    let of_bound = event(CHILD, "10.0.0.1", 80, "0.0.0.0", 0);
    let filled = event(CHILD, "::ffff:10.0.0.1", 80, "::ffff:192.0.2.2", 9);
    let listens = event(LISTENS, "0.0.0.0", 80, "0.0.0.0", 0);
    for (text, truths) in [
        ("src 10.0.0.0/8", [Yes, Unknown, Unknown, Yes, No]),
        ("not src 10.0.0.0/8", [No, Unknown, Unknown, No, Yes]),
        ("dst 192.0.2.0/24", [Yes, Unknown, Unknown, Yes, No]),
        (
            "dst 192.0.2.0/24 and dport = 80",
            [Yes, Unknown, Unknown, No, No],
        ),
        ("sport = 80 or dst 192.0.2.0/24", [Yes, Yes, Yes, Yes, Yes]),
        ("host 192.0.2.0/24", [Yes, Unknown, Unknown, Yes, No]),
        ("sport != 80", [Unknown, No, No, No, No]),
        ("dst *:9", [No, Unknown, Unknown, Yes, No]),
    ] {
        let events = [connect, cloned, of_bound, filled, listens];
        for (event, truth) in events.iter().zip(truths) {
            assert_eq!(says(text, event), truth, "{text}: {event:?}");
        }
    }
}

#[test]
fn what_a_change_does_not_have_is_not_unknown() {
    use Truth::{No, Unknown, Yes};
    let connect = event(CONNECT, "10.0.0.1", 0, "192.0.2.1", 80);
    let connected = event(CONNECTED, "10.0.0.1", 9, "192.0.2.1", 80);
    let closed = event(
        (State::LAST_ACK, State::CLOSE),
        "10.0.0.1",
        9,
        "192.0.2.1",
        80,
    );
    for (text, truths) in [
        ("state syn-sent", [Yes, Yes, No]),
        ("oldstate syn-sent", [No, Yes, No]),
        ("newstate syn-sent,close", [Yes, No, Yes]),
        ("not newstate syn-sent", [No, Yes, Yes]),
        ("dwell > 1ms", [No, Unknown, Unknown]),
        ("lifetime > 1ms", [No, No, Unknown]),
        ("not lifetime > 1ms", [Yes, Yes, Unknown]),
        ("handshake > 1ms", [No, Unknown, No]),
        ("cause fin", [No, No, Yes]),
        ("cause unknown,refused", [No, No, No]),
        ("not cause fin", [Yes, Yes, No]),
        // The record has no counters.
        ("bytes_sent >= 0", [Unknown; 3]),
        ("role client", [Unknown; 3]),
    ] {
        for (event, truth) in [connect, connected, closed].iter().zip(truths) {
            assert_eq!(says(text, event), truth, "{text}: {event:?}");
        }
    }
}

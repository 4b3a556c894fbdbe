use std::net::{IpAddr, Ipv6Addr};

use tcpstate_common::{Record, State, record::flags};

use super::*;

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
const ACCEPTED: (State, State) = (State::SYN_RECV, State::ESTABLISHED);
const LISTENS: (State, State) = (State::CLOSE, State::LISTEN);
const LISTENED: (State, State) = (State::LISTEN, State::CLOSE);

#[test]
fn the_default_matches_all_and_leaves_the_kernel_nothing_to_do() {
    let filter = Filter::default();
    assert!(filter.wants_all());
    assert_eq!(filter.kernel().config(), config::Filter::default());
    assert_eq!(filter.kernel().bitmaps(), (None, None, None));
    assert_eq!(filter.to_string(), "");
    assert_eq!(
        filter.judge(&event(CONNECT, "0.0.0.0", 0, "192.0.2.1", 80)),
        Verdict::Keep
    );
}

#[test]
fn the_kernel_part_carries_every_criterion() {
    let filter = Filter {
        family: Some(Family::Ipv6),
        lport: Some(ports("80")),
        rport: Some(ports("1-1023")),
        port: Some(ports("443")),
        netns: Some(4_026_531_840),
    };
    let kernel = filter.kernel();
    assert_eq!(
        kernel.config(),
        config::Filter {
            cgroup: 0,
            netns: 4_026_531_840,
            family: AF_INET6,
            lport: 1,
            rport: 1,
            port: 1
        }
    );
    assert_eq!(kernel.in_cgroup(Some(7)).config().cgroup, 7);
    assert_eq!(kernel.in_cgroup(None).config(), kernel.config());
    let (lport, rport, port) = kernel.bitmaps();
    assert_eq!(lport, filter.lport.as_ref().map(PortSet::bitmap));
    assert_eq!(rport, filter.rport.as_ref().map(PortSet::bitmap));
    assert_eq!(port, filter.port.as_ref().map(PortSet::bitmap));
    assert_eq!(
        filter.to_string(),
        "-6 --lport 80 --rport 1-1023 --port 443 --netns 4026531840"
    );
}

#[test]
fn each_criterion_judges_by_what_the_event_shows() {
    use Verdict::{Drop, Keep, Undecided};
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
        assert_eq!(filter.judge(&event), verdict, "{name}");
    }
}

#[test]
fn the_family_is_the_one_on_the_wire() {
    use Verdict::{Drop, Keep, Undecided};
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
        assert_eq!(family(Family::Ipv4).judge(&event), ipv4, "-4: {name}");
        assert_eq!(family(Family::Ipv6).judge(&event), ipv6, "-6: {name}");
    }
}

#[test]
fn an_unknown_namespace_is_not_the_one_asked_for() {
    let filter = Filter {
        netns: Some(4_026_531_840),
        ..Filter::default()
    };
    let known = event(CONNECT, "0.0.0.0", 0, "192.0.2.1", 80);
    assert_eq!(filter.judge(&known), Verdict::Keep);
    assert_eq!(
        filter.judge(&with(known, |record| record.netns = 1)),
        Verdict::Drop
    );
    assert_eq!(
        filter.judge(&with(known, |record| record.netns = 0)),
        Verdict::Drop
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
    assert_eq!(filter.judge(&connect(80)), Verdict::Undecided);
    assert_eq!(filter.judge(&connect(81)), Verdict::Drop);
}

/// The events that the settler passes, and its decisions.
fn settle(filter: Filter, events: &[Event]) -> (Vec<Event>, Settled) {
    let mut settler = Settler::new(filter);
    let mut shown = Vec::new();
    for event in events {
        let passed = settler.push(event);
        shown.extend(passed.earlier);
        shown.extend(passed.event);
    }
    let settled = settler.finish();
    assert_eq!(
        settled.passed + settled.filtered + settled.undecided,
        u64::try_from(events.len()).unwrap(),
        "every event is somewhere"
    );
    assert_eq!(settled.passed, u64::try_from(shown.len()).unwrap());
    (shown, settled)
}

#[test]
fn a_clients_connect_follows_its_next_event() {
    let connect = event(CONNECT, "0.0.0.0", 0, "192.0.2.1", 80);
    let connected = event(CONNECTED, "192.0.2.9", 40_000, "192.0.2.1", 80);
    let filter = |list| Filter {
        lport: Some(ports(list)),
        ..Filter::default()
    };
    let (shown, _) = settle(filter("40000"), &[connect, connected]);
    assert_eq!(shown, [connect, connected]);
    let (shown, settled) = settle(filter("40001"), &[connect, connected]);
    assert_eq!(shown, []);
    assert_eq!(
        settled,
        Settled {
            filtered: 2,
            ..Settled::default()
        }
    );
}

#[test]
fn children_of_a_dual_stack_listener_part_by_family() {
    let listens = event(LISTENS, "::", 80, "::", 0);
    let child = event(CHILD, "::", 80, "::", 0);
    let ipv4 = event(ACCEPTED, "::ffff:192.0.2.1", 80, "::ffff:192.0.2.2", 40_000);
    let ipv6 = event(ACCEPTED, "2001:db8::1", 80, "2001:db8::2", 40_000);
    let listens = with(listens, |record| (record.skaddr, record.cookie) = (1, 1));
    let both = [listens, child, ipv4, child, ipv6];
    assert_eq!(settle(family(Family::Ipv4), &both).0, [child, ipv4]);
    assert_eq!(
        settle(family(Family::Ipv6), &both).0,
        [listens, child, ipv6]
    );
}

#[test]
fn an_address_used_again_is_another_socket() {
    let filter = || Filter {
        lport: Some(ports("40000")),
        ..Filter::default()
    };
    let connect = event(CONNECT, "0.0.0.0", 0, "192.0.2.1", 80);
    let connected = event(CONNECTED, "192.0.2.9", 40_000, "192.0.2.1", 80);

    // The next event's cookie is another one: a transition between the two was lost.
    let other = with(connected, |record| record.cookie = 8);
    let (shown, settled) = settle(filter(), &[connect, other]);
    assert_eq!(shown, [other]);
    assert_eq!(
        settled,
        Settled {
            passed: 1,
            undecided: 1,
            ..Settled::default()
        }
    );

    // The states do not join.
    let (shown, settled) = settle(filter(), &[connect, connect, connected]);
    assert_eq!(shown, [connect, connected]);
    assert_eq!(settled.undecided, 1);

    // Without cookies the address and the states must do.
    let bare = |event| with(event, |record| (record.cookie, record.flags) = (0, 0));
    let (shown, _) = settle(filter(), &[bare(connect), bare(connected)]);
    assert_eq!(shown, [bare(connect), bare(connected)]);

    // Without an address the cookie must.
    let placeless = |event| with(event, |record| record.skaddr = 0);
    let (shown, _) = settle(filter(), &[placeless(connect), placeless(connected)]);
    assert_eq!(shown, [placeless(connect), placeless(connected)]);
}

#[test]
fn an_event_that_is_never_decided_is_counted_and_not_shown() {
    let connect = event(CONNECT, "0.0.0.0", 0, "192.0.2.1", 80);
    let filter = Filter {
        lport: Some(ports("40000")),
        ..Filter::default()
    };
    let (shown, settled) = settle(filter, &[connect]);
    assert_eq!(shown, []);
    assert_eq!(
        settled,
        Settled {
            undecided: 1,
            ..Settled::default()
        }
    );
}

#[test]
fn the_table_is_bounded_and_gives_up_the_oldest_first() {
    let filter = Filter {
        lport: Some(ports("40000")),
        ..Filter::default()
    };
    let mut settler = Settler::with_bound(filter, 8);
    let connect = event(CONNECT, "0.0.0.0", 0, "192.0.2.1", 80);
    let socket = |event, n: u64| with(event, |record| (record.skaddr, record.cookie) = (n, n));
    for n in 1..=100 {
        assert_eq!(settler.push(&socket(connect, n)), Passed::default());
        assert!(settler.young.len() + settler.old.len() <= 8);
    }
    let connected = event(CONNECTED, "192.0.2.9", 40_000, "192.0.2.1", 80);
    let young = settler.push(&socket(connected, 100));
    assert_eq!(young.earlier, Some(socket(connect, 100)));
    let old = settler.push(&socket(connected, 1));
    assert_eq!(
        old,
        Passed {
            event: Some(socket(connected, 1)),
            ..Passed::default()
        }
    );
    assert_eq!(
        settler.finish(),
        Settled {
            passed: 3,
            filtered: 0,
            undecided: 99
        }
    );
}

#[test]
fn what_is_recalled_counts_nowhere() {
    let filter = Filter {
        lport: Some("40000".parse().unwrap()),
        ..Filter::default()
    };
    let mut settler = Settler::new(filter);
    let connect = event(CONNECT, "0.0.0.0", 0, "192.0.2.1", 80);
    let connected = event(CONNECTED, "192.0.2.9", 40_000, "192.0.2.1", 80);
    let socket = |event, n: u64| with(event, |record| (record.skaddr, record.cookie) = (n, n));
    for n in [1, 2] {
        assert_eq!(settler.recall(&socket(connect, n)), Passed::default());
    }
    let passed = Passed {
        earlier: Some(socket(connect, 1)),
        is_recalled: true,
        event: Some(socket(connected, 1)),
    };
    assert_eq!(settler.push(&socket(connected, 1)), passed);
    let settled = Settled {
        passed: 1,
        ..Settled::default()
    };
    assert_eq!(settler.finish(), settled);
}

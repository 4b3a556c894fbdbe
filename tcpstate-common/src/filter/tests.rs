use core::net::IpAddr;

use super::*;
use crate::{
    config::{Filter, MAX_PREFIXES, PORT_WORDS, PortBitmap, Prefix, prefix_flags},
    record::AF_INET6,
};

fn key(oldstate: State, newstate: State, lport: u16, rport: u16) -> Key {
    Key {
        family: AF_INET6,
        lport,
        rport,
        oldstate,
        newstate,
    }
}

#[test]
fn an_unbound_socket_has_no_local_port_yet() {
    for newstate in [State::SYN_SENT, State::LISTEN] {
        let unbound = key(State::CLOSE, newstate, 0, 443).pending_ports();
        assert_eq!((unbound.lport, unbound.rport), (true, false));
        assert!(unbound.either());
        let bound = key(State::CLOSE, newstate, 50_000, 443).pending_ports();
        assert!(!bound.either());
    }
    // An unbound socket that is closed never gets a port.
    let closed = key(State::CLOSE, State::CLOSE, 0, 0).pending_ports();
    assert!(!closed.either());
}

#[test]
fn a_new_child_has_no_remote_port_yet() {
    let child = key(State::LISTEN, State::SYN_RECV, 80, 0).pending_ports();
    assert_eq!((child.lport, child.rport), (false, true));
    assert!(child.either());
    let named = key(State::LISTEN, State::SYN_RECV, 80, 50_000).pending_ports();
    assert!(!named.either());
    // A listener never gets one.
    for (oldstate, newstate) in [(State::LISTEN, State::CLOSE), (State::CLOSE, State::LISTEN)] {
        assert!(!key(oldstate, newstate, 80, 0).pending_ports().either());
    }
}

#[test]
fn a_new_child_may_have_its_listeners_addresses() {
    let cloned = key(State::LISTEN, State::SYN_RECV, 80, 0);
    assert!(cloned.is_family_pending(true, true));
    // Without the port, a remote address says nothing.
    assert!(cloned.is_family_pending(true, false));
    let with_port = key(State::LISTEN, State::SYN_RECV, 80, 50_000);
    assert!(with_port.is_family_pending(true, true));
    assert!(!with_port.is_family_pending(true, false));
}

#[test]
fn the_family_is_known_where_it_cannot_change() {
    let cloned = key(State::LISTEN, State::SYN_RECV, 80, 0);
    // The listener has an address of its own.
    assert!(!cloned.is_family_pending(false, true));
    let ipv4 = Key {
        family: AF_INET,
        ..cloned
    };
    assert!(!ipv4.is_family_pending(true, true));
    assert!(!key(State::CLOSE, State::LISTEN, 80, 0).is_family_pending(true, true));
}

#[test]
fn an_address_that_a_child_has_from_its_listener_is_not_known() {
    let cloned = key(State::LISTEN, State::SYN_RECV, 80, 0);
    // Without the port, no address says anything.
    for is_any in [true, false] {
        assert!(cloned.is_laddr_pending(is_any) && cloned.is_raddr_pending(is_any));
    }
    let with_port = key(State::LISTEN, State::SYN_RECV, 80, 50_000);
    assert!(with_port.is_laddr_pending(true) && with_port.is_raddr_pending(true));
    assert!(!with_port.is_laddr_pending(false) && !with_port.is_raddr_pending(false));
    // A client that has no local address yet.
    let client = key(State::CLOSE, State::SYN_SENT, 0, 443);
    assert!(client.is_laddr_pending(true) && !client.is_laddr_pending(false));
    assert!(!client.is_raddr_pending(true));
    // A listener has none, and gets none.
    let listener = key(State::CLOSE, State::LISTEN, 80, 0);
    assert!(!listener.is_laddr_pending(true) && !listener.is_raddr_pending(true));
}

#[test]
fn a_listener_begins_and_ends() {
    for (old, new, expected) in [
        (State::CLOSE, State::LISTEN, true),
        (State::LISTEN, State::CLOSE, true),
        (State::LISTEN, State::SYN_RECV, false),
        (State::SYN_RECV, State::ESTABLISHED, false),
        (State::LAST_ACK, State::CLOSE, false),
    ] {
        assert_eq!(
            key(old, new, 80, 0).is_of_listener(),
            expected,
            "{old} {new}"
        );
    }
}

const TRUTHS: [Truth; 3] = [Truth::NO, Truth::UNKNOWN, Truth::YES];

/// False, unknown and true are in an order in which both are the lesser and either the greater (Kleene).
#[test]
fn truths_are_those_of_kleene() {
    let rank = |truth: Truth| TRUTHS.iter().position(|&one| one == truth).unwrap();
    for one in TRUTHS {
        assert_eq!(rank(one.not()), 2 - rank(one));
        for other in TRUTHS {
            assert_eq!(rank(one.and(other)), rank(one).min(rank(other)));
            assert_eq!(rank(one.or(other)), rank(one).max(rank(other)));
        }
    }
    assert_eq!(Truth::of(true, false), Truth::YES);
    assert_eq!(Truth::of(false, false), Truth::NO);
    for fact in [true, false] {
        assert_eq!(Truth::of(fact, true), Truth::UNKNOWN);
    }
}

/// Two words in memory order.
fn words(address: &str) -> [u64; 2] {
    let address = match address.parse().unwrap() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let octets = address.octets();
    let (high, low) = octets.split_at(8);
    [high, low].map(|half| u64::from_ne_bytes(half.try_into().unwrap()))
}

fn ends(local: &str, remote: &str) -> Ends {
    Ends {
        local: words(local),
        remote: words(remote),
    }
}

/// A prefix; of IPv4 addresses its length counts from the beginning of the v4-mapped one.
fn prefix(address: &str, bits: u32, flags: u32) -> Prefix {
    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0).to_be_bytes();
    let (high, low) = mask.split_at(8);
    let mask = [high, low].map(|half| u64::from_ne_bytes(half.try_into().unwrap()));
    let [high, low] = words(address);
    Prefix {
        address: [high & mask[0], low & mask[1]],
        mask,
        flags,
        padding: 0,
    }
}

const CLOSED: PortBitmap = [0; PORT_WORDS];

fn judge_with(prefixes: &[Prefix], listeners: u8, key: Key, ends: &Ends) -> Truth {
    let mut filter = Filter {
        listeners,
        ..Filter::default()
    };
    filter.prefixes[..prefixes.len()].copy_from_slice(prefixes);
    judge_addresses(&(&filter, [&CLOSED; 3]), &key, ends)
}

const ESTABLISHED: Key = Key {
    family: AF_INET6,
    lport: 80,
    rport: 50_000,
    oldstate: State::SYN_RECV,
    newstate: State::ESTABLISHED,
};

#[test]
fn prefixes_of_each_family_end_and_sign() {
    const LOCAL: u32 = prefix_flags::LOCAL | prefix_flags::LAST;
    const REMOTE: u32 = prefix_flags::REMOTE | prefix_flags::LAST;
    const EITHER: u32 = LOCAL | REMOTE;
    const NOT: u32 = prefix_flags::NOT;
    let v4 = ends("10.1.2.3", "192.0.2.1");
    let v6 = ends("2001:db8::1", "fd00::2");
    for (address, bits, flags, of_v4, of_v6) in [
        ("10.0.0.0", 96 + 8, LOCAL, true, false),
        ("10.1.2.3", 128, LOCAL, true, false),
        ("10.1.2.2", 128, LOCAL, false, false),
        ("10.0.0.0", 96 + 8, REMOTE, false, false),
        ("192.0.2.0", 96 + 24, EITHER, true, false),
        ("10.0.0.0", 96 + 8, EITHER, true, false),
        ("10.0.0.0", 96 + 8, LOCAL | NOT, false, true),
        ("10.0.0.0", 96 + 8, REMOTE | NOT, true, true),
        ("10.0.0.0", 96 + 8, EITHER | NOT, false, true),
        // All of IPv4, and none of it.
        ("0.0.0.0", 96, LOCAL, true, false),
        ("0.0.0.0", 96, LOCAL | NOT, false, true),
        ("2001:db8::", 32, LOCAL, false, true),
        ("2001:db8::", 32, REMOTE, false, false),
        ("fd00::", 64, EITHER, false, true),
        // A bit beyond the first word.
        ("fd00::2", 127, REMOTE, false, true),
        ("fd00::", 127, REMOTE, false, false),
    ] {
        let prefix = prefix(address, bits, flags);
        let judge = |ends| judge_with(&[prefix], 0, ESTABLISHED, ends);
        let expected = [of_v4, of_v6].map(|is| Truth::of(is, false));
        assert_eq!(
            [judge(&v4), judge(&v6)],
            expected,
            "{address}/{bits} {flags}"
        );
    }
}

#[test]
fn in_a_clause_one_is_enough_and_of_the_clauses_all_are_needed() {
    const LAST: u32 = prefix_flags::LAST;
    let local = |address, flags| prefix(address, 128, prefix_flags::LOCAL | flags);
    let remote = |address, flags| prefix(address, 128, prefix_flags::REMOTE | flags);
    let judge = |prefixes: &[Prefix], local, remote| {
        judge_with(prefixes, 0, ESTABLISHED, &ends(local, remote)) == Truth::YES
    };
    let either = [local("10.0.0.1", 0), remote("10.0.0.2", LAST)];
    assert!(judge(&either, "10.0.0.1", "10.0.0.9"));
    assert!(judge(&either, "10.0.0.9", "10.0.0.2"));
    assert!(!judge(&either, "10.0.0.2", "10.0.0.1"));
    let both = [local("10.0.0.1", LAST), remote("10.0.0.2", LAST)];
    assert!(judge(&both, "10.0.0.1", "10.0.0.2"));
    assert!(!judge(&both, "10.0.0.1", "10.0.0.9"));
    assert!(!judge(&both, "10.0.0.9", "10.0.0.2"));
    let most = [[local("10.0.0.1", 0), local("::1", LAST)]; MAX_PREFIXES / 2];
    assert!(judge(most.as_flattened(), "::1", "::1"));
    assert!(!judge(most.as_flattened(), "::2", "::1"));
    // None.
    assert!(judge(&[], "::1", "::2"));
}

#[test]
fn an_address_to_come_leaves_it_undecided() {
    const LAST: u32 = prefix_flags::LAST;
    let local = prefix("10.0.0.0", 96 + 8, prefix_flags::LOCAL | LAST);
    let remote = prefix("10.0.0.0", 96 + 8, prefix_flags::REMOTE | LAST);
    let not = |prefix: Prefix| Prefix {
        flags: prefix.flags | prefix_flags::NOT,
        ..prefix
    };
    // A child has the addresses of its listener.
    let child = key(State::LISTEN, State::SYN_RECV, 80, 0);
    for listener in [
        ends("::", "::"),
        ends("0.0.0.0", "0.0.0.0"),
        ends("192.0.2.1", "0.0.0.0"),
    ] {
        for prefix in [local, remote, not(local), not(remote)] {
            assert_eq!(judge_with(&[prefix], 0, child, &listener), Truth::UNKNOWN);
        }
    }
    // A client's local one, but not its remote one.
    let client = key(State::CLOSE, State::SYN_SENT, 0, 443);
    let connects = ends("0.0.0.0", "192.0.2.1");
    assert_eq!(judge_with(&[local], 0, client, &connects), Truth::UNKNOWN);
    assert_eq!(judge_with(&[remote], 0, client, &connects), Truth::NO);
    assert_eq!(
        judge_with(&[not(remote), local], 0, client, &connects),
        Truth::UNKNOWN
    );
    assert_eq!(
        judge_with(&[local, remote], 0, client, &connects),
        Truth::NO
    );
}

#[test]
fn listeners_are_kept_where_they_are_needed() {
    let bitmap = |port: u16| {
        let mut bitmap = CLOSED;
        bitmap[usize::from(port / 64)] = 1 << (port % 64);
        bitmap
    };
    let [http, https] = [80, 443].map(bitmap);
    let sets = [&http, &https, &https];
    let prefix = prefix("10.0.0.0", 96 + 8, prefix_flags::LOCAL | prefix_flags::LAST);
    let any = ends("::", "::");
    for (old, new, lport, is_kept) in [
        (State::CLOSE, State::LISTEN, 80, true),
        (State::LISTEN, State::CLOSE, 80, true),
        // Its connections have its local port.
        (State::CLOSE, State::LISTEN, 81, false),
        (State::SYN_RECV, State::ESTABLISHED, 80, false),
    ] {
        let key = key(old, new, lport, 0);
        for (listeners, is_kept) in [(1, is_kept), (0, false)] {
            let mut filter = Filter {
                family: AF_INET,
                lport: 1,
                rport: 1,
                port: 1,
                listeners,
                ..Filter::default()
            };
            filter.prefixes[0] = prefix;
            let condition = (&filter, sets);
            let all = judge_ports(&condition, &key)
                .and(judge_family(&condition, &key, &any))
                .and(judge_addresses(&condition, &key, &any));
            assert_eq!(all.may, is_kept, "{old} {new} {lport} {listeners}");
        }
    }
}

#[test]
fn ports_and_families() {
    let mut bitmap = CLOSED;
    bitmap[0] = 1 << 22 | 1;
    let judge = |lport, rport, port, key: &Key| {
        let filter = Filter {
            lport,
            rport,
            port,
            ..Filter::default()
        };
        judge_ports(&(&filter, [&bitmap; 3]), key)
    };
    let of = |lport, rport| key(State::SYN_SENT, State::ESTABLISHED, lport, rport);
    assert_eq!(judge(1, 0, 0, &of(22, 80)), Truth::YES);
    assert_eq!(judge(1, 0, 0, &of(80, 22)), Truth::NO);
    assert_eq!(judge(0, 1, 0, &of(80, 22)), Truth::YES);
    assert_eq!(judge(0, 1, 0, &of(22, 80)), Truth::NO);
    assert_eq!(judge(0, 0, 1, &of(22, 80)), Truth::YES);
    assert_eq!(judge(0, 0, 1, &of(80, 22)), Truth::YES);
    assert_eq!(judge(0, 0, 1, &of(80, 81)), Truth::NO);
    assert_eq!(judge(0, 0, 0, &of(80, 81)), Truth::YES);
    // 0 is in the set, but it is no port yet.
    let client = key(State::CLOSE, State::SYN_SENT, 0, 22);
    assert_eq!(judge(1, 0, 0, &client), Truth::UNKNOWN);
    assert_eq!(judge(1, 1, 1, &client), Truth::UNKNOWN);
    assert_eq!(judge(0, 1, 1, &client), Truth::YES);

    let family = |family, key: &Key, local, remote| {
        let filter = Filter {
            family,
            ..Filter::default()
        };
        judge_family(&(&filter, [&CLOSED; 3]), key, &ends(local, remote))
    };
    let ipv4 = Key {
        family: AF_INET,
        ..ESTABLISHED
    };
    for (key, local, remote, is_ipv4) in [
        (&ipv4, "10.0.0.1", "10.0.0.2", Truth::YES),
        (
            &ESTABLISHED,
            "::ffff:10.0.0.1",
            "::ffff:10.0.0.2",
            Truth::YES,
        ),
        (&ESTABLISHED, "::1", "::1", Truth::NO),
        (
            &key(State::LISTEN, State::SYN_RECV, 80, 0),
            "::",
            "::",
            Truth::UNKNOWN,
        ),
    ] {
        assert_eq!(family(AF_INET, key, local, remote), is_ipv4);
        assert_eq!(family(AF_INET6, key, local, remote), is_ipv4.not());
        assert_eq!(family(0, key, local, remote), Truth::YES);
    }
}

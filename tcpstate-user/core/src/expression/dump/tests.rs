use proptest::prelude::*;

use super::{
    super::tests::{Known, node, parse},
    *,
};

/// The condition of a list that has no listeners.
fn of_connections(text: &str) -> DumpCondition {
    let connected = "connected".parse().unwrap();
    parse(text).unwrap().for_dump(Some(connected))
}

/// The part that the expression asks for.
fn asked(text: &str) -> String {
    parse(text).unwrap().for_dump(None).to_string()
}

#[test]
fn the_kernel_gets_what_it_can_decide() {
    for (text, expected) in [
        ("", ""),
        ("src *", ""),
        ("dst 10.0.0.0/8", "dst 10.0.0.0/8"),
        ("not dst 10.0.0.0/8", "not dst 10.0.0.0/8"),
        ("dst 10.0.0.1:443", "dport = 443 and dst 10.0.0.1/32"),
        (
            "not dst 10.0.0.1:443",
            "dport <= 442 or dport >= 444 or not dst 10.0.0.1/32",
        ),
        ("sport = :80 or sport = :443", "sport = 80 or sport = 443"),
        (
            "host [2001:db8::]/32",
            "src [2001:db8::]/32 or dst [2001:db8::]/32",
        ),
        (
            "not host [2001:db8::]/32",
            "not src [2001:db8::]/32 and not dst [2001:db8::]/32",
        ),
        ("dport < 1024", "dport <= 1023"),
        (
            "dport > 1023 dport le 2000",
            "dport >= 1024 and dport <= 2000",
        ),
        ("dport < 0", "not src *"),
        ("dport >= 0", ""),
        ("dport > 65535", "not src *"),
        (
            "sport 80,443,8000-8100",
            "sport = 80 or sport = 443 or sport 8000-8100",
        ),
        (
            "sport != 80,443,8000-8100",
            "sport <= 79 or sport 81-442 or sport 444-7999 or sport >= 8101",
        ),
        ("portrange 1-9", "sport 1-9 or dport 1-9"),
        ("not family ipv4", "family ipv6"),
        ("state established", "state ESTABLISHED"),
        ("state syn-recv", "state SYN_RECV"),
        (
            "state established dst 10.0.0.1 or state time-wait dst 10.0.0.2",
            "state ESTABLISHED,TIME_WAIT and ( dst 10.0.0.1/32 or dst 10.0.0.2/32 )",
        ),
        ("exclude all", "exclude all"),
        // The rest is for user space, under a `not` too.
        ("pid 5", ""),
        ("not pid 5", ""),
        ("pid 5 dst 10.0.0.1", "dst 10.0.0.1/32"),
        ("pid 5 or dst 10.0.0.1", ""),
        ("not ( pid 5 dst 10.0.0.1 )", ""),
        ("not ( pid 5 or dst 10.0.0.1 )", "not dst 10.0.0.1/32"),
        ("dwell > 1s ( role server or comm a ) dport 1", "dport = 1"),
        // A condition that is said twice is checked once.
        ("sport 1 sport 1 ( sport 1 or sport 1 )", "sport = 1"),
    ] {
        assert_eq!(asked(text), expected, "{text}");
        assert!(parse(expected).is_ok(), "{expected}");
    }
}

#[test]
fn listeners_are_always_dumped_and_known_by_their_missing_remote_end() {
    for text in ["dst 10.0.0.1", "state established sport 1", "exclude all"] {
        let condition = parse(text).unwrap().for_dump(None);
        assert!(condition.states.has(State::LISTEN), "{text}");
        let listener = ("192.0.2.1".parse().unwrap(), 7);
        let none = ("0.0.0.0".parse().unwrap(), 0);
        assert!(condition.ends.holds(listener, none), "{text}");
    }
    assert!(
        !of_connections("exclude established")
            .states
            .has(State::ESTABLISHED)
    );
    assert_eq!(parse("").unwrap().for_dump(None).ends, EndCondition::ALWAYS);
}

/// A listener says how many half-open connections it has, wherever they come from.
#[test]
fn the_half_open_connections_of_a_listener_that_may_match_are_dumped() {
    let half_open = ("192.0.2.1".parse().unwrap(), 80);
    let client = ("198.51.100.1".parse().unwrap(), 40_000);
    for (text, is_dumped) in [
        ("", true),
        ("state listening", true),
        ("state listening src 0.0.0.0", true),
        ("state listening src 192.0.2.1", true),
        ("state listening src 192.0.2.2", false),
        ("state listening sport 80", true),
        ("state listening sport 81", false),
        ("state listening src 192.0.2.2 or sport 80", true),
        ("not src 192.0.2.1", true),
        ("src 192.0.2.2", false),
        ("dport 0", true),
        ("dport < 10", true),
        ("family ipv6", true),
        // No listener matches these.
        ("dst 10.0.0.1", false),
        ("dst [2001:db8::]/32", false),
        ("dport 443", false),
        ("state established not dst 10.0.0.1", false),
    ] {
        let condition = parse(text).unwrap().for_dump(None);
        let is_in =
            condition.states.has(State::SYN_RECV) && condition.ends.holds(half_open, client);
        assert_eq!(is_in, is_dumped, "{text}");
    }
    // Where they are not asked for, they are not counted.
    let listeners = parse("not src 192.0.2.1").unwrap();
    let condition = listeners.for_dump(Some("listen".parse().unwrap()));
    assert!(!condition.states.has(State::SYN_RECV));
}

#[test]
fn sockets_of_ipv4_are_left_out_where_none_matches() {
    for (text, ipv6_only) in [
        ("", false),
        ("family ipv6", true),
        ("family ipv6 or sport 1", false),
        ("family ipv6 sport 1", true),
        ("dst [2001:db8::1]", true),
        ("not dst 0.0.0.0/0", false),
        ("not dst [::]/0", false),
        ("dst [2001:db8::1] or dst 10.0.0.1", false),
        ("not ( dst 10.0.0.1 or not family ipv6 )", true),
    ] {
        assert_eq!(
            parse(text).unwrap().for_dump(None).ipv6_only,
            ipv6_only,
            "{text}"
        );
    }
}

#[test]
fn states_that_have_no_name_here_are_left_out_only_where_named_ones_are_asked_for() {
    let has = |text: &str, state: u8| parse(text).unwrap().for_dump(None).states.has(State(state));
    for (text, is_in) in [
        ("", true),
        ("sport 1", true),
        ("not state established", true),
        ("state established", false),
        ("exclude established", false),
        ("state all", true),
    ] {
        assert_eq!(has(text, 14), is_in, "{text}");
    }
    // A merely bound socket is in CLOSE, and listed by another number.
    assert!(has("state close", 13) && has("state bound_inactive", 7));
    assert!(!has("not state close", 13) && !has("not state bound_inactive", 7));
}

#[test]
fn the_kernel_makes_a_bounded_number_of_comparisons() {
    fn count(condition: &EndCondition) -> usize {
        match condition {
            EndCondition::All(more) | EndCondition::Any(more) => more.iter().map(count).sum(),
            _ => 1,
        }
    }
    let odd: Vec<_> = (1..=129)
        .map(|number| (2 * number - 1).to_string())
        .collect();
    let list = format!("sport {}", odd.join(","));
    // A long list becomes a range, a long conjunction loses its end, and a long disjunction is not decided.
    assert_eq!(asked(&list), "sport 1-257");
    let of = |join: &str| {
        let all: Vec<_> = (1..1_000).map(|port| format!("sport {port}")).collect();
        of_connections(&all.join(join)).asked.1
    };
    assert_eq!(count(&of(" ")), MAX_CHECKS);
    assert_eq!(of(" or "), EndCondition::ALWAYS);
}

proptest! {
    /// The kernel leaves out only what the expression rejects.
    #[test]
    fn the_kernel_never_leaves_out_what_may_match(
        node in node(),
        local in (prop_oneof!["[1-9]\\.0\\.0\\.1", "2001:db8::1", "2001:db8:1::1", "::", "0\\.0\\.0\\.0"], 0..100u16),
        remote in (prop_oneof!["[1-9]\\.0\\.0\\.1", "2001:db8::1", "2001:db8:1::1", "::", "0\\.0\\.0\\.0"], 0..100u16),
        state in 1..=11u8,
        dwell in prop::option::of(0..2_000_000_000u64),
    ) {
        let expression = Expression(Some(node));
        let end = |(address, port): (String, u16)| (address.parse::<IpAddr>().unwrap(), port);
        let known = Known {
            local: end(local),
            remote: end(remote),
            state: State(state),
            dwell: dwell.map(super::super::Bounds::exactly),
            ..Known::default()
        };
        let condition = expression.for_dump(None);
        let is_dumped = condition.states.has(known.state) && condition.ends.holds(known.local, known.remote);
        if expression.judge(&known) != Truth::No {
            prop_assert!(is_dumped);
            prop_assert!(condition.asked.1.holds(known.local, known.remote));
            prop_assert!(!(condition.ipv6_only && known.local.0.is_ipv4() && known.remote.0.is_ipv4()));
        }
        // The words for people mean the same.
        let written = parse(&condition.to_string()).unwrap();
        if written.judge(&known) == Truth::No {
            prop_assert_eq!(expression.judge(&known), Truth::No);
        }
    }
}

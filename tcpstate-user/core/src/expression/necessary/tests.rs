use std::net::IpAddr;

use proptest::prelude::*;
use tcpstate_common::{
    Record, State,
    config::{PORT_WORDS, PortBitmap},
    filter::{Condition, Ends as Addresses, judge_addresses, judge_family, judge_ports},
    record::{AF_INET, AF_INET6, flags},
};

use super::*;
use crate::{
    event::Event,
    expression::{Bounds, Cgroups, EventFacts, Facts, Field, NoNames, Truth, Wanted, WantedCgroup},
    filter::StateSet,
    service::Role,
};

const NETNS: u32 = 7;

fn parse(text: &str) -> Expression {
    // Numbers need no names; a cgroup has an id on this host only.
    struct Names;
    impl crate::expression::Lookup for Names {
        fn service(&self, _: &str) -> Option<u16> {
            None
        }
        fn user(&self, name: &str) -> Result<u32, String> {
            NoNames.user(name)
        }
        fn netns(&self, name: &str) -> Result<u32, String> {
            name.parse().map_err(|_| "no number".to_owned())
        }
        fn cgroup(&self, path: &str) -> Result<CgroupTree, String> {
            Ok(CgroupTree {
                path: path.to_owned(),
                id: Some(9),
            })
        }
    }
    Expression::parse(text, &Names).unwrap()
}

/// Expressions, with the part for the programs and the rest.
const FOUND: &[(&str, &str, &str)] = &[
    ("", "", ""),
    ("dst 10.0.0.0/8", "dst 10.0.0.0/8", ""),
    ("not src [::1]", "not src [::1]/128", ""),
    ("dst 10.0.0.1:443", "dport 443 and dst 10.0.0.1/32", ""),
    ("host 10.0.0.1", "host 10.0.0.1/32", ""),
    ("not host 10.0.0.1", "not host 10.0.0.1/32", ""),
    (
        "src 10.0.0.1 or dst 10.0.0.2",
        "src 10.0.0.1/32 or dst 10.0.0.2/32",
        "",
    ),
    ("sport 80 or sport 443", "sport 80,443", ""),
    ("sport 80 or dport 80", "port 80", ""),
    ("sport >= 1024 and sport < 2048", "sport 1024-2047", ""),
    ("not sport 80", "not sport 80", ""),
    ("port != 80", "not sport 80 and not dport 80", ""),
    ("family ipv6 netns 7", "netns 7 and family ipv6", ""),
    ("not family ipv6", "family ipv4", ""),
    // All of IPv6 is what is not IPv4; another prefix that has the v4-mapped addresses is beyond the programs.
    ("src [::]/0", "not src 0.0.0.0/0", ""),
    ("not src [::]/0", "src 0.0.0.0/0", ""),
    ("dst [::]/8 sport 80", "sport 80", "dst [::]/8"),
    // Prefixes that are one.
    (
        "src 10.0.0.0/25 or src 10.0.0.128/25",
        "src 10.0.0.0/24",
        "",
    ),
    (
        "not src 10.0.0.0/25 and not src 10.0.0.128/25 and not dst 10.0.0.0/24",
        "not host 10.0.0.0/24",
        "",
    ),
    // A condition that follows from another is none.
    (
        "src 10.0.0.1 and ( src 10.0.0.1 or dport 80 )",
        "src 10.0.0.1/32",
        "src 10.0.0.1/32 or dport = 80",
    ),
    ("src * dst *:443", "dport 443", ""),
    // Two kinds are no clause, but each branch says something.
    (
        "src 10.0.0.1 or sport 80",
        "",
        "src 10.0.0.1/32 or sport = 80",
    ),
    (
        "dst 10.0.0.1:443 or dst 10.0.0.2:80",
        "dport 80,443 and ( dst 10.0.0.1/32 or dst 10.0.0.2/32 )",
        "dst 10.0.0.1/32:443 or dst 10.0.0.2/32:80",
    ),
    (
        "host 10.0.0.1:443",
        "port 443 and host 10.0.0.1/32",
        "host 10.0.0.1/32:443",
    ),
    (
        "sport 80 or dport 443",
        "port 80,443",
        "sport = 80 or dport = 443",
    ),
    // Not for the programs.
    (
        "state close-wait and dport 80",
        "dport 80",
        "state CLOSE_WAIT",
    ),
    (
        "state close-wait or dport 80",
        "",
        "state CLOSE_WAIT or dport = 80",
    ),
    ("not netns 7", "", "not netns 7"),
    ("pid 5 and dst 10.0.0.1", "dst 10.0.0.1/32", "pid = 5"),
    (
        "service 443 and role client",
        "port 443",
        "service = 443 and role client",
    ),
    (
        "cgroup /web and dst 10.0.0.1",
        "cgroup \"/web\" and dst 10.0.0.1/32",
        "cgroup \"/web\"",
    ),
    // It is never true.
    ("sport > 65535", "", "sport > 65535"),
    (
        "family ipv4 family ipv6",
        "family ipv4",
        "family ipv4 and family ipv6",
    ),
    ("not src *", "", "not src *"),
];

#[test]
fn what_the_programs_can_check_is_found() {
    for &(text, kernel, rest) in FOUND {
        let expression = parse(text);
        let necessary = expression.necessary();
        assert_eq!(necessary.to_string(), kernel, "{text}");
        assert_eq!(necessary.rest().to_string(), rest, "{text}");
        let config = necessary.kernel().config();
        assert_eq!(
            config == config::Filter::default(),
            kernel.is_empty(),
            "{text}"
        );
        let has_listeners =
            text.contains("pid") || text.contains("service") || text.contains("cgroup");
        assert_eq!(config.listeners != 0, has_listeners, "{text}");
    }
}

#[test]
fn as_many_prefixes_as_fit() {
    let many = |word: &str, join: &str, count: u8| {
        let all = (0..count).map(|number| format!("{word} 10.{number}.0.1"));
        all.collect::<Vec<_>>().join(join)
    };
    let used = |necessary: &Necessary| {
        let prefixes = necessary.kernel().config().prefixes;
        prefixes.iter().filter(|prefix| prefix.flags != 0).count()
    };
    for (text, expected) in [
        (many("src", " or ", 8), 8),
        // Without one of them it would be wrong.
        (many("src", " or ", 9), 0),
        (many("not src", " and ", 9), 8),
        (many("not src", " and ", 200), 8),
        // The prefix that leaves out more comes first.
        (format!("{} dst 192.0.2.1", many("not src", " and ", 8)), 8),
    ] {
        let expression = parse(&text);
        let necessary = expression.necessary();
        assert_eq!(used(&necessary), expected, "{text}");
        let is_whole = expected == 8 && text.matches("10.").count() == 8 && !text.contains("dst");
        assert_eq!(necessary.rest().wants_all(), is_whole, "{text}");
        if text.contains("dst") {
            assert!(necessary.to_string().starts_with("dst 192.0.2.1/32 and "));
        }
    }
}

/// Clauses that multiply are bounded: else it would take memory without end.
#[test]
fn the_longest_expression_is_no_burden() {
    for join in [" ", " or "] {
        let parts = (0..200).map(|number| {
            format!("( src 10.0.{number}.1 or dst [fd00::{number}] ) ( sport {number} or dport 7 )")
        });
        let text = parts.collect::<Vec<_>>().join(join);
        let necessary = parse(&text).necessary();
        assert_eq!(necessary.rest(), &parse(&text));
    }
}

/// The truth in the BPF programs, but for cgroups.
fn in_kernel(filter: &KernelFilter<'_>, event: &Event) -> Truth {
    static NO_PORTS: PortBitmap = [0; PORT_WORDS];
    let config = filter.config();
    if config.netns != 0 && event.netns() != Some(config.netns) {
        return Truth::No;
    }
    let sets = filter.bitmaps().map(|bitmap| bitmap.unwrap_or(&NO_PORTS));
    let condition = (&config, sets);
    let record = event.record();
    let word = |octets: &[u8]| u64::from_ne_bytes(octets.try_into().unwrap());
    let words = |octets: [u8; 16]| [word(&octets[..8]), word(&octets[8..])];
    let ends = Addresses {
        local: words(record.laddr),
        remote: words(record.raddr),
    };
    let key = super::super::stream::key(event);
    assert_eq!(condition.family(), config.family);
    let all = judge_ports(&condition, &key)
        .and(judge_family(&condition, &key, &ends))
        .and(judge_addresses(&condition, &key, &ends));
    match (all.is, all.may) {
        (true, _) => Truth::Yes,
        (false, true) => Truth::Unknown,
        (false, false) => Truth::No,
    }
}

const fn rank(truth: Truth) -> u8 {
    match truth {
        Truth::No => 0,
        Truth::Unknown => 1,
        Truth::Yes => 2,
    }
}

/// A socket with its events, and the event that shows it as it is once all is known.
#[derive(Clone, Debug)]
struct Socket {
    events: Vec<Event>,
    role: Role,
    /// The process that it belongs to.
    pid: Option<u32>,
}

impl Socket {
    fn settled(&self) -> &Event {
        self.events.last().unwrap()
    }
}

/// Everything about a socket.
struct All<'a>(&'a Socket);

impl All<'_> {
    fn now<T>(&self, of: impl FnOnce(&EventFacts<'_>) -> T) -> T {
        let event = self.0.settled();
        of(&EventFacts {
            event,
            latest: event,
            applied: None,
            cgroups: &Cgroups::default(),
            with_holders: true,
        })
    }
}

impl Facts for All<'_> {
    fn address(&self, side: Side) -> Option<IpAddr> {
        self.now(|facts| facts.address(side))
    }
    fn port(&self, side: Side) -> Option<u16> {
        self.now(|facts| facts.port(side))
    }
    fn is_ipv4(&self) -> Option<bool> {
        self.now(|facts| facts.is_ipv4())
    }
    fn service_port(&self) -> Option<u16> {
        let event = self.0.settled();
        self.0.role.service_port(event.lport(), event.rport())
    }
    fn is_in(&self, states: StateSet) -> Truth {
        self.now(|facts| facts.is_in(states))
    }
    fn role(&self) -> Option<Role> {
        Some(self.0.role)
    }
    fn netns(&self) -> Option<u32> {
        self.0.settled().netns()
    }
    fn uid(&self) -> Option<u32> {
        None
    }
    fn is_below(&self, _: &CgroupTree) -> Truth {
        Truth::Yes
    }
    fn judge_cgroup(&self, _: WantedCgroup<'_>) -> Truth {
        Truth::Yes
    }
    fn any_process(&self, is_wanted: Wanted<'_>) -> Truth {
        self.0
            .pid
            .map_or(Truth::Unknown, |pid| is_wanted(Some(pid), None))
    }
    fn number(&self, _: Field) -> Option<Bounds> {
        None
    }
}

/// Addresses of each family that a prefix below may have.
fn address(family: Kind) -> impl Strategy<Value = IpAddr> {
    let all = match family {
        Kind::Ipv6 => ["2001:db8::1", "2001:db8:1::1", "fd00::2", "::1"],
        Kind::Ipv4 | Kind::Mapped => ["10.0.0.1", "10.1.0.1", "192.0.2.7", "127.0.0.1"],
    };
    prop::sample::select(all.to_vec()).prop_map(|text| text.parse().unwrap())
}

/// The family of a socket, and how its addresses are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ipv4,
    Mapped,
    Ipv6,
}

fn event(
    kind: Kind,
    (oldstate, newstate): (State, State),
    (laddr, lport): (IpAddr, u16),
    (raddr, rport): (IpAddr, u16),
) -> Event {
    let octets = |address: IpAddr| match address {
        // Of an IPv6 socket it is `::`.
        IpAddr::V4(v4) if v4.is_unspecified() && kind == Kind::Mapped => [0; 16],
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    Event::try_from(Record {
        cookie: 7,
        flags: flags::SOCKET | flags::COOKIE,
        netns: NETNS,
        laddr: octets(laddr),
        raddr: octets(raddr),
        lport,
        rport,
        family: if kind == Kind::Ipv4 {
            AF_INET
        } else {
            AF_INET6
        },
        oldstate,
        newstate,
        ..Record::default()
    })
    .unwrap()
}

/// A connection of any kind on any kernel, and the listener of a server's.
fn socket() -> impl Strategy<Value = (Socket, Option<Event>)> {
    let kind = prop_oneof![Just(Kind::Ipv4), Just(Kind::Mapped), Just(Kind::Ipv6)];
    let ports = prop::sample::select(vec![22u16, 80, 443, 1024, 40_000]);
    kind.prop_flat_map(move |kind| {
        (
            (address(kind), ports.clone()),
            (address(kind), ports.clone()),
            0..6u8,
            any::<bool>(),
            prop::option::of(1..4u32),
        )
            .prop_map(move |(local, remote, way, is_bound, pid)| {
                let any: IpAddr = match kind {
                    Kind::Ipv6 => "::".parse().unwrap(),
                    Kind::Ipv4 | Kind::Mapped => "0.0.0.0".parse().unwrap(),
                };
                let none = (any, 0);
                let listens_at = (if is_bound { local.0 } else { any }, local.1);
                let listener = event(kind, (State::CLOSE, State::LISTEN), listens_at, none);
                let at = |change, local, remote| event(kind, change, local, remote);
                let ended = at((State::ESTABLISHED, State::CLOSE), local, remote);
                let connect = (State::CLOSE, State::SYN_SENT);
                let birth = (State::LISTEN, State::SYN_RECV);
                let (role, events, listener) = match way {
                    0 => {
                        let port = if is_bound { local.1 } else { 0 };
                        let first = at(connect, (local.0, port), remote);
                        (Role::Client, vec![first, ended], None)
                    }
                    1 => (
                        Role::Client,
                        vec![at(connect, (any, 0), remote), ended],
                        None,
                    ),
                    // No port was free.
                    2 => {
                        let local = (local.0, 0);
                        let failed = at((State::SYN_SENT, State::CLOSE), local, remote);
                        (Role::Client, vec![at(connect, local, remote), failed], None)
                    }
                    // Older kernels, newer ones, and any that knows only the port yet.
                    3 => (
                        Role::Server,
                        vec![at(birth, listens_at, none), ended],
                        Some(listener),
                    ),
                    4 => (
                        Role::Server,
                        vec![at(birth, local, remote), ended],
                        Some(listener),
                    ),
                    5 => {
                        let remote = (any, remote.1);
                        (
                            Role::Server,
                            vec![at(birth, listens_at, remote), ended],
                            Some(listener),
                        )
                    }
                    _ => unreachable!(),
                };
                (Socket { events, role, pid }, listener)
            })
    })
}

fn expression() -> impl Strategy<Value = Expression> {
    let term = prop_oneof![
        4 => "(src|dst|host) (10\\.0\\.0\\.1|10\\.0\\.0\\.0/15|10\\.0\\.0\\.0/8|0\\.0\\.0\\.0/0|192\\.0\\.2\\.7)(:80)?",
        4 => "(src|dst|host) \\[(2001:db8::|2001:db8:1::|::|fd00::)\\]/(0|32|48|64|128)(:443)?",
        3 => "(sport|dport|port) (=|!=|<|>|<=|>=) (0|22|80|443|40000)",
        2 => "(sport|dport|port) 22,80",
        1 => "portrange 22-443",
        1 => "service (=|<) 443",
        1 => "family ipv[46]",
        1 => "netns [78]",
        1 => "pid [123]",
        1 => "role (client|server)",
        1 => "cgroup /web",
        1 => "newstate close",
        1 => "(src|dst) \\*",
    ]
    .prop_map(|text| parse(&text).0.unwrap());
    let node = term.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|node| Node::Not(Box::new(node))),
            prop::collection::vec(inner.clone(), 2..5).prop_map(Node::And),
            prop::collection::vec(inner, 2..5).prop_map(Node::Or),
        ]
    });
    node.prop_map(|node| Expression(Some(node)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// It keeps all events of a socket that the expression matches or may match, with its listener if that says who it
    /// belongs to; and where it is all, it leaves out what the expression does.
    #[test]
    fn it_never_leaves_out_what_may_match(
        expression in expression(),
        (socket, listener) in socket(),
    ) {
        let necessary = expression.necessary();
        let kernel = necessary.kernel();
        let knows_service = !expression.has(&|term| matches!(term, Term::Service(..)));
        let lasting = expression.lasting();
        let whole = lasting.judge(&All(&socket));
        for event in &socket.events {
            let ours = in_kernel(&kernel, event);
            if whole != Truth::No {
                prop_assert_ne!(ours, Truth::No, "{} {}: {:?}", &expression, &necessary, event);
            }
            // As the gate judges it when nothing else is known.
            let facts = EventFacts {
                event,
                latest: event,
                applied: None,
                cgroups: &Cgroups::default(),
                with_holders: true,
            };
            let theirs = expression.judge(&facts);
            if knows_service {
                prop_assert!(rank(ours) >= rank(theirs), "{} {}: {:?}", &expression, &necessary, event);
            }
            if necessary.rest().wants_all() {
                prop_assert_eq!(ours, theirs, "{} {}: {:?}", &expression, &necessary, event);
            }
        }
        if whole != Truth::No && expression.needs_history() && let Some(listener) = &listener {
            prop_assert_ne!(in_kernel(&kernel, listener), Truth::No, "{}", &expression);
        }
    }

    /// The two parts that are shown are the whole.
    #[test]
    fn with_the_rest_it_is_the_expression(expression in expression(), (socket, _) in socket()) {
        let necessary = expression.necessary();
        let both = necessary.expression().and(necessary.rest().clone());
        prop_assert_eq!(
            both.judge(&All(&socket)) == Truth::Yes,
            expression.judge(&All(&socket)) == Truth::Yes,
            "{}: {} and {}", &expression, &necessary, necessary.rest()
        );
    }
}

use std::net::IpAddr;

use proptest::prelude::*;
use tcpstate_common::State;

use super::*;
use crate::{
    filter::{CgroupTree, OwnerFilter, StateSet},
    names::Cgroup,
    owner::{Comm, How, Owner},
    service::Role,
};

/// Knows a few names.
struct Names;

impl Lookup for Names {
    fn service(&self, name: &str) -> Option<u16> {
        let services = [("http", 80), ("https", 443), ("ssh", 22)];
        let found = services.iter().find(|(service, _)| *service == name);
        found.map(|&(_, port)| port)
    }

    fn user(&self, name: &str) -> Result<u32, String> {
        match name {
            "web" => Ok(33),
            name => name.parse().map_err(|_| format!("`{name}` is not a user")),
        }
    }

    fn netns(&self, name: &str) -> Result<u32, String> {
        name.parse().map_err(|_| format!("no namespace `{name}`"))
    }

    fn cgroup(&self, path: &str) -> Result<CgroupTree, String> {
        NoNames.cgroup(path)
    }
}

pub(super) fn parse(text: &str) -> Result<Expression, ExpressionError> {
    Expression::parse(text, &Names)
}

/// The expression as it is read, with all that was left out.
fn read(text: &str) -> String {
    parse(text).unwrap().to_string()
}

/// A connection from 10.1.2.3:40000 to 192.0.2.1:443, or what is changed of it.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) local: (IpAddr, u16),
    pub(super) remote: (IpAddr, u16),
    pub(super) state: State,
    pub(super) owner: Option<Owner>,
    pub(super) dwell: Option<Bounds>,
    pub(super) cgroup: Option<Cgroup>,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            local: ("10.1.2.3".parse().unwrap(), 40_000),
            remote: ("192.0.2.1".parse().unwrap(), 443),
            state: State::ESTABLISHED,
            owner: None,
            dwell: None,
            cgroup: Some(Cgroup::of("/system.slice/web.service")),
        }
    }
}

impl Known {
    fn end(&self, side: Side) -> (IpAddr, u16) {
        match side {
            Side::Local => self.local,
            Side::Remote => self.remote,
        }
    }
}

impl Facts for Known {
    fn address(&self, side: Side) -> Option<IpAddr> {
        Some(self.end(side).0)
    }
    fn port(&self, side: Side) -> Option<u16> {
        Some(self.end(side).1)
    }
    fn is_ipv4(&self) -> Option<bool> {
        Some(self.local.0.is_ipv4() || self.remote.0.is_ipv4())
    }
    fn service_port(&self) -> Option<u16> {
        Some(443)
    }
    fn is_in(&self, states: StateSet) -> Truth {
        states.contains(self.state).into()
    }
    fn role(&self) -> Option<Role> {
        Some(Role::Client)
    }
    fn netns(&self) -> Option<u32> {
        Some(7)
    }
    fn uid(&self) -> Option<u32> {
        Some(33)
    }
    fn is_below(&self, tree: &CgroupTree) -> Truth {
        Truth::of(tree.has(None, self.cgroup.as_ref().map(Cgroup::path)))
    }
    fn judge_cgroup(&self, is_wanted: WantedCgroup<'_>) -> Truth {
        self.cgroup.as_ref().map_or(Truth::Unknown, is_wanted)
    }
    fn any_process(&self, is_wanted: Wanted<'_>) -> Truth {
        let owner = self.owner.unwrap_or(Owner::UNKNOWN);
        facts::any_process(&owner, &[], is_wanted)
    }
    fn number(&self, field: Field) -> Option<Bounds> {
        self.dwell.filter(|_| field == Field::Dwell)
    }
}

fn judge(text: &str, known: &Known) -> Truth {
    parse(text).unwrap().judge(known)
}

#[test]
fn the_grammar_is_that_of_ss() {
    for (text, expected) in [
        ("", ""),
        ("  ", ""),
        ("dport = :443", "dport = 443"),
        ("dport :443", "dport = 443"),
        ("dport 443", "dport = 443"),
        ("dport eq https", "dport = 443"),
        ("dport==:https", "dport = 443"),
        ("dport != :443", "not dport = 443"),
        ("sport ge :80 sport lt 90", "sport >= 80 and sport < 90"),
        ("dst 10.0.0.0/8", "dst 10.0.0.0/8"),
        ("dst = 10/8", "dst 10.0.0.0/8"),
        ("dst 193.233.7/24", "dst 193.233.7.0/24"),
        ("dst 10.1.2.3/8:80", "dst 10.0.0.0/8:80"),
        ("src [::1]:80", "src [::1]/128:80"),
        ("src [2001:db8::]/32", "src [2001:db8::]/32"),
        ("src [2001:db8::/32]:80", "src [2001:db8::]/32:80"),
        ("src ::1", "src [::1]/128"),
        ("src fe80::/10", "src [fe80::]/10"),
        ("src *", "src *"),
        ("src *:22", "src *:22"),
        ("src :ssh", "src *:22"),
        ("src [::ffff:10.0.0.0]/104", "src 10.0.0.0/8"),
        ("host 10.0.0.1 port 80", "host 10.0.0.1/32 and port = 80"),
        (
            "net 10/8 portrange 1-1023",
            "host 10.0.0.0/8 and portrange 1-1023",
        ),
        ("state established", "state ESTABLISHED"),
        (
            "state fin-wait-1 state fin-wait-2",
            "state FIN_WAIT1,FIN_WAIT2",
        ),
        (
            "state fin-wait-1,time-wait exclude time-wait",
            "state FIN_WAIT1",
        ),
        (
            "state syn-recv exclude new_syn_recv",
            "state SYN_RECV exclude NEW_SYN_RECV",
        ),
        ("exclude all", "exclude all"),
        ("user web or uid 5", "uid 33 or uid 5"),
        ("comm nginx,php*", "comm \"nginx,php*\""),
        ("comm 'a b'", "comm \"a b\""),
        ("unit nginx", "unit \"nginx.service\""),
        ("unit a@1,b.scope,php*", "unit \"a@1.service,b.scope,php*\""),
        ("unit dev-sda\\x2d1.swap", "unit \"dev-sda\\x2d1.swap\""),
        ("container 3f2a*,web", "container \"3f2a*,web\""),
        ("pod shop/web-*", "pod \"shop/web-*\""),
        ("dwell > 1.5s", "dwell > 1500000000ns"),
        ("bytes_sent >= 1M", "bytes_sent >= 1048576"),
        ("role server", "role server"),
        ("sport 80,443,8000-8100", "sport 80,443,8000-8100"),
        ("dport = 90,80-85", "dport 80-85,90"),
        ("port != 1-1023", "not port 1-1023"),
        ("port 80,80", "port = 80"),
        ("oldstate syn-sent", "oldstate SYN_SENT"),
        ("newstate = close,close-wait", "newstate CLOSE,CLOSE_WAIT"),
        ("cause Refused,econnaborted", "cause refused,ECONNABORTED"),
        ("lifetime < 2s", "lifetime < 2000000000ns"),
        ("handshake >= 5ms", "handshake >= 5000000ns"),
        ("( ( sport 1 ) )", "sport = 1"),
        ("!sport 1", "not sport = 1"),
        ("not not sport 1", "not not sport = 1"),
        ("not ( sport 1 sport 2 )", "not ( sport = 1 and sport = 2 )"),
    ] {
        assert_eq!(read(text), expected, "{text}");
        // The written form can be read again.
        assert_eq!(read(expected), expected, "{text}");
    }
}

#[test]
fn and_binds_tighter_than_or_whether_written_or_not() {
    let expected = "sport = 1 or ( sport = 2 and sport = 3 )";
    for text in [
        "sport 1 or sport 2 and sport 3",
        "sport 1 || sport 2 && sport 3",
        "sport 1|sport 2&sport 3",
        "sport 1 or sport 2 sport 3",
        "sport 1 or (sport 2 sport 3)",
    ] {
        assert_eq!(read(text), expected, "{text}");
    }
    assert_eq!(
        read("( sport 1 or sport 2 ) not sport 3 and sport 4"),
        "( sport = 1 or sport = 2 ) and not sport = 3 and sport = 4"
    );
}

#[test]
fn an_error_shows_its_place_and_the_word_that_was_meant() {
    for (text, marked, part) in [
        (
            "state establised",
            "establised",
            "did you mean `established`?",
        ),
        ("dprot = :443", "dprot", "did you mean `dport`?"),
        ("sport 80 or", "", "a condition is missing"),
        ("or sport 80", "or", "not `or`"),
        ("sport 80 and and sport 1", "and", "not `and`"),
        ("( sport 80", "", "a `)` is missing here"),
        ("sport 80 )", ")", "has no `(`"),
        ("sport", "", "`sport [OP] PORT|LIST`"),
        ("sport =", "", "a value is missing"),
        ("sport 70000", "70000", "ports are 0 to 65535"),
        ("sport htpt", "htpt", "/etc/services"),
        ("dst example.com", "example.com", "names are not looked up"),
        ("dst [::1", "[::1", "has no `]`"),
        ("dst 10.0.0.0/33", "10.0.0.0/33", "is no address"),
        ("role = both", "both", "client or server"),
        ("role > client", ">", "no order"),
        ("src < 10.0.0.1", "<", "no order"),
        ("dwell > soon", "soon", "not a duration"),
        ("user nobody1", "nobody1", "is not a user"),
        ("dev eth0", "dev", "not supported"),
        ("portrange 9-8", "9-8", "is no range"),
        ("sport 1 xyzzy", "xyzzy", "the words are src"),
        ("comm 'a b", "'", "this quote is not closed"),
        ("comm \"a b' and sport 1", "\"", "this quote is not closed"),
        ("sport < 80,443", "80,443", "a list of ports takes only"),
        ("sport 80,x", "80,x", "`x` is not a port"),
        ("sport ,80", ",80", "an empty item"),
        ("sport 80,", "80,", "an empty item"),
        ("state ,", ",", "an empty item"),
        ("newstate close,,listen", "close,,listen", "an empty item"),
        ("cause fin,", "fin,", "an empty item"),
        ("comm a,,b", "a,,b", "an empty item"),
        ("unit ,", ",", "nginx.service,php*"),
        ("pod > web", ">", "no order"),
        ("pid 4294967296", "4294967296", "at most 4294967295"),
        ("pid x", "x", "`x` is no number"),
        (
            "retransmits > 99999999999999999999",
            "99999999999999999999",
            "at most 18446744073709551615",
        ),
        (
            "dwell > 99999999999999d",
            "99999999999999d",
            "at most 213503d",
        ),
        (
            "bytes_sent > 99999999999G",
            "99999999999G",
            "at most 17179869183G",
        ),
        ("cause closed", "closed", "the causes are fin"),
        ("oldstate open", "open", "not a TCP state"),
        ("newstate > close", ">", "no order"),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(text.get(error.at()), Some(marked), "{text}: {error}");
        assert!(error.message().contains(part), "{text}: {error}");
    }
    assert_eq!(
        parse("sport 80 and dprot 1").unwrap_err().to_string(),
        "`dprot` begins no condition; did you mean `dport`?\n    sport 80 and dprot 1\n                 ^^^^^"
    );
}

#[test]
fn hostile_lengths_and_depths_are_refused() {
    let deep = "(".repeat(10_000) + "sport 1";
    for text in [deep, "! ".repeat(7_000) + "sport 1"] {
        let error = parse(&text).unwrap_err();
        assert!(error.message().contains("more than 64"), "{error}");
    }
    let error = parse(&"sport 1 ".repeat(4_000)).unwrap_err();
    assert!(error.message().contains("longer than 16 KiB"), "{error}");
    // As many conditions as fit.
    assert!(parse(&"sport 1 ".repeat(2_000)).is_ok());
}

#[test]
fn ends_ports_and_families() {
    let v4 = Known::default();
    let v6 = Known {
        local: ("2001:db8::1".parse().unwrap(), 40_000),
        remote: ("2001:db8:1::2".parse().unwrap(), 443),
        ..Known::default()
    };
    for (text, of_v4, of_v6) in [
        ("src 10.0.0.0/8", true, false),
        ("src 192.0.2.0/24", false, false),
        ("dst 192.0.2.1:443", true, false),
        ("dst 192.0.2.1:80", false, false),
        ("host 192.0.2.1", true, false),
        ("host [2001:db8::]/48", false, true),
        ("dst [2001:db8::]/48", false, false),
        // A prefix is of one family.
        ("src 0.0.0.0/0", true, false),
        ("src [::]/0", false, true),
        ("src *", true, true),
        ("not src 0.0.0.0/0", false, true),
        ("port 443", true, true),
        ("port != 443", false, false),
        ("sport > 39999 and sport <= 40000", true, true),
        ("portrange 400-500", true, true),
        ("family ipv6", false, true),
        ("service 443 role client uid web netns 7", true, true),
        ("cgroup /system.slice", true, true),
        ("cgroup /system.sli", false, false),
        ("cgroup /", true, true),
        ("state connected", true, true),
        ("exclude established", false, false),
        ("dport 80 or dport 443", true, true),
    ] {
        assert_eq!(judge(text, &v4), of_v4.into(), "{text}");
        assert_eq!(judge(text, &v6), of_v6.into(), "{text}");
    }
}

#[test]
fn what_is_not_known_is_neither_true_nor_false() {
    let known = Known::default();
    for text in [
        "pid 1",
        "not pid 1",
        "comm *",
        "pid 1 or dport 80",
        "pid 1 and dport 443",
    ] {
        assert_eq!(judge(text, &known), Truth::Unknown, "{text}");
    }
    assert_eq!(judge("pid 1 or dport 443", &known), Truth::Yes);
    assert_eq!(judge("pid 1 and dport 80", &known), Truth::No);

    let at_least = |least, most| Known {
        dwell: Some(Bounds { least, most }),
        ..Known::default()
    };
    let bound = at_least(5, u64::MAX);
    for (text, truth) in [
        ("dwell > 4ns", Truth::Yes),
        ("dwell >= 5ns", Truth::Yes),
        ("dwell > 5ns", Truth::Unknown),
        ("dwell < 5ns", Truth::No),
        ("dwell <= 5ns", Truth::Unknown),
        ("dwell = 5ns", Truth::Unknown),
        ("dwell = 4ns", Truth::No),
    ] {
        assert_eq!(judge(text, &bound), truth, "{text}");
    }
    assert_eq!(judge("dwell = 5ns", &at_least(5, 5)), Truth::Yes);
}

#[test]
fn a_name_given_as_an_option_is_no_pattern() {
    let comm = |name: &[u8]| {
        let mut comm = Comm::default();
        comm.0[..name.len()].copy_from_slice(name);
        comm
    };
    let filter = OwnerFilter {
        comms: vec![comm(b"a*\\b\t")],
        ..OwnerFilter::default()
    };
    let expression = Expression::from(&filter);
    for (name, expected) in [
        (&b"a*\\b\t"[..], Truth::Yes),
        (b"ax\\b\t", Truth::No),
        (b"a*\\\\b\t", Truth::No),
    ] {
        let known = Known {
            owner: Some(Owner {
                pid: Some(5),
                comm: Some(comm(name)),
                how: How::Exact,
            }),
            ..Known::default()
        };
        assert_eq!(expression.judge(&known), expected, "{name:?}");
    }
}

#[test]
fn names_match_patterns() {
    let named = |name: &str| {
        let mut comm = Comm::default();
        comm.0[..name.len()].copy_from_slice(name.as_bytes());
        Known {
            owner: Some(Owner {
                pid: Some(5),
                comm: Some(comm),
                how: How::Exact,
            }),
            ..Known::default()
        }
    };
    for (text, name, is_match) in [
        ("comm nginx", "nginx", true),
        ("comm nginx", "nginx2", false),
        ("comm ngin", "nginx", false),
        ("comm ngin*", "nginx", true),
        ("comm *x", "nginx", true),
        ("comm n*i*x", "nginx", true),
        ("comm n*y", "nginx", false),
        ("comm ngin?", "nginx", true),
        ("comm ?", "nginx", false),
        ("comm *", "nginx", true),
        ("comm a,nginx", "nginx", true),
        ("comm *ab", "aab", true),
        // As the kernel cuts it.
        ("comm containerd-shim-runc-v2", "containerd-shim", true),
        ("comm containerd-shim-runc-v2", "containerd", false),
        ("comm containerd-shim*", "containerd-shim", true),
        ("comm != nginx", "nginx", false),
        ("pid 5", "nginx", true),
        ("pid > 5", "nginx", false),
        ("pid != 5", "nginx", false),
    ] {
        assert_eq!(judge(text, &named(name)), is_match.into(), "{text}: {name}");
    }
}

pub(super) fn node() -> impl Strategy<Value = Node> {
    let term = prop_oneof![
        "[sd]port (=|>|<=) [1-9][0-9]{0,3}",
        "(sport|dport|port) (=|!=) [1-9],[1-9][0-9],[1-4]0-[5-9]0",
        "family ipv[46]",
        "(src|dst|host) [1-9][0-9]?\\.0\\.0\\.0/8",
        "(src|dst|host) \\[2001:db8::\\]/(32|48)(:80)?",
        "state (listen|established,time-wait|big)",
        "comm \"[a-z*? ]{1,6}(,[a-z*? ]{1,6})?\"",
        "(unit|container|pod) \"[a-z0-9*?./ ]{1,6}(,[a-z*?]{1,6})?\"",
        "dwell > [1-9][0-9]{0,5}ms",
    ]
    .prop_map(|text| parse(&text).unwrap().0.unwrap());
    term.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|node| Node::Not(Box::new(node))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Node::And),
            prop::collection::vec(inner, 2..4).prop_map(Node::Or),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_as_the_same(node in node()) {
        let expression = Expression(Some(node));
        prop_assert_eq!(parse(&expression.to_string()), Ok(expression));
    }

    #[test]
    fn no_text_makes_it_panic(text in "([a-z =!<>()&|:/\\[\\]'\"0-9.*]|\\PC){0,60}") {
        if let Err(error) = parse(&text) {
            prop_assert!(!error.message().is_empty());
            prop_assert!(text.get(error.at()).is_some(), "{:?}", error);
            prop_assert_eq!(error.to_string().lines().count(), 3);
        }
    }
}

#[test]
fn a_field_that_is_not_known_is_refused_with_the_command_that_knows_it() {
    let refused = |moment, text| {
        let error = Expression::parse_for(moment, text, &Names).unwrap_err();
        (text.get(error.at()).unwrap(), error.message().to_owned())
    };
    for (moment, text, marked, known_to) in [
        (
            Moment::List,
            "sport 1 oldstate close",
            "oldstate",
            "`tcpstate trace`",
        ),
        (
            Moment::List,
            "cause fin",
            "cause",
            "`tcpstate trace`, `tcpstate life`",
        ),
        (
            Moment::End,
            "dwell > 1s",
            "dwell",
            "`tcpstate ls`, `tcpstate trace`",
        ),
        (
            Moment::Always,
            "not state close",
            "state",
            "`tcpstate ls`, `tcpstate trace`, `tcpstate life`",
        ),
        (
            Moment::Present,
            "state close-wait lifetime > 1s",
            "lifetime",
            "`tcpstate trace`, `tcpstate life`",
        ),
    ] {
        let (at, message) = refused(moment, text);
        assert_eq!(at, marked, "{text}");
        assert!(message.ends_with(known_to), "{text}: {message}");
    }
    for word in WORDS {
        // Each is known somewhere; what is known at any time, at all.
        assert!(!word.known.is_empty());
        assert_eq!(
            word.is_known(Moment::Always),
            word.known.len() == 5,
            "{}",
            word.name
        );
    }
}

#[test]
fn what_lasts_is_what_all_events_of_a_socket_share() {
    for (text, lasting) in [
        ("", ""),
        ("sport 1", "sport = 1"),
        ("newstate close", ""),
        ("sport 1 and newstate close", "sport = 1"),
        ("sport 1 or newstate close", ""),
        ("not newstate close", ""),
        ("not ( sport 1 and newstate close )", ""),
        ("not ( sport 1 or newstate close )", "not sport = 1"),
        (
            "( sport 1 or dport 2 ) not cause fin",
            "sport = 1 or dport = 2",
        ),
        (
            "not ( sport 1 and not ( dport 2 dwell > 1s ) )",
            "not sport = 1 or dport = 2",
        ),
        ("not not sport 1", "sport = 1"),
    ] {
        assert_eq!(
            parse(text).unwrap().lasting().to_string(),
            lasting,
            "{text}"
        );
    }
}

proptest! {
    /// Whatever the rest of it says, a socket for which the lasting part is false is never shown.
    #[test]
    fn what_lasts_is_necessary(node in node(), dwell in prop::option::of(0..2_000_000_000u64)) {
        let expression = Expression(Some(node));
        let known = Known { dwell: dwell.map(Bounds::exactly), ..Known::default() };
        let lasting = expression.lasting();
        prop_assert!(!lasting.has(&|term| !term.is_lasting()));
        if expression.judge(&known) == Truth::Yes {
            prop_assert_eq!(lasting.judge(&known), Truth::Yes);
        }
    }
}

//! The help about filter expressions: `tcpstate help filter`, and the man page tcpstate-filter(7).
//!
//! The conditions come from the vocabulary that the parser uses.

use std::fmt::Write as _;

use tcpstate_core::expression::{Moment, WORDS};

/// The title of the page.
pub const ABOUT: &str = "filter expressions: which sockets are wanted";

/// Columns of the page.
const WIDTH: usize = 80;

/// The page: sections of lines that fit 80 columns, each with a heading that a colon ends.
pub fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    page.push_str("\nConditions:\n");
    for word in WORDS {
        let condition = format!("{} {}", word.name, word.form);
        // A String takes all. A text that has no room beside it stands below it.
        let _ = if word.doc.len() <= WIDTH - 38 {
            writeln!(page, "  {condition:<35} {}", word.doc)
        } else {
            writeln!(page, "  {condition}\n      {}", word.doc)
        };
    }
    page.push_str("\nWhere they are known:\n");
    for (commands, words) in places() {
        let _ = writeln!(page, "  {commands:<15}  {}", words.join(", "));
    }
    page.push_str("  all of them      all others\n");
    page.push_str("\nValues:\n");
    for (value, meaning) in VALUES {
        for (at, line) in meaning.lines().enumerate() {
            let value = if at == 0 { value } else { "" };
            let _ = writeln!(page, "  {value:<9} {line}");
        }
    }
    page.push_str(REST);
    page.push_str("\nExamples:\n");
    for (expression, meaning) in EXAMPLES {
        let _ = writeln!(page, "  {expression}\n      {meaning}");
    }
    page
}

/// The commands that know only some conditions, each with these; the same commands together.
fn places() -> Vec<(String, Vec<&'static str>)> {
    const COMMANDS: [(Moment, &str); 4] = [
        (Moment::Change, "trace"),
        (Moment::End, "life"),
        (Moment::Always, "hist, rates, record"),
        (Moment::List, "ls"),
    ];
    let mut places: Vec<(String, Vec<&str>)> = Vec::new();
    for word in WORDS {
        let known = COMMANDS.into_iter().filter(|&(at, _)| word.is_known(at));
        let known: Vec<_> = known.map(|(_, command)| command).collect();
        if known.len() == COMMANDS.len() {
            continue;
        }
        let known = known.join(", ");
        match places.iter_mut().find(|(commands, _)| *commands == known) {
            Some((_, words)) => words.push(word.name),
            None => places.push((known, vec![word.name])),
        }
    }
    places
}

const INTRODUCTION: &str = "\
Synopsis:
  tcpstate COMMAND [OPTIONS] 'EXPRESSION'

Description:
  An expression says which sockets are wanted, in the language of ss(8). The
  commands whose usage has [FILTER] take one. It may be one argument or
  several. The shell has a use of its own for ( ) < > ! & | * and ?, so quotes
  around the whole are the easiest.

Grammar:
  EXPRESSION and EXPRESSION    both; also & and &&, or nothing between them
  EXPRESSION or EXPRESSION     either; also | and ||
  not EXPRESSION               not this; also !
  ( EXPRESSION )               and binds tighter than or
  WORD [OP] VALUE              a condition, see below

Operators:
  OP is = == eq, != ne neq, < lt, <= le leq, > gt, >= ge geq. Without one it
  is =. Words without an order take only = and !=. A VALUE with blanks or any
  of ( ) ! & | = < > in it needs quotes of its own: comm \"my server\".

Truth:
  An unknown fact is neither true nor false, and so is what depends on it,
  with not before it too. Such a socket is left out, and the summary counts
  it as undecided.
  A client has no local port yet at its first change. Where it is asked for
  (sport, port, src with a port, and with not before them), that change waits
  for the next one, so a client that gets no answer is shown when it ends.
";

/// The meaning of each word in capitals in the forms of the conditions.
const VALUES: [(&str, &str); 11] = [
    (
        "ADDRESS",
        "192.0.2.1, [2001:db8::1], or * for any; [2001:db8::1]:443 has a port",
    ),
    (
        "BITS",
        "makes it a prefix: 10.0.0.0/8, [2001:db8::]/32; 193.233.7/24 will do",
    ),
    (
        "PORT",
        "443, :443, or the name of a service in /etc/services: https",
    ),
    (
        "LIST",
        "with commas: established,time-wait; in either case, - or _",
    ),
    ("NUMBER", "a whole number"),
    (
        "DURATION",
        "500ms, 10s, 1h30m: a number with ns, us, ms, s, m, h or d; without a\nunit, seconds",
    ),
    (
        "SIZE",
        "bytes, or a number with K, M or G (powers of 1,024): 64K",
    ),
    ("USER", "a name in /etc/passwd, or a number"),
    (
        "GLOB",
        "a name, with * for any characters and ? for one; the kernel keeps 15\nbytes of a process's name",
    ),
    (
        "PATH",
        "/system.slice/nginx.service, as in /proc/PID/cgroup; or the path of\nits directory",
    ),
    (
        "NETNS",
        "self, a name of ip netns, a path such as /proc/PID/ns/net, or the\ninode number",
    ),
];

const REST: &str = "
In the kernel:
  Commands that watch have the kernel decide what it can: ports, families, up
  to eight prefixes of addresses, a network namespace, a cgroup (not with
  --attach tracepoint), joined by and; alternatives of one kind, as in
  src 10.0.0.0/8 or dst 10.0.0.0/8. A socket that it leaves out costs little.
  --explain-filter says what it decides of an expression.

Differences to ss(8):
  - and binds tighter than or, as the manual of ss says. The program ss takes
    both from left to right: write parentheses, and they agree.
  - A prefix of one family matches no address of the other. In ss,
    src 0.0.0.0/0 is true of IPv6 too.
  - Sockets with v4-mapped addresses (::ffff:192.0.2.1) are IPv4.
  - state and exclude may stand anywhere and take lists; a row of them is one
    condition.
  - cgroup is true of the cgroups below it too.
  - Names of hosts are not looked up. dev, fwmark and autobound are refused.

Differences to tcpdump(8):
  - src and dst are ends of a socket, not of a packet: host, net, port and
    portrange are about either end.
  - A word belongs to one value: write host 192.0.2.1 or host 192.0.2.2.
  - src host, dst port and the like are one word: src, dst, sport, dport.
  - tcp is everything; ip6 is family ipv6; net takes /BITS, and no mask.
";

/// Expressions, and what they are good for.
const EXAMPLES: [(&str, &str); 23] = [
    ("dst 192.0.2.7", "connections with this host"),
    ("dst 10.0.0.0/8", "connections into a network"),
    (
        "not src [::1] and not src 127.0.0.0/8",
        "without the loopback",
    ),
    ("host [2001:db8::]/32", "this network, at either end"),
    ("dst 192.0.2.7:5432", "one service of one host"),
    ("sport = :443", "those of our web server"),
    (
        "dport >= 8000 dport < 9000",
        "remote ports from 8000 to 8999",
    ),
    ("portrange 1-1023", "a privileged port at either end"),
    ("service https", "https, whichever side this host is"),
    (
        "service 443 and role client",
        "our connections to https servers",
    ),
    (
        "state established and not dport :22",
        "open connections, but for ssh",
    ),
    (
        "state connected exclude time-wait",
        "all but listeners and TIME_WAIT",
    ),
    (
        "state close-wait and dwell > 1m",
        "who has not closed for a minute",
    ),
    (
        "state syn-recv and dwell > 3s",
        "handshakes that are not completed",
    ),
    (
        "( src 192.0.2.0/24 or src 198.51.100.0/24 ) and sport 80",
        "a web server, at two of its networks",
    ),
    (
        "comm 'nginx*,php-fpm*' and not src 127.0.0.1",
        "some programs, but for their connections among themselves",
    ),
    ("user www-data or uid 1000", "sockets of two users"),
    (
        "cgroup /system.slice and family ipv6",
        "services, over IPv6",
    ),
    ("unit nginx,php*-fpm.service", "of some units of systemd"),
    (
        "pod shop/web-* and not dst 10.0.0.0/8",
        "pods of a namespace, to the world outside",
    ),
    (
        "container 3f2a*,web-1",
        "a container by its id, another by its name",
    ),
    (
        "retransmits > 10 or srtt > 200ms",
        "where the network is bad",
    ),
    ("bytes_sent > 1G and state established", "who sends much"),
];

#[cfg(test)]
mod tests {
    use tcpstate_core::{
        expression::{Expression, Lookup},
        filter::CgroupTree,
    };

    use super::*;

    /// A host with the services and the user of the examples.
    struct Names;

    impl Lookup for Names {
        fn service(&self, name: &str) -> Option<u16> {
            (name == "https").then_some(443)
        }

        fn user(&self, name: &str) -> Result<u32, String> {
            match name {
                "www-data" => Ok(33),
                name => name.parse().map_err(|_| "no such user".to_owned()),
            }
        }

        fn netns(&self, _name: &str) -> Result<u32, String> {
            Ok(1)
        }

        fn cgroup(&self, path: &str) -> Result<CgroupTree, String> {
            Ok(CgroupTree {
                path: path.to_owned(),
                id: None,
            })
        }
    }

    #[test]
    fn examples_are_expressions() {
        for (example, _) in EXAMPLES {
            let parsed = Expression::parse(example, &Names);
            let parsed = parsed.unwrap_or_else(|error| panic!("{error}"));
            assert!(!parsed.wants_all(), "{example}");
        }
    }

    #[test]
    fn every_value_is_explained() {
        let of_conditions = WORDS.iter().flat_map(|word| {
            let words = word.form.split(|c: char| !c.is_ascii_uppercase());
            words.filter(|word| !word.is_empty() && *word != "OP")
        });
        for value in of_conditions {
            assert!(
                VALUES.iter().any(|&(known, _)| known == value),
                "{value} is not explained"
            );
        }
    }

    #[test]
    fn the_page_fits_80_columns() {
        for line in page().lines() {
            let width = line.chars().count();
            assert!(width <= WIDTH, "{line}");
        }
    }

    /// The page is right about the others.
    #[test]
    fn differences_are_differences() {
        for refused in [
            "host 192.0.2.1 or 192.0.2.2",
            "src host 192.0.2.1",
            "tcp",
            "dst example.com",
            "dev eth0",
            "net 10.0.0.0 mask 255.0.0.0",
        ] {
            let parsed = Expression::parse(refused, &Names);
            assert!(parsed.is_err(), "{refused}: {parsed:?}");
        }
    }
}

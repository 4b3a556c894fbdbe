//! The counters and settings of network namespaces, for diagnosis.

use std::{fs, io, ops::ControlFlow};

use tcpstate_core::{
    diagnosis::{COUNTERS, Counters, NetnsFacts, SETTINGS, Settings},
    netns::{NetnsSelector, sort},
};

use super::{
    host,
    netns::{self, NetnsError},
};

/// Reads those of the selected namespaces, in the order of [`sort`]. One that cannot be entered is left out;
/// [`super::inventory::take`] says so.
///
/// *Errors:* the namespaces cannot be found.
pub fn read(selector: &NetnsSelector) -> Result<Vec<NetnsFacts>, NetnsError> {
    let mut all = Vec::new();
    netns::visit(selector, |namespace| {
        all.extend(namespace.within(read_here).ok().map(|facts| NetnsFacts {
            netns: namespace.inode(),
            name: namespace.name().to_owned(),
            ..facts
        }));
        ControlFlow::Continue(())
    })?;
    sort(&mut all, |facts| facts.netns);
    Ok(all)
}

/// Those of the namespace that this thread is in.
fn read_here() -> NetnsFacts {
    let read = |name: &str| -> io::Result<String> {
        fs::read_to_string(format!("/proc/thread-self/net/{name}"))
    };
    let text = |name| read(name).unwrap_or_default();
    let counters: Counters = parse(&text("snmp"), &text("netstat"), &text("sockstat"))
        .into_iter()
        .collect();
    NetnsFacts {
        // To open a setting takes the kernel a time that grows with the number of namespaces in which it was opened, and
        // where nothing has happened there is nothing to find.
        settings: if is_unused(&counters) {
            Settings::default()
        } else {
            settings_here()
        },
        counters,
        ..NetnsFacts::default()
    }
}

fn settings_here() -> Settings {
    let settings = SETTINGS.iter();
    settings
        .filter_map(|&path| Some((path, host::setting(path)?)))
        .collect()
}

/// Whether nothing was sent in this namespace, and no packet for a listener was dropped.
fn is_unused(counters: &Counters) -> bool {
    [
        "ActiveOpens",
        "PassiveOpens",
        "OutSegs",
        "OutRsts",
        "ListenDrops",
    ]
    .iter()
    .all(|name| counters.get(name) == Some(0))
}

/// The known counters in the texts of these files.
fn parse(snmp: &str, netstat: &str, sockstat: &str) -> Vec<(&'static str, u64)> {
    let mut found = Vec::new();
    for (text, table) in [(snmp, "Tcp:"), (netstat, "TcpExt:")] {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(table));
        let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
        let names = names.split_ascii_whitespace();
        for (name, value) in names.zip(values.split_ascii_whitespace()) {
            found.extend(known(|known| known == name).zip(value.parse().ok()));
        }
    }
    let words = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"));
    let mut words = words.unwrap_or("").split_ascii_whitespace();
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        let name = known(|known| known.strip_prefix("sockstat.") == Some(name));
        found.extend(name.zip(value.parse().ok()));
    }
    found
}

fn known(is: impl Fn(&str) -> bool) -> Option<&'static str> {
    COUNTERS.iter().copied().find(|name| is(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_every_counter_and_setting() {
        let facts = read_here();
        for name in COUNTERS {
            assert!(facts.counters.get(name).is_some(), "{name}");
        }
        // Some belong to the whole host, and are not shown in another namespace.
        let settings = settings_here();
        let has = SETTINGS.iter().filter(|path| settings.text(path).is_some());
        assert!(has.count() > 8, "{settings:?}");
    }

    #[test]
    fn settings_are_read_where_something_has_happened() {
        let counters = |opens: u64, drops: u64| -> Counters {
            let all = [
                ("ActiveOpens", opens),
                ("PassiveOpens", 0),
                ("OutSegs", 0),
                ("OutRsts", 0),
                ("ListenDrops", drops),
            ];
            all.into_iter().collect()
        };
        assert!(is_unused(&counters(0, 0)));
        assert!(!is_unused(&counters(1, 0)) && !is_unused(&counters(0, 1)));
        // A kernel without one of these counters may have been used.
        assert!(!is_unused(&Counters::default()));
        // This host's connections are in the namespace of a test, or are none.
        let facts = read_here();
        let is_read = facts.settings != Settings::default();
        assert_eq!(is_read, !is_unused(&facts.counters));
    }

    #[test]
    fn values_have_the_names_above_them() {
        let found = parse(
            "Ip: A\nIp: 1\nTcp: ActiveOpens MaxConn OutRsts\nTcp: 3 -1 5\n",
            "TcpExt: SyncookiesSent Else ListenDrops\nTcpExt: 7 8 9\n",
            "sockets: used 1\nTCP: inuse 4 orphan 2 tw 1\n",
        );
        let expected = [
            ("ActiveOpens", 3),
            ("OutRsts", 5),
            ("SyncookiesSent", 7),
            ("ListenDrops", 9),
            ("sockstat.inuse", 4),
            ("sockstat.orphan", 2),
            ("sockstat.tw", 1),
        ];
        assert_eq!(found, expected);
    }
}

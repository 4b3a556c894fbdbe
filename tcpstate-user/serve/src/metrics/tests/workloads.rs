//! Counts by unit, container, pod and process.

use std::sync::Arc;

use tcpstate_core::{
    diagnosis::{Survey, WorkloadKey},
    names::{Cgroup, NameBook, Names, Pod},
    options::WorkloadLabel,
};

use super::*;
use crate::Workloads;

const HOUR: u64 = 3_600 * SECOND;

/// A run that counts by these labels, as the view does.
struct Run {
    publisher: Publisher,
    workloads: Workloads,
    book: Arc<NameBook>,
    cookie: u64,
}

impl Run {
    fn new(labels: &[WorkloadLabel], max: u32) -> Self {
        let book = Arc::new(NameBook::default());
        let mut workloads = Workloads::new(labels, max).unwrap();
        workloads.set_names(Names::new(Arc::clone(&book) as _));
        Self {
            publisher: publisher(),
            workloads,
            book,
            cookie: 0,
        }
    }

    /// A client in this cgroup, of this process, is refused.
    fn refused(&mut self, ts_ns: u64, cgroup: u64, comm: &[u8]) {
        self.cookie += 1;
        let mut name = [0; 16];
        name[..comm.len()].copy_from_slice(comm);
        for (from, to) in [
            (State::CLOSE, State::SYN_SENT),
            (State::SYN_SENT, State::CLOSE),
        ] {
            let event = Event::try_from(Record {
                ts_ns,
                cookie: self.cookie,
                rport: 80,
                oldstate: from,
                newstate: to,
                family: AF_INET,
                flags: flags::COOKIE | flags::PROCESS,
                cgroup,
                pid: 9,
                comm: name,
                ..Record::default()
            });
            let (event, workloads) = (event.expect("AF_INET"), &mut self.workloads);
            self.publisher
                .event_then(&event, |applied| workloads.count(&event, applied));
        }
    }

    fn scrape(&mut self, second: u64) -> String {
        self.workloads.publish(None);
        tick(&mut self.publisher, second, 0);
        let exposed = Exposed {
            workloads: self.workloads.counts().latest(),
            ..exposed(&self.publisher, &mut Default::default())
        };
        write(exposed, Format::Prometheus).unwrap()
    }
}

/// The lines of these metrics that have this part.
fn lines<'a>(text: &'a str, part: &str) -> Vec<&'a str> {
    let lines = text.lines();
    lines
        .filter(|line| line.starts_with("tcpstate_workload_") && line.contains(part))
        .collect()
}

#[test]
fn changes_and_ends_have_the_labels_that_were_chosen() {
    // In whatever order, and however often.
    let labels = [
        WorkloadLabel::Comm,
        WorkloadLabel::Unit,
        WorkloadLabel::Comm,
    ];
    let mut run = Run::new(&labels, 9);
    run.book.add_paths([
        (7, "/system.slice/nginx.service"),
        (8, "/system.slice/a\\x2db.service"),
        (9, "/"),
    ]);
    run.refused(1, 7, b"nginx");
    run.refused(2, 7, b"nginx");
    run.refused(3, 8, b"say \"hi\"");
    run.refused(4, 9, b"curl");
    run.refused(5, 10, b"curl");
    let text = run.scrape(1);
    for line in [
        "tcpstate_workload_transitions_total{from=\"CLOSE\",to=\"SYN_SENT\",unit=\"nginx.service\",comm=\"nginx\"} 2",
        "tcpstate_workload_transitions_total{from=\"SYN_SENT\",to=\"CLOSE\",unit=\"none\",comm=\"curl\"} 1",
        "tcpstate_workload_transitions_total{from=\"SYN_SENT\",to=\"CLOSE\",unit=\"unknown\",comm=\"curl\"} 1",
        r#"tcpstate_workload_connections_closed_total{cause="no_port",role="client",unit="a\\x2db.service",comm="say \"hi\""} 1"#,
    ] {
        assert!(text.contains(&format!("\n{line}\n")), "no {line} in {text}");
    }
    // As many as by port.
    let sum = |name: &str| -> u64 {
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
            .sum()
    };
    for metric in ["transitions_total{", "connections_closed_total{"] {
        let by_label = sum(&format!("tcpstate_workload_{metric}"));
        assert_eq!(by_label, sum(&format!("tcpstate_{metric}")), "{metric}");
        assert!(by_label >= 5);
    }
}

#[test]
fn a_pod_has_its_name_and_namespace_once_they_are_known() {
    let (uid, id) = (
        "74c13223-5a00-11e9-b385-42010a80018d",
        "34dc0b5e626f2c5c4c5170e34b10e7654ce36f0fcd532739f4445baabea03376",
    );
    let labels = [
        WorkloadLabel::Namespace,
        WorkloadLabel::Container,
        WorkloadLabel::Pod,
    ];
    let mut run = Run::new(&labels, 9);
    let cgroup = Cgroup::of(format!("/kubepods/pod{uid}/{id}"));
    run.book.add_cgroups([(7, Arc::new(cgroup.clone()))]);
    run.refused(1, 7, b"web");
    let text = run.scrape(1);
    let unnamed = format!("container=\"34dc0b5e626f\",pod=\"{uid}\",namespace=\"unknown\"}} 1");
    assert_eq!(lines(&text, &unnamed).len(), 3, "{text}");
    let named = cgroup
        .with_container_name(Some("web-1".into()))
        .with_pod(Pod::parse("shop/web-x2x9z"));
    run.book.add_cgroups([(7, Arc::new(named))]);
    run.refused(SECOND + 1, 7, b"web");
    let text = run.scrape(2);
    let named = "container=\"web-1\",pod=\"web-x2x9z\",namespace=\"shop\"} 1";
    assert_eq!(lines(&text, named).len(), 3, "{text}");
    assert_eq!(lines(&text, &unnamed).len(), 3, "{text}");
}

/// There are places for so many; one that is idle for an hour gives its place to a new one.
#[test]
fn combinations_are_bounded() {
    let mut run = Run::new(&[WorkloadLabel::Comm], 2);
    for (ts_ns, comm) in [(1, b"one"), (2, b"two"), (3, b"six")] {
        run.refused(ts_ns, 7, comm);
    }
    let of = |text: &str, comm: &str| lines(text, &format!("comm=\"{comm}\"")).len();
    let text = run.scrape(1);
    assert_eq!(
        ["one", "two", "six", "other"].map(|comm| of(&text, comm)),
        [3, 3, 0, 3]
    );
    run.refused(HOUR, 7, b"one");
    run.refused(HOUR + 1, 7, b"six");
    let text = run.scrape(3_601);
    assert_eq!(["one", "two", "six"].map(|comm| of(&text, comm)), [3, 3, 0]);
    // The second has been idle for an hour.
    run.refused(HOUR + 2, 7, b"six");
    let text = run.scrape(3_602);
    assert_eq!(["one", "two", "six"].map(|comm| of(&text, comm)), [3, 0, 3]);
    let line = "tcpstate_workload_transitions_total{from=\"CLOSE\",to=\"SYN_SENT\",comm=\"six\"} 1";
    assert_eq!(lines(&text, line).len(), 1, "{text}");
    // It has lost its place, and there is no other one.
    run.refused(HOUR + 3, 7, b"two");
    let text = run.scrape(3_603);
    assert_eq!(["one", "two", "six"].map(|comm| of(&text, comm)), [3, 0, 3]);
}

/// The sockets of the latest look, in the same places.
#[test]
fn sockets_are_those_of_the_latest_look() {
    let mut run = Run::new(&[WorkloadLabel::Unit], 2);
    run.book.add_paths([
        (7, "/system.slice/nginx.service"),
        (8, "/system.slice/db.service"),
    ]);
    run.refused(1, 7, b"nginx");
    let look = |ts_ns, sockets: &[(Option<u64>, State, u64)]| {
        let mut survey = Survey::default();
        survey.ts_ns = ts_ns;
        for &(cgroup, state, count) in sockets {
            let key = WorkloadKey {
                cgroup,
                comm: None,
                state,
            };
            survey.workloads.insert(key, count);
        }
        survey
    };
    let first = look(
        SECOND,
        &[
            (Some(7), State::CLOSE_WAIT, 3),
            (Some(8), State::ESTABLISHED, 2),
            (None, State::TIME_WAIT, 5),
        ],
    );
    let mut scrape = |survey: &Survey, second| {
        run.workloads.publish(Some(survey));
        let text = run.scrape(second);
        let lines = text.lines();
        let mut found: Vec<_> = lines
            .filter_map(|line| line.strip_prefix("tcpstate_workload_connections{"))
            .map(str::to_owned)
            .collect();
        found.sort_unstable();
        found
    };
    // There is no third place.
    let expected = [
        "state=\"CLOSE_WAIT\",unit=\"nginx.service\"} 3",
        "state=\"ESTABLISHED\",unit=\"other\"} 2",
        "state=\"TIME_WAIT\",unit=\"unknown\"} 5",
    ];
    assert_eq!(scrape(&first, 1), expected);
    // The same look again, and the next one.
    assert_eq!(scrape(&first, 2), expected);
    let next = look(2 * SECOND, &[(Some(7), State::ESTABLISHED, 1)]);
    let expected = ["state=\"ESTABLISHED\",unit=\"nginx.service\"} 1"];
    assert_eq!(scrape(&next, 3), expected);
}

#[test]
fn without_labels_nothing_is_counted_by_them() {
    assert!(Workloads::new(&[], 9).is_none());
    let mut publisher = publisher();
    refused(&mut publisher, [80]);
    tick(&mut publisher, 1, 0);
    let text = text(&publisher, Format::Prometheus);
    assert_eq!(lines(&text, ""), [""; 0]);
}

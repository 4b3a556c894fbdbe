//! The contract of the present.

mod consumers;
mod content;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use tcpstate_common::{
    Record, State,
    record::{AF_INET, flags},
};
use tcpstate_core::{
    books::{Accounting, Cost, RunBooks, Selection},
    event::Event,
    model::{By, Include, Limits},
    origin::{Evidence, Origin},
    present::{Options, Publisher, RunSnapshot, Subscriber},
    view::{End, View as _},
};

const SECOND: u64 = 1_000_000_000;

fn options(include: Include) -> Options {
    Options {
        interval_ns: SECOND,
        by: By::Port,
        include,
        in_kernel: false,
        limits: Limits::default(),
    }
}

fn started(include: Include, sample_interval_ns: Option<u64>) -> Publisher {
    start(&options(include), sample_interval_ns)
}

fn origin(sample_interval_ns: Option<u64>) -> Origin {
    Origin {
        host: "host".into(),
        kernel: "6.18".into(),
        attach: "btf".into(),
        wall_at_monotonic_zero_ns: 0,
        started_ns: 0,
        filters: String::new(),
        live: true,
        sample_interval_ns,
    }
}

fn start(options: &Options, sample_interval_ns: Option<u64>) -> Publisher {
    let mut publisher = Publisher::new(options);
    let origin = origin(sample_interval_ns);
    publisher.start(&origin, &mut io::sink()).unwrap();
    publisher
}

/// A connection to port 80 opens.
fn open(publisher: &mut Publisher, cookie: u64) {
    let event = Event::try_from(Record {
        ts_ns: cookie,
        cookie,
        rport: 80,
        oldstate: State::CLOSE,
        newstate: State::SYN_SENT,
        family: AF_INET,
        flags: flags::COOKIE,
        ..Record::default()
    });
    publisher
        .event(&event.expect("AF_INET"), &mut io::sink())
        .unwrap();
}

fn accounting(received: u64) -> Accounting {
    Accounting {
        seen: received,
        submitted: received,
        received,
        ..Accounting::default()
    }
}

fn tick(publisher: &mut Publisher, second: u64) {
    publisher.books(&RunBooks {
        accounting: accounting(second),
        ..RunBooks::default()
    });
    publisher.tick(second * SECOND, &mut io::sink()).unwrap();
}

fn finish(publisher: &mut Publisher, second: u64) {
    let end = End {
        now_ns: second * SECOND,
        accounting: accounting(second),
        selection: Selection::default(),
        cost: Cost::default(),
        damaged: false,
        verbose: false,
        part: None,
        evidence: Evidence::Kernel,
        packets: None,
    };
    publisher
        .finish(&end, &mut io::sink(), &mut io::sink())
        .unwrap();
}

/// A connection to port 80 is refused, this long after the start.
fn refused(publisher: &mut Publisher, cookie: u64, ts_ns: u64) {
    for (after_ns, oldstate, newstate, error) in [
        (0, State::CLOSE, State::SYN_SENT, 0),
        (9, State::SYN_SENT, State::CLOSE, 111),
    ] {
        let event = Event::try_from(Record {
            ts_ns: ts_ns + after_ns,
            cookie,
            rport: 80,
            oldstate,
            newstate,
            error,
            family: AF_INET,
            netns: 1,
            flags: flags::COOKIE | flags::SOCKET,
            ..Record::default()
        });
        publisher
            .event(&event.expect("AF_INET"), &mut io::sink())
            .unwrap();
    }
}

fn ready(subscriber: &mut Subscriber) -> Option<Arc<RunSnapshot>> {
    match subscriber.poll_next(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(next) => next,
        Poll::Pending => panic!("there is a snapshot or an end"),
    }
}

fn is_pending(subscriber: &mut Subscriber) -> bool {
    subscriber
        .poll_next(&mut Context::from_waker(Waker::noop()))
        .is_pending()
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

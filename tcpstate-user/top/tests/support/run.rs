//! A run, and the one who looks at it.

use std::task::{Context, Waker};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use tcpstate_common::{
    Record, State,
    record::{AF_INET, flags},
};
use tcpstate_core::{
    event::Event,
    model::{By, Connections, Include, Limits},
    origin::Origin,
    present::{Options as Published, Publisher, Subscriber},
    view::View as _,
};
use tcpstate_top::{App, Input, Then};

use crate::{
    screen::{LONGEST, SECOND_NS, UNICODE, frame, options},
    support::{compare, names, origin},
};

/// Columns and rows.
pub const SIZES: [(u16, u16); 3] = [(80, 24), (120, 40), (40, 12)];

/// A run, and the one who looks at it.
pub struct Run {
    pub app: App,
    pub publisher: Publisher,
    pub subscriber: Subscriber,
    begin_ns: u64,
    /// Intervals that have ended.
    ticks: u64,
}

impl Run {
    pub fn new() -> Self {
        let publisher = Publisher::new(&Published {
            interval_ns: SECOND_NS,
            by: By::Port,
            include: Include {
                connections: Connections::Longest(LONGEST),
                histograms: true,
            },
            in_kernel: false,
            limits: Limits::default(),
        });
        let app = App::new(options(UNICODE));
        let origin = Origin {
            live: true,
            ..origin()
        };
        let mut run = Self {
            app,
            subscriber: publisher.subscribe(),
            publisher,
            begin_ns: origin.started_ns,
            ticks: 0,
        };
        run.publisher.set_names(names());
        run.publisher.start(&origin, &mut Vec::new()).unwrap();
        run
    }

    /// A second in which nginx gets two connections, each from an address of its own, one of which it closes, and curl
    /// makes one that is refused.
    pub fn second(&mut self) {
        let at_ns = self.begin_ns + self.ticks * SECOND_NS;
        let cookie = 1 + self.ticks * 10;
        let nginx = (b"nginx\0", 80, (443, 40_000));
        let curl = (b"curl\0\0", 90, (50_000, 5_432));
        if self.ticks == 0 {
            self.event(at_ns, 0, nginx, 0, (State::CLOSE, State::LISTEN), 0);
        }
        for number in 1..=2 {
            let cookie = cookie + number;
            let mut change = |after_ns, old, new| {
                self.event(at_ns + after_ns, cookie, nginx, number, (old, new), 0);
            };
            change(1_000_000, State::LISTEN, State::SYN_RECV);
            change(1_200_000, State::SYN_RECV, State::ESTABLISHED);
            if number == 2 {
                change(300_000_000, State::ESTABLISHED, State::FIN_WAIT1);
            }
        }
        for (after_ns, old, new, error) in [
            (500_000_000, State::CLOSE, State::SYN_SENT, 0),
            (500_400_000, State::SYN_SENT, State::CLOSE, 111),
        ] {
            self.event(at_ns + after_ns, cookie + 3, curl, 7, (old, new), error);
        }
        self.ticks += 1;
        let now_ns = self.begin_ns + self.ticks * SECOND_NS;
        self.publisher.tick(now_ns, &mut Vec::new()).unwrap();
        self.look();
    }

    fn event(
        &mut self,
        ts_ns: u64,
        cookie: u64,
        (name, pid, (lport, rport)): (&[u8; 6], u32, (u16, u16)),
        from: u64,
        (oldstate, newstate): (State, State),
        error: u16,
    ) {
        let mut comm = [0; 16];
        comm[..6].copy_from_slice(name);
        let address = |last: u8| {
            std::net::Ipv4Addr::new(10, 0, 0, last)
                .to_ipv6_mapped()
                .octets()
        };
        let event = Event::try_from(Record {
            ts_ns,
            cookie,
            skaddr: 0xffff_8880_0000_0000 | cookie << 12,
            laddr: address(200),
            raddr: address(u8::try_from(from).unwrap()),
            lport,
            rport,
            netns: 4_026_531_840,
            family: AF_INET,
            flags: flags::SOCKET | flags::COOKIE | flags::PROCESS,
            pid,
            comm,
            error,
            oldstate,
            newstate,
            ..Record::default()
        });
        self.publisher
            .event(&event.unwrap(), &mut Vec::new())
            .unwrap();
    }

    fn look(&mut self) {
        self.app
            .update(Input::Snapshot(self.subscriber.latest().unwrap()));
    }

    /// Presses keys, and does what follows from them.
    pub fn press(&mut self, keys: &str) {
        for key in keys.chars() {
            self.frame((80, 24));
            let code = match key {
                '\n' => KeyCode::Enter,
                '\x1b' => KeyCode::Esc,
                letter => KeyCode::Char(letter),
            };
            let key = KeyEvent::new(code, KeyModifiers::NONE);
            match self.app.update(Input::Key(key)) {
                Then::GroupBy(by) => self.publisher.asker().group_by(by),
                Then::Draw => continue,
                then => panic!("{then:?}"),
            }
            self.answer();
        }
    }

    /// Lets the publisher answer.
    pub fn answer(&mut self) {
        let cx = Context::from_waker(Waker::noop());
        while self.publisher.poll_asked(&cx).is_ready() {}
        self.look();
    }

    pub fn frame(&mut self, size: (u16, u16)) -> String {
        frame(&mut self.app, size)
    }

    pub fn compare(&mut self, name: &str) {
        for size in SIZES {
            let text = self.frame(size);
            compare(&format!("{name}-{}x{}.txt", size.0, size.1), &text);
        }
    }
}

//! Streams of events like those of a host, generated from a seed, for the tests of recordings and their
//! benchmark. The same seed gives the same bytes everywhere.

use std::{cmp::Reverse, collections::BinaryHeap};

use tcpstate_common::{
    Record, State,
    record::{self, flags},
    transition::in_process,
};
use tcpstate_core::event::Event;

/// The traffic of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// One process that connects to itself over loopback and closes, as fast as it can.
    Churn,
    /// A web server with thousands of concurrent clients on port 443, a few backends, several worker
    /// processes and CPUs.
    WebServer,
    /// Every field but the time is noise, which cannot be compressed.
    Noise,
}

/// A small pseudo-random generator (xorshift64*), so that the streams do not change with the version of a
/// crate.
pub struct Random(u64);

impl Random {
    /// Starts from a seed, which may be 0.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// A waiting time with this mean: most are shorter, and a few are much longer.
    fn wait(&mut self, mean: u64) -> u64 {
        let exponent = self.below(8);
        (mean >> exponent) * 2 + self.below(mean / 4 + 1)
    }
}

/// Generates `count` events of this traffic.
pub fn events(traffic: Traffic, count: usize, seed: u64) -> Vec<Event> {
    let mut random = Random::new(seed);
    match traffic {
        Traffic::Churn => Host::new(1, 200_000, &mut random).run(count),
        Traffic::WebServer => Host::new(4_000, 12_000_000, &mut random).run(count),
        Traffic::Noise => (1..=count as u64)
            .map(|at| noise(at * 10_000, &mut random))
            .collect(),
    }
}

fn noise(at_ns: u64, random: &mut Random) -> Event {
    let mut bytes = [0; Record::SIZE];
    for chunk in bytes.chunks_exact_mut(8) {
        chunk.copy_from_slice(&random.next_u64().to_le_bytes());
    }
    let mut record = Record::from_bytes(&bytes);
    record.ts_ns = at_ns;
    record.family = record::AF_INET6;
    Event::try_from(record).expect("the family is AF_INET6")
}

/// One end of a connection, with its path through the states.
#[derive(Clone)]
struct End {
    record: Record,
    path: &'static [(State, State)],
    step: usize,
    mean_ns: u64,
}

struct Host<'a> {
    random: &'a mut Random,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    ends: Vec<End>,
    free: Vec<usize>,
    next_cookie: u64,
    order: u64,
    concurrent: usize,
    mean_ns: u64,
}

const CLIENT: &[(State, State)] = &[
    (State::CLOSE, State::SYN_SENT),
    (State::SYN_SENT, State::ESTABLISHED),
    (State::ESTABLISHED, State::FIN_WAIT1),
    (State::FIN_WAIT1, State::FIN_WAIT2),
    (State::FIN_WAIT2, State::CLOSE),
];
const SERVER: &[(State, State)] = &[
    (State::LISTEN, State::SYN_RECV),
    (State::SYN_RECV, State::ESTABLISHED),
    (State::ESTABLISHED, State::CLOSE_WAIT),
    (State::CLOSE_WAIT, State::LAST_ACK),
    (State::LAST_ACK, State::CLOSE),
];
const SERVER_CLOSES_FIRST: &[(State, State)] = &[
    (State::LISTEN, State::SYN_RECV),
    (State::SYN_RECV, State::ESTABLISHED),
    (State::ESTABLISHED, State::FIN_WAIT1),
    (State::FIN_WAIT1, State::FIN_WAIT2),
    (State::FIN_WAIT2, State::CLOSE),
];

fn mapped(a: u8, b: u8, c: u8, d: u8) -> [u8; 16] {
    std::net::Ipv4Addr::new(a, b, c, d)
        .to_ipv6_mapped()
        .octets()
}

impl<'a> Host<'a> {
    fn new(concurrent: usize, mean_ns: u64, random: &'a mut Random) -> Self {
        Self {
            random,
            queue: BinaryHeap::new(),
            ends: Vec::new(),
            free: Vec::new(),
            next_cookie: 0x1_0001,
            order: 0,
            concurrent,
            mean_ns,
        }
    }

    fn run(mut self, count: usize) -> Vec<Event> {
        let mut now_ns = 86_400_000_000_000;
        for _ in 0..self.concurrent {
            now_ns += self.random.wait(1_000);
            self.open(now_ns);
        }
        let mut events = Vec::with_capacity(count);
        while events.len() < count {
            let Some(Reverse((at_ns, _, index))) = self.queue.pop() else {
                now_ns += 5_000;
                self.open(now_ns);
                continue;
            };
            now_ns = at_ns;
            events.push(self.transition(at_ns, index));
            if self.ends[index].step < self.ends[index].path.len() {
                let wait_ns = match self.ends[index].path[self.ends[index].step].0 {
                    State::SYN_SENT | State::SYN_RECV | State::LAST_ACK | State::FIN_WAIT1 => {
                        3_000 + self.random.wait(20_000)
                    }
                    _ => self.random.wait(self.ends[index].mean_ns),
                };
                self.push(at_ns + wait_ns, index);
            } else {
                self.free.push(index);
                if self.queue.len() < self.concurrent {
                    let wait_ns = self.random.wait(8_000);
                    self.open(at_ns + wait_ns);
                }
            }
        }
        events
    }

    fn push(&mut self, at_ns: u64, index: usize) {
        self.order += 1;
        self.queue.push(Reverse((at_ns, self.order, index)));
    }

    fn open(&mut self, now_ns: u64) {
        let port = 32_768 + u16::try_from(self.random.below(28_000)).expect("below 28,000");
        if self.concurrent == 1 {
            let (client, server) = (mapped(127, 0, 0, 1), mapped(127, 0, 0, 1));
            self.start(now_ns, CLIENT, (client, port), (server, 8080));
            self.start(now_ns + 9_000, SERVER, (server, 8080), (client, port));
        } else if self.random.below(5) == 0 {
            let backend = u8::try_from(self.random.below(10)).expect("below 10");
            self.start(
                now_ns,
                CLIENT,
                (mapped(10, 0, 3, 17), port),
                (mapped(10, 0, 8, backend), 5432),
            );
        } else {
            let path = if self.random.below(2) == 0 {
                SERVER
            } else {
                SERVER_CLOSES_FIRST
            };
            let [a, b, c, d, ..] = (self.random.below(20_000) * 0x9E37_79B9).to_le_bytes();
            self.start(
                now_ns,
                path,
                (mapped(10, 0, 3, 17), 443),
                (mapped(a, b, c, d), port),
            );
        }
    }

    fn start(
        &mut self,
        at_ns: u64,
        path: &'static [(State, State)],
        (laddr, lport): ([u8; 16], u16),
        (raddr, rport): ([u8; 16], u16),
    ) {
        let worker = if self.concurrent == 1 {
            0
        } else {
            self.random.below(16)
        };
        let mut comm = [0; 16];
        let name: &[u8] = if self.concurrent == 1 {
            b"churn"
        } else {
            b"nginx"
        };
        comm[..name.len()].copy_from_slice(name);
        let end = End {
            record: Record {
                cookie: self.next_cookie,
                cgroup: 7_411,
                laddr,
                raddr,
                lport,
                rport,
                netns: 4_026_531_840,
                uid: 33,
                pid: 2_100 + u32::try_from(worker).expect("below 16"),
                cpu: u16::try_from(worker % 4).expect("below 4"),
                family: record::AF_INET,
                comm,
                ..Record::default()
            },
            path,
            step: 0,
            mean_ns: self.mean_ns,
        };
        self.next_cookie += 1;
        let index = if let Some(index) = self.free.pop() {
            self.ends[index] = end;
            index
        } else {
            self.ends.push(end);
            self.ends.len() - 1
        };
        // Addresses as in a slab: objects of 2,368 bytes, 13 in eight pages, pages scattered over memory.
        let (slab, object) = (index as u64 / 13, index as u64 % 13);
        self.ends[index].record.skaddr = 0xffff_8881_0000_0000
            + (slab.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44) * 32_768
            + object * 2_368;
        self.push(at_ns, index);
    }

    fn transition(&mut self, at_ns: u64, index: usize) -> Event {
        let end = &mut self.ends[index];
        let (oldstate, newstate) = end.path[end.step];
        end.step += 1;
        end.record.ts_ns = at_ns;
        end.record.oldstate = oldstate;
        end.record.newstate = newstate;
        if newstate == State::ESTABLISHED {
            end.record.srtt_us =
                200 + u32::try_from(self.random.below(60_000)).expect("below 60,000");
        }
        if oldstate == State::ESTABLISHED {
            end.record.bytes_sent += self.random.wait(40_000);
            end.record.bytes_received += 200 + self.random.below(900);
            end.record.retransmits += u32::from(self.random.below(50) == 0);
        }
        let mut record = end.record;
        record.flags = flags::COOKIE | flags::TCP | flags::SOCKET;
        if (oldstate, newstate) == (State::LISTEN, State::SYN_RECV) {
            record.flags &= !flags::COOKIE;
            record.cookie = 0;
        }
        if (oldstate, newstate) == (State::CLOSE, State::SYN_SENT) {
            record.lport = 0;
        }
        if newstate == State::CLOSE || newstate == State::LAST_ACK {
            record.flags |= flags::DEAD | flags::DONE;
        }
        if in_process(oldstate, newstate) {
            record.flags |= flags::PROCESS;
        } else {
            record.pid = 0;
            record.comm = [0; 16];
        }
        Event::try_from(record).expect("the family is AF_INET")
    }
}

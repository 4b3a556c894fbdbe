//! A stream of complete connections of clients and servers, the same every time, as the bytes of its records.

use tcpstate_common::{
    Record, State,
    record::{AF_INET, flags},
    transition::in_process,
};

/// One connection of the stream.
#[derive(Clone, Copy, Default)]
pub struct Life {
    number: u64,
    server: bool,
    step: u8,
    port: u16,
}

/// Connections whose transitions are interleaved at random, each complete and in order.
pub struct Stream {
    lives: Vec<Life>,
    /// Number of service ports; the first have many more connections than the last.
    ports: usize,
    /// The connection of each record.
    at: usize,
    next: u64,
    ts_ns: u64,
    random: u64,
}

const CLIENT: [State; 6] = [
    State::CLOSE,
    State::SYN_SENT,
    State::ESTABLISHED,
    State::FIN_WAIT1,
    State::FIN_WAIT2,
    State::CLOSE,
];
const SERVER: [State; 6] = [
    State::LISTEN,
    State::SYN_RECV,
    State::ESTABLISHED,
    State::CLOSE_WAIT,
    State::LAST_ACK,
    State::CLOSE,
];

impl Stream {
    pub fn new(live: usize, ports: usize) -> Self {
        let mut stream = Self {
            lives: Vec::new(),
            ports,
            at: 0,
            next: 1,
            ts_ns: 1_000_000_000,
            random: 1,
        };
        stream.lives = (0..live).map(|_| stream.begin()).collect();
        stream
    }

    /// Replaces the content of `bytes` by the next `events` records.
    pub fn fill(&mut self, bytes: &mut Vec<u8>, events: usize) {
        bytes.clear();
        for _ in 0..events {
            // A child of a listener begins in ESTABLISHED.
            if !(self.lives[self.at].server && self.lives[self.at].step == 1) {
                self.at = (self.random() >> 32) as usize % self.lives.len();
            }
            bytes.extend_from_slice(&self.advance(self.at).to_bytes());
        }
    }

    fn begin(&mut self) -> Life {
        let random = self.random();
        // Cubed, so that half of the connections go to an eighth of the ports.
        let share = (random & 0xffff) as f64 / 65_536.0;
        let port = (share * share * share * self.ports as f64) as u16 + 1;
        self.next += 1;
        Life {
            number: self.next,
            server: random >> 63 == 1,
            step: 0,
            port,
        }
    }

    /// The next transition of this connection, or the first of a new one.
    pub fn advance(&mut self, at: usize) -> Record {
        if usize::from(self.lives[at].step) + 1 == CLIENT.len() {
            self.lives[at] = self.begin();
        }
        let life = self.lives[at];
        self.lives[at].step += 1;
        self.ts_ns += 50 + self.random() % 100;
        let states = if life.server { SERVER } else { CLIENT };
        let (oldstate, newstate) = (
            states[usize::from(life.step)],
            states[usize::from(life.step) + 1],
        );
        let (first, last) = (life.step == 0, newstate == State::CLOSE);
        let mut flag = flags::TCP | flags::SOCKET;
        if !(first && life.server) {
            flag |= flags::COOKIE;
        }
        if in_process(oldstate, newstate) {
            flag |= flags::PROCESS;
        }
        if last {
            flag |= flags::DEAD | flags::DONE | flags::RCV_SHUTDOWN | flags::SEND_SHUTDOWN;
        }
        let peer = life.number as u32;
        let ephemeral = 32_768 + (life.number % 28_000) as u16;
        let known = !first;
        let (lport, rport) = if life.server {
            (life.port, if known { ephemeral } else { 0 })
        } else {
            (if known { ephemeral } else { 0 }, life.port)
        };
        Record {
            ts_ns: self.ts_ns,
            cookie: if flag & flags::COOKIE == 0 {
                0
            } else {
                life.number
            },
            skaddr: 0xffff_8880_0000_0000 + at as u64 * 2_432,
            cgroup: 1 + u64::from(life.port),
            bytes_sent: 500,
            bytes_received: 20_000,
            laddr: v4([10, 0, 0, 1]),
            raddr: if life.server && first {
                v4([0; 4])
            } else {
                v4(peer.to_be_bytes())
            },
            netns: 4_026_531_840,
            uid: 33,
            pid: if flag & flags::PROCESS == 0 {
                0
            } else {
                1_000 + u32::from(life.port)
            },
            srtt_us: if newstate == State::SYN_SENT {
                0
            } else {
                20 + peer % 1_000
            },
            retransmits: 0,
            lport,
            rport,
            error: 0,
            cpu: (at % 8) as u16,
            oldstate,
            newstate,
            family: AF_INET,
            flags: flag,
            comm: if flag & flags::PROCESS == 0 {
                [0; 16]
            } else {
                *b"nginx\0\0\0\0\0\0\0\0\0\0\0"
            },
        }
    }

    /// `splitmix64`: the same stream every time.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn v4(octets: [u8; 4]) -> [u8; 16] {
    std::net::Ipv4Addr::from(octets).to_ipv6_mapped().octets()
}

impl Stream {
    /// Number of bytes that the stream itself holds.
    pub fn memory(&self) -> usize {
        self.lives.capacity() * size_of::<Life>()
    }
}

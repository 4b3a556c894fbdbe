//! Captures of known traffic, the same every time: connections whose packets are interleaved at random.
//!
//! The frames are those of Ethernet, IPv4 and TCP with time stamps, with checksums of 0 as where the network card computes them.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context as _, Result};

use crate::recording::stream::Random;

const FIN: u8 = 1;
const SYN: u8 = 2;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// Ethernet 14, IPv4 20, TCP 20, its time stamps 12.
const HEADERS: usize = 66;
/// The payload of a full frame of 1,514 bytes.
const FULL: usize = 1_448;
/// Nanoseconds from a packet to the next.
const STEP_NS: u64 = 1_000;

/// The packets of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Requests and responses of up to 64 bytes, and acknowledgements.
    Small,
    /// Responses in full frames, and an acknowledgement for each two.
    Large,
}

impl Size {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Small => "small packets",
            Self::Large => "large packets",
        }
    }

    /// Connections that are open at a time. All have to end, so there are less of those that have much to send.
    pub const fn live(self) -> usize {
        match self {
            Self::Small => 10_000,
            Self::Large => 1_000,
        }
    }

    /// Segments of a response.
    const fn segments(self) -> u8 {
        match self {
            Self::Small => 1,
            Self::Large => 32,
        }
    }

    /// Most requests of a connection; the least is one.
    const fn requests(self) -> u64 {
        match self {
            Self::Small => 30,
            Self::Large => 4,
        }
    }
}

/// The next packet of a connection.
#[derive(Clone, Copy)]
enum Step {
    Syn,
    SynAck,
    Ack,
    Request,
    /// A segment of the response; so many are left with it.
    Data(u8),
    /// Its acknowledgement; so many are left to come.
    DataAck(u8),
    ClientFin,
    ClientFinAck,
    ServerFin,
    ServerFinAck,
}

#[derive(Clone, Copy)]
struct Life {
    number: u32,
    step: Step,
    requests: u64,
    /// The next sequence numbers of client and server.
    next: [u32; 2],
}

/// The amounts in a capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    pub packets: u64,
    pub connections: u64,
    pub bytes: u64,
}

/// Writes connections, of which so many are open at a time, until there are `bytes`; then lets them all end. Returns the amounts
/// in all of it, and those in its first packets, of which there are at most `first`.
pub fn write(
    path: &Path,
    size: Size,
    live: usize,
    bytes: u64,
    first: u64,
) -> Result<(Amounts, Amounts)> {
    let mut capture = Capture::create(path, size)?;
    let mut lives: Vec<Life> = (0..live).map(|_| capture.begin()).collect();
    let mut in_first = Amounts::default();
    while !lives.is_empty() {
        let at = capture.random.below(lives.len() as u64) as usize;
        let is_over = !capture.advance(&mut lives[at])?;
        if is_over && capture.amounts.bytes < bytes {
            lives[at] = capture.begin();
        } else if is_over {
            lives.swap_remove(at);
        }
        if capture.amounts.packets <= first {
            in_first = capture.amounts;
        }
    }
    Ok((capture.finish()?, in_first))
}

/// Writes connections that have exchanged something and stay open.
pub fn write_open(path: &Path, connections: usize) -> Result<Amounts> {
    const PACKETS: usize = 6;
    let mut capture = Capture::create(path, Size::Small)?;
    let mut lives: Vec<Life> = (0..connections).map(|_| capture.begin()).collect();
    for _ in 0..PACKETS {
        for life in &mut lives {
            // So that there is another one after the sixth packet.
            life.requests = 2;
            capture.advance(life)?;
        }
    }
    capture.finish()
}

struct Capture {
    file: BufWriter<File>,
    size: Size,
    random: Random,
    begun: u32,
    amounts: Amounts,
}

impl Capture {
    fn create(path: &Path, size: Size) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        // The magic of nanoseconds, version 2.4, a snap length, Ethernet.
        for number in [0xa1b2_3c4d, 2 | 4 << 16, 0, 0, 65_535, 1_u32] {
            file.write_all(&number.to_le_bytes())?;
        }
        Ok(Self {
            file,
            size,
            random: Random::new(1),
            begun: 0,
            amounts: Amounts {
                bytes: 24,
                ..Amounts::default()
            },
        })
    }

    fn finish(mut self) -> Result<Amounts> {
        self.file.flush()?;
        Ok(self.amounts)
    }

    fn begin(&mut self) -> Life {
        self.begun += 1;
        let numbers = self.random.next_u64();
        Life {
            number: self.begun,
            step: Step::Syn,
            requests: 1 + self.random.below(self.size.requests()),
            next: [numbers as u32, (numbers >> 32) as u32],
        }
    }

    /// Writes the next packet of a connection. Returns whether there is another one.
    fn advance(&mut self, life: &mut Life) -> Result<bool> {
        let (end, flags, length, next) = match life.step {
            Step::Syn => {
                self.amounts.connections += 1;
                (0, SYN, 0, Some(Step::SynAck))
            }
            Step::SynAck => (1, SYN | ACK, 0, Some(Step::Ack)),
            Step::Ack => (0, ACK, 0, Some(Step::Request)),
            Step::Request => {
                let next = Step::Data(self.size.segments());
                (0, PSH | ACK, self.a_few(), Some(next))
            }
            Step::Data(left) => {
                let length = match self.size {
                    Size::Small => self.a_few(),
                    Size::Large => FULL,
                };
                let left = left - 1;
                let next = if left.is_multiple_of(2) {
                    Step::DataAck(left)
                } else {
                    Step::Data(left)
                };
                (1, ACK, length, Some(next))
            }
            Step::DataAck(0) => {
                life.requests -= 1;
                let next = if life.requests > 0 {
                    Step::Request
                } else {
                    Step::ClientFin
                };
                (0, ACK, 0, Some(next))
            }
            Step::DataAck(left) => (0, ACK, 0, Some(Step::Data(left))),
            Step::ClientFin => (0, FIN | ACK, 0, Some(Step::ClientFinAck)),
            Step::ClientFinAck => (1, ACK, 0, Some(Step::ServerFin)),
            Step::ServerFin => (1, FIN | ACK, 0, Some(Step::ServerFinAck)),
            Step::ServerFinAck => (0, ACK, 0, None),
        };
        self.packet(life, end, flags, length)?;
        let of_flags = u32::from(flags & (SYN | FIN) != 0);
        life.next[end] = life.next[end].wrapping_add(length as u32 + of_flags);
        life.step = next.unwrap_or(Step::Syn);
        Ok(next.is_some())
    }

    fn a_few(&mut self) -> usize {
        1 + self.random.below(64) as usize
    }

    fn packet(&mut self, life: &Life, end: usize, flags: u8, length: usize) -> Result<()> {
        const RECORD: usize = 16;
        const PAYLOAD: [u8; FULL] = [b'x'; FULL];
        let time_ns = 1_700_000_000_000_000_000 + self.amounts.packets * STEP_NS;
        let captured = (HEADERS + length) as u32;
        let mut head = [0; RECORD + HEADERS];
        let times = [time_ns / 1_000_000_000, time_ns % 1_000_000_000];
        let record = [times[0] as u32, times[1] as u32, captured, captured];
        for (place, number) in head.chunks_exact_mut(4).zip(record) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let frame = &mut head[RECORD..];
        frame[12..14].copy_from_slice(&[8, 0]);
        let total = (HEADERS - 14 + length) as u16;
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        // Time to live, and TCP.
        frame[22..24].copy_from_slice(&[64, 6]);
        let [_, a, b, c] = life.number.to_be_bytes();
        let (client, server) = ([10, a, b, c], [192, 0, 2, c % 16]);
        // Each client has an address of its own, so no connection has the addresses of another.
        let (client_port, server_port) = (32_768 + (life.number % 28_000) as u16, 443_u16);
        let (from, to) = if end == 0 {
            ((client, client_port), (server, server_port))
        } else {
            ((server, server_port), (client, client_port))
        };
        frame[26..30].copy_from_slice(&from.0);
        frame[30..34].copy_from_slice(&to.0);
        frame[34..36].copy_from_slice(&from.1.to_be_bytes());
        frame[36..38].copy_from_slice(&to.1.to_be_bytes());
        frame[38..42].copy_from_slice(&life.next[end].to_be_bytes());
        if flags & ACK != 0 {
            frame[42..46].copy_from_slice(&life.next[1 - end].to_be_bytes());
        }
        frame[46..50].copy_from_slice(&[8 << 4, flags, 0xff, 0xff]);
        // Two bytes without an operation, and the time stamps.
        frame[54..58].copy_from_slice(&[1, 1, 8, 10]);
        frame[58..62].copy_from_slice(&((time_ns / 1_000_000) as u32).to_be_bytes());
        self.file.write_all(&head)?;
        self.file.write_all(&PAYLOAD[..length])?;
        self.amounts.packets += 1;
        self.amounts.bytes += (head.len() + length) as u64;
        Ok(())
    }
}

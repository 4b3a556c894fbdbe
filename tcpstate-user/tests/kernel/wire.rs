//! A wire between two network namespaces, controlled by the test.
//!
//! It consists of two TUN devices, and a thread that carries packets from one to the other unless it holds
//! them back. So the test, and not the scheduler, decides which segments cross, are late or are lost. Or it is as bad as a
//! network can be: packets are lost, late, and overtake each other, as many as the test says.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::{
    faults::Random,
    net::{Interface, Netns, await_that, joined},
};

/// A TCP segment on the wire, with the fields by which tests select.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Whether it goes from the first namespace to the second.
    pub forth: bool,
    pub syn: bool,
    pub fin: bool,
}

impl Segment {
    /// Reads an IPv4 packet; `None` for what is not TCP over IPv4.
    fn parse(forth: bool, packet: &[u8]) -> Option<Self> {
        let [first, rest @ ..] = packet else {
            return None;
        };
        if first >> 4 != 4 || *rest.get(8)? != 6 {
            return None;
        }
        let flags = *packet.get(usize::from(first & 15) * 4 + 13)?;
        let has = |bit: u8| flags & bit != 0;
        Some(Self {
            forth,
            fin: has(1),
            syn: has(2),
        })
    }
}

/// A rule that selects the segments to hold back.
type Rule = Box<dyn Fn(Segment) -> bool + Send>;

/// The faults of a bad network.
#[derive(Clone, Copy, Debug)]
pub struct Impairment {
    /// Packets of a hundred that are lost.
    pub lost_percent: u64,
    /// Each packet is late, by up to this; so they overtake each other.
    pub latest: Duration,
}

/// A packet that is late: when it is due, its number, whether it goes from the first namespace to the second.
type Late = (Instant, u64, bool, Vec<u8>);

#[derive(Default)]
struct Hands {
    rule: Option<Rule>,
    held: VecDeque<(Segment, Vec<u8>)>,
    impairment: Option<(Impairment, Random)>,
    late: BinaryHeap<Reverse<Late>>,
    number: u64,
}

impl Hands {
    /// Takes a packet out of the hands of the carrier, if it is lost or late.
    fn takes(&mut self, forth: bool, packet: &[u8]) -> bool {
        let Some((impairment, random)) = &mut self.impairment else {
            return false;
        };
        if random.below(100) >= impairment.lost_percent {
            let thousandth = impairment.latest / 1_000;
            let delay = thousandth * u32::try_from(random.below(1_001)).unwrap_or(0);
            self.number += 1;
            let late = (Instant::now() + delay, self.number, forth, packet.to_vec());
            self.late.push(Reverse(late));
        }
        true
    }

    /// The next late packet that is due.
    fn due(&mut self) -> Option<Late> {
        let Reverse((due, ..)) = self.late.peek()?;
        if *due > Instant::now() {
            return None;
        }
        self.late.pop().map(|Reverse(late)| late)
    }
}

/// The wire, which is cut when this is dropped.
pub struct Wire {
    /// The devices of the first and the second namespace.
    ends: [File; 2],
    hands: Arc<Mutex<Hands>>,
    stop: OwnedFd,
    carrier: Option<thread::JoinHandle<Result<()>>>,
}

impl Wire {
    /// The address of the first namespace's end.
    pub const FIRST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
    /// The address of the second namespace's end.
    pub const SECOND: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

    /// Connects two namespaces.
    pub fn new(first: &Netns, second: &Netns) -> Result<Self> {
        let ends = [
            first.run(|| device(Self::FIRST, Self::SECOND))?,
            second.run(|| device(Self::SECOND, Self::FIRST))?,
        ];
        let hands = Arc::new(Mutex::new(Hands::default()));
        let stop = eventfd(0, EventfdFlags::NONBLOCK)?;
        let carrier = {
            let ends = [ends[0].try_clone()?, ends[1].try_clone()?];
            let (hands, stop) = (Arc::clone(&hands), stop.try_clone()?);
            thread::spawn(move || carry(&ends, &hands, &stop))
        };
        Ok(Self {
            ends,
            hands,
            stop,
            carrier: Some(carrier),
        })
    }

    /// The address of a listener in the second namespace.
    pub fn second(port: u16) -> SocketAddr {
        (Self::SECOND, port).into()
    }

    /// Holds back the segments selected by `rule` from now on.
    pub fn hold(&self, rule: impl Fn(Segment) -> bool + Send + 'static) {
        self.hands().rule = Some(Box::new(rule));
    }

    /// Waits until the held segments satisfy `enough`.
    pub fn await_held(&self, enough: impl Fn(&[Segment]) -> bool) -> Result<()> {
        await_that("the segments are on the wire", || {
            let segments: Vec<_> = self
                .hands()
                .held
                .iter()
                .map(|(segment, _)| *segment)
                .collect();
            Ok(enough(&segments))
        })
    }

    /// Loses and delays packets from now on, the same way for the same packets; `None`: none.
    pub fn impair(&self, impairment: Option<Impairment>) {
        self.hands().impairment = impairment.map(|it| (it, Random::new(1)));
    }

    /// Delivers the held segments, and then all others.
    pub fn release(&self) -> Result<()> {
        self.release_and(None)
    }

    /// Delivers the held segments, and holds back the segments selected by `rule` from then on.
    pub fn release_and_hold(&self, rule: impl Fn(Segment) -> bool + Send + 'static) -> Result<()> {
        self.release_and(Some(Box::new(rule)))
    }

    fn release_and(&self, rule: Option<Rule>) -> Result<()> {
        let mut hands = self.hands();
        hands.rule = rule;
        for (segment, packet) in hands.held.drain(..) {
            deliver(&self.ends, segment.forth, &packet)?;
        }
        Ok(())
    }

    fn hands(&self) -> std::sync::MutexGuard<'_, Hands> {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let stopped = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let (Ok(_), Some(carrier)) = (stopped, self.carrier.take())
            && let Err(error) = joined(carrier.join())
            && !thread::panicking()
        {
            panic!("the wire broke: {error:#}");
        }
    }
}

/// Makes a TUN device with an address, in the namespace of the calling thread.
fn device(local: Ipv4Addr, peer: Ipv4Addr) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // `struct ifreq`: a name of 16 bytes, then the flags.
    let mut request = [0u8; 40];
    request[..4].copy_from_slice(b"wire");
    let flags = libc::c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI)?;
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, 40 bytes, which `request` has.
    let result =
        unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, request.as_mut_ptr()) };
    ensure!(result == 0, "TUNSETIFF: {}", io::Error::last_os_error());
    let interface = Interface::named("wire")?;
    interface.link(local, peer)?;
    interface.up()?;
    rustix::io::ioctl_fionbio(&file, true).context("O_NONBLOCK")?;
    Ok(file)
}

fn carry(ends: &[File; 2], hands: &Mutex<Hands>, stop: &OwnedFd) -> Result<()> {
    let mut packet = vec![0; 65_536];
    loop {
        let mut fds = [
            PollFd::new(&ends[0], PollFlags::IN),
            PollFd::new(&ends[1], PollFlags::IN),
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
        ];
        let due = {
            let hands = hands.lock().unwrap_or_else(PoisonError::into_inner);
            hands.late.peek().map(|Reverse((due, ..))| *due)
        };
        let wait = due.map(|due| due.saturating_duration_since(Instant::now()));
        let wait = wait.map(Timespec::try_from).transpose()?;
        match poll(&mut fds, wait.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        if !fds[2].revents().is_empty() {
            return Ok(());
        }
        let mut late = hands.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((_, _, forth, packet)) = late.due() {
            deliver(ends, forth, &packet)?;
        }
        drop(late);
        for forth in [true, false] {
            let mut from = &ends[usize::from(!forth)];
            let len = match from.read(&mut packet) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error).context("read from a TUN device"),
            };
            // The lock is held during the delivery, so that released segments precede later ones.
            let mut hands = hands.lock().unwrap_or_else(PoisonError::into_inner);
            match Segment::parse(forth, &packet[..len]) {
                Some(segment) if hands.rule.as_ref().is_some_and(|rule| rule(segment)) => {
                    hands.held.push_back((segment, packet[..len].to_vec()));
                }
                Some(_) if hands.takes(forth, &packet[..len]) => {}
                _ => deliver(ends, forth, &packet[..len])?,
            }
        }
    }
}

fn deliver(ends: &[File; 2], forth: bool, packet: &[u8]) -> Result<()> {
    let mut to = &ends[usize::from(forth)];
    to.write_all(packet).context("write to a TUN device")
}

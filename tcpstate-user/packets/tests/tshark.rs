//! The connections of captures, compared with the conversations that tshark finds in the same files.
//!
//! tshark's `tcp.completeness` says what a conversation has: SYN, SYN-ACK, ACK, data, FIN, RST. The rebuilt transitions say
//! the same, but for data, so both have to agree. [`DIFFERENCES`] has what differs for a reason. `TCPSTATE_CAPTURES=FOLDER`
//! compares the captures of that folder too.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use tcpstate_common::State;
use tcpstate_core::{cause::Cause, event::Event};
use tcpstate_packets::{decode::decode, format::Packets, machine::Machine};

/// The bits of `tcp.completeness`.
const SYN: u8 = 1;
const SYN_ACK: u8 = 2;
const ACK: u8 = 4;
const FIN: u8 = 16;
const RST: u8 = 32;

/// The content of a capture: its connections, and the bits of those that have any, by their ports.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    connections: usize,
    bits: BTreeMap<[u16; 2], Vec<u8>>,
}

impl Found {
    fn add(&mut self, mut ports: [u16; 2], bits: u8) {
        ports.sort_unstable();
        if bits & !ACK != 0 {
            self.bits.entry(ports).or_default().push(bits);
        }
    }

    /// The differences, a line each.
    fn differences(&self, tshark: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.connections != tshark.connections {
            lines.push(format!(
                "{} connections, {} in tshark",
                self.connections, tshark.connections
            ));
        }
        let mut ports: Vec<_> = self.bits.keys().chain(tshark.bits.keys()).collect();
        ports.sort_unstable();
        ports.dedup();
        for ports in ports {
            let [ours, theirs] = [self, tshark].map(|found| found.bits.get(ports));
            let [ours, theirs] = [ours, theirs].map(|bits| bits.cloned().unwrap_or_default());
            let agree = ours.len() == theirs.len()
                && ours
                    .iter()
                    .zip(&theirs)
                    .all(|(&ours, &theirs)| agree(ours, theirs));
            if !agree {
                let [a, b] = ports;
                lines.push(format!("{a} {b}: {ours:?}, {theirs:?} in tshark"));
            }
        }
        lines
    }
}

/// Whether both say the same. Any acknowledgement sets that bit in tshark, one of a RST too, so it says more than ours, which is that
/// the handshake ended.
const fn agree(ours: u8, theirs: u8) -> bool {
    ours & !ACK == theirs & !ACK && ours & ACK & !theirs == 0
}

/// The bits that the transitions of a connection say.
fn bits(events: &[Event]) -> u8 {
    let mut bits = 0;
    for event in events {
        let (old, new) = (event.oldstate(), event.newstate());
        if (old, new) == (State::CLOSE, State::SYN_SENT) {
            bits |= SYN;
        }
        if [old, new].contains(&State::SYN_RECV) {
            bits |= SYN_ACK;
        }
        if new == State::ESTABLISHED {
            bits |= SYN_ACK | ACK;
        }
        let with_fin = [
            State::FIN_WAIT1,
            State::FIN_WAIT2,
            State::CLOSE_WAIT,
            State::CLOSING,
            State::LAST_ACK,
        ];
        if with_fin.contains(&old) || with_fin.contains(&new) {
            bits |= FIN;
        }
        if new == State::CLOSE && Cause::of(event) != Some(Cause::Fin) {
            bits |= RST;
        }
    }
    bits
}

fn ours(path: &Path) -> Found {
    let mut packets = Packets::open(File::open(path).unwrap()).unwrap().unwrap();
    let (mut machine, mut events) = (Machine::new(10_000), Vec::new());
    while packets.advance().unwrap() {
        if let Ok(decoded) = decode(&packets.packet().unwrap()) {
            machine.take(&decoded.segment, &mut events);
        }
    }
    // The cookies of the two ends of a connection are an odd number and the next one.
    let mut connections: BTreeMap<u64, Vec<Event>> = BTreeMap::new();
    for event in events {
        let cookie = event.cookie().unwrap();
        connections
            .entry(cookie.div_ceil(2))
            .or_default()
            .push(event);
    }
    let mut found = Found {
        connections: usize::try_from(machine.connections()).unwrap(),
        ..Found::default()
    };
    for events in connections.values() {
        found.add([events[0].lport(), events[0].rport()], bits(events));
    }
    found
}

fn tshark(path: &Path) -> Found {
    let mut command = Command::new("tshark");
    // In two passes, so that the first packet has the bits of all.
    command.args(["-2", "-n", "-r"]).arg(path);
    command.args(["-Y", "tcp", "-T", "fields", "-E", "occurrence=l"]);
    for field in [
        "tcp.stream",
        "tcp.completeness",
        "tcp.srcport",
        "tcp.dstport",
    ] {
        command.args(["-e", field]);
    }
    let output = command.output().unwrap();
    // A capture that is cut ends with an error; its packets are there.
    let text = String::from_utf8(output.stdout).unwrap();
    let mut streams: BTreeMap<u32, ([u16; 2], u8)> = BTreeMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let number = |at: usize| fields[at].parse::<u16>().unwrap();
        // The packets say more and more of it.
        let stream = streams.entry(fields[0].parse().unwrap()).or_default();
        stream.0 = [number(2), number(3)];
        stream.1 |= u8::try_from(number(1)).unwrap();
    }
    let mut found = Found {
        connections: streams.len(),
        ..Found::default()
    };
    for (ports, bits) in streams.into_values() {
        found.add(ports, bits & (SYN | SYN_ACK | ACK | FIN | RST));
    }
    found
}

/// Captures that differ on purpose: their differences, and the reason.
const DIFFERENCES: &[(&str, &[&str], &str)] = &[
    (
        "13-handshake-oddities.pcap",
        &[
            "15 connections, 16 in tshark",
            "8080 40003: [3], [3, 7] in tshark",
        ],
        "a second SYN with another number is an old duplicate until a SYN-ACK answers it; here a challenge ACK does",
    ),
    (
        "15-tfo-3-conns.pcap",
        &["13048 13054: [23], [21] in tshark"],
        "the client acknowledges a SYN-ACK that is not in the capture",
    ),
    (
        "20-fin-in-syn-sent.pcap",
        &["443 55344: [39], [55] in tshark"],
        "its FINs have the number of the SYN, where no FIN can be",
    ),
    (
        "34-one-sided.pcap",
        &[
            "281 2745: [6], [22] in tshark",
            "1433 2745: [6], [22] in tshark",
        ],
        "the other direction is not captured, and may have had the first FIN: the state that this one leads to is not known",
    ),
    (
        "47-vlan-collisions.pcap",
        &[
            "3 connections, 1 in tshark",
            "80 59856: [23, 23, 23], [23] in tshark",
        ],
        "tshark takes the same addresses in three VLANs for one connection",
    ),
    (
        "54-vxlan-overlap.pcap",
        &[
            "3 connections, 1 in tshark",
            "80 59856: [23, 23, 23], [23] in tshark",
        ],
        "tshark takes the same addresses in two overlays and outside for one connection",
    ),
    (
        "76-stealth-scans.pcap",
        &[
            "4 connections, 7 in tshark",
            "3390 62971: [], [36] in tshark",
            "3391 57916: [], [36] in tshark",
            "3392 63243: [], [36] in tshark",
        ],
        "scans without SYN and without ACK, and the RST that answers each, are of no connection",
    ),
    (
        "87-time-goes-back.pcap",
        &["0 0: [7], [1] in tshark"],
        "the client acknowledges a SYN-ACK that is not in the capture",
    ),
];

fn captures() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let given = env::var_os("TCPSTATE_CAPTURES").map(PathBuf::from);
    let mut captures = BTreeMap::new();
    for folder in [own].into_iter().chain(given) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            if let Some("pcap" | "pcapng") = extension {
                captures.insert(path.file_name().unwrap().to_owned(), path);
            }
        }
    }
    captures.into_values().collect()
}

#[test]
fn connections_are_those_of_tshark() {
    if let Err(error) = Command::new("tshark").arg("--version").output() {
        eprintln!("skipped: tshark: {error}");
        return;
    }
    let captures = captures();
    assert!(captures.len() > 30, "{}", captures.len());
    let mut wrong = String::new();
    for path in captures {
        let name = path.file_name().unwrap().to_str().unwrap();
        let found = ours(&path).differences(&tshark(&path));
        let known = DIFFERENCES.iter().find(|(capture, ..)| *capture == name);
        let expected = known.map_or(&[][..], |(_, differences, _)| differences);
        if found != expected {
            let why = known.map_or("", |(.., reason)| reason);
            writeln!(
                wrong,
                "{name}\nfound    {found:#?}\nexpected {expected:#?} {why}"
            )
            .unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

use proptest::prelude::*;

use super::*;
use crate::{
    segment::flags,
    written::{behind, ethernet, tcp, v4, v6},
};

const SYN: u8 = flags::SYN;

fn of(link: u16, bytes: &[u8]) -> Result<Decoded, Skip> {
    of_cut(link, bytes, bytes.len())
}

fn of_cut(link: u16, bytes: &[u8], wire: usize) -> Result<Decoded, Skip> {
    decode(&Packet {
        number: 3,
        time_ns: 4,
        link,
        wire_len: u32::try_from(wire).unwrap(),
        bytes,
    })
}

fn segment(link: u16, bytes: &[u8]) -> Segment {
    of(link, bytes).unwrap().segment
}

/// A SYN with five bytes over IPv4.
fn syn() -> Vec<u8> {
    v4(6, &tcp(SYN, 77, 88, 5))
}

#[test]
fn a_segment_has_all_its_numbers() {
    let found = segment(1, &ethernet(0x0800, &syn()));
    let expected = Segment {
        number: 3,
        time_ns: 4,
        from: found.from,
        to: found.to,
        domain: 0,
        seq: 77,
        ack: 88,
        len: 5,
        window: 0x0102,
        flags: SYN,
    };
    assert_eq!(found, expected);
    assert_eq!((found.from.port, found.to.port), (40_000, 80));
    assert_eq!(found.from.ip().to_string(), "10.0.0.1");
    assert_eq!(found.to.ip().to_string(), "10.0.0.2");
    assert_eq!(found.end(), 83);
    let found = segment(101, &v6(6, &tcp(SYN, 1, 2, 0)));
    assert_eq!(found.from.ip().to_string(), "fd00::1");
    assert_eq!(found.len, 0);
}

#[test]
fn every_link_layer_leads_to_the_same_segment() {
    let plain = segment(101, &syn());
    let ip = syn();
    let sll = |kind: [u8; 2]| behind(&[&[0; 14], kind.as_slice()].concat(), &ip);
    let sll2 = behind(&[&[8, 0], [0; 18].as_slice()].concat(), &ip);
    let snap = [&[0, 61, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0], ip.as_slice()].concat();
    let mpls = [&[0, 1, 0, 64, 0, 2, 1, 64], ip.as_slice()].concat();
    let bridged = [&[0, 2, 1, 64, 0, 0, 0, 0], ethernet(0x0800, &ip).as_slice()].concat();
    let pppoe = behind(&[0x11, 0, 0, 9, 0, 47, 0, 0x21], &ip);
    for (link, bytes) in [
        (0, behind(&[2, 0, 0, 0], &ip)),
        (108, behind(&[0, 0, 0, 2], &ip)),
        (12, ip.clone()),
        (14, ip.clone()),
        (228, ip.clone()),
        (113, sll([8, 0])),
        (276, sll2),
        (9, behind(&[0xff, 3, 0, 0x21], &ip)),
        (9, behind(&[0x21], &ip)),
        (50, behind(&[0, 0x21], &ip)),
        (1, behind(&[2; 12], &snap)),
        (1, ethernet(0x8847, &mpls)),
        (1, ethernet(0x8847, &bridged)),
        (1, ethernet(0x8864, &pppoe)),
    ] {
        assert_eq!(segment(link, &bytes), plain, "link type {link}");
    }
    assert_eq!(of(147, &ip), Err(Skip::Unreadable(Unreadable::LinkType)));
}

#[test]
fn vlans_and_overlays_are_networks_of_their_own() {
    let inner = ethernet(0x0800, &syn());
    let vlan = |id: u8| ethernet(0x8100, &behind(&[0, id, 8, 0], &syn()));
    let qinq = ethernet(0x88a8, &behind(&[0, 1, 0x81, 0, 0, 2, 8, 0], &syn()));
    let udp = |port: u16, header: &[u8], payload: &[u8]| {
        let mut bytes = vec![1, 1];
        bytes.extend(port.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(header);
        bytes.extend(payload);
        ethernet(0x0800, &v4(17, &bytes))
    };
    let overlay = |id: u8| udp(4789, &[8, 0, 0, 0, 0, 0, id, 0], &inner);
    let geneve = |id: u8| {
        let header = [1, 0, 0x65, 0x58, 0, 0, id, 0, 9, 9, 9, 9];
        udp(6081, &header, &inner)
    };
    let found = [
        inner.clone(),
        vlan(1),
        vlan(2),
        qinq,
        overlay(1),
        overlay(2),
        vlan(1),
        geneve(1),
    ]
    .map(|bytes| of(1, &bytes).unwrap());
    let tunnelled: Vec<_> = found.iter().map(|found| found.is_tunnelled).collect();
    assert_eq!(
        tunnelled,
        [false, false, false, false, true, true, false, true]
    );
    let domains = found.map(|found| found.segment.domain);
    assert_eq!(domains[0], 0);
    assert_eq!(domains[1], domains[6]);
    assert_eq!(domains[4], domains[7]);
    let distinct: std::collections::HashSet<_> = domains.into_iter().collect();
    assert_eq!(distinct.len(), 6);
    // Whatever else uses their ports.
    let other = udp(4789, &[1, 2, 3, 4, 5, 6, 7, 8], &inner);
    assert_eq!(of(1, &other), Err(Skip::NotTcp(NotTcp::Udp)));
}

#[test]
fn tunnels_carry_the_inner_connection() {
    let inner = syn();
    let gre = |header: &[u8], payload: &[u8]| v4(47, &behind(header, payload));
    for bytes in [
        v4(4, &inner),
        v4(41, &v6(6, &tcp(SYN, 77, 88, 5))),
        v6(4, &inner),
        gre(&[0, 0, 8, 0], &inner),
        gre(&[0xb0, 0, 8, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3], &inner),
        gre(&[0, 0, 0x65, 0x58], &ethernet(0x0800, &inner)),
        gre(
            &[
                0x30, 0x81, 0x88, 0x0b, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 0xff, 3, 0, 0x21,
            ],
            &inner,
        ),
    ] {
        let found = of(101, &bytes).unwrap();
        assert!(found.is_tunnelled);
        assert_eq!((found.segment.seq, found.segment.len), (77, 5));
        assert_eq!(found.segment.domain, 0);
    }
}

#[test]
fn headers_of_ipv6_are_passed() {
    let segment_bytes = tcp(SYN, 77, 88, 5);
    let hop = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let atomic = [6, 0, 0, 0, 0, 0, 0, 1];
    let authenticated = [
        6, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    for (first, headers) in [
        (0, hop(6).to_vec()),
        (0, [hop(60), hop(6)].concat()),
        (43, hop(6).to_vec()),
        (44, atomic.to_vec()),
        (0, [hop(44), atomic].concat()),
        (51, authenticated.to_vec()),
    ] {
        let found = segment(101, &v6(first, &behind(&headers, &segment_bytes)));
        assert_eq!((found.seq, found.len), (77, 5), "{first}");
    }
    // A jumbogram: the length is in an option.
    let mut jumbo = v6(
        0,
        &behind(&[6, 0, 0xc2, 4, 0, 1, 0x38, 0x80], &segment_bytes),
    );
    jumbo[4..6].fill(0);
    let found = of_cut(101, &jumbo, 80_040).unwrap().segment;
    assert_eq!(found.len, 80_000 - 8 - 20);
}

#[test]
fn lengths_come_from_the_wire_where_the_sender_left_them_open() {
    let mut bytes = syn();
    bytes[2..4].fill(0);
    let found = of_cut(101, &bytes, 20 + 20 + 64_000).unwrap().segment;
    assert_eq!(found.len, 64_000);
    // The padding of a short frame is no payload.
    let padded = behind(&ethernet(0x0800, &v4(6, &tcp(SYN, 1, 1, 0))), &[0; 6]);
    assert_eq!(segment(1, &padded).len, 0);
}

#[test]
fn a_fragment_is_decided_by_the_first() {
    let mut first = syn();
    first[6] = 0x20;
    assert_eq!(segment(101, &first).seq, 77);
    // Even if the others have a part of its header.
    let mut small = v4(6, &tcp(SYN, 77, 88, 0));
    small[20 + 12] = 10 << 4;
    assert!(of(101, &small).is_err());
    small[6] = 0x20;
    assert_eq!(
        (segment(101, &small).seq, segment(101, &small).len),
        (77, 0)
    );
    let mut later = syn();
    later[7] = 3;
    assert_eq!(of(101, &later), Err(Skip::NotTcp(NotTcp::Fragment)));
    let later = v6(44, &behind(&[6, 0, 0, 8, 0, 0, 0, 1], &tcp(SYN, 1, 1, 0)));
    assert_eq!(of(101, &later), Err(Skip::NotTcp(NotTcp::Fragment)));
}

#[test]
fn what_is_no_tcp_is_told_by_kind() {
    for (bytes, kind) in [
        (v4(17, &[0; 8]), NotTcp::Udp),
        (v4(1, &[0; 8]), NotTcp::Icmp),
        (v6(58, &[0; 8]), NotTcp::Icmp),
        (v4(132, &[0; 8]), NotTcp::OtherIp),
    ] {
        assert_eq!(of(101, &bytes), Err(Skip::NotTcp(kind)));
    }
    for (ethertype, kind) in [
        (0x0806, NotTcp::Arp),
        (0x88cc, NotTcp::Other),
        (38, NotTcp::Other),
    ] {
        let bytes = ethernet(ethertype, &[0; 46]);
        assert_eq!(of(1, &bytes), Err(Skip::NotTcp(kind)));
    }
}

#[test]
fn a_snapped_packet_is_cut_only_if_its_header_is() {
    let bytes = ethernet(0x0800, &syn());
    for end in 0..=bytes.len() {
        let found = of_cut(1, &bytes[..end], bytes.len());
        if end < 14 + 20 + 16 {
            assert_eq!(found, Err(Skip::Unreadable(Unreadable::Cut)), "{end}");
        } else {
            assert_eq!(found.unwrap().segment.len, 5, "{end}");
        }
    }
    // On the wire, too, it was not longer.
    assert_eq!(
        of(1, &bytes[..40]),
        Err(Skip::Unreadable(Unreadable::Malformed))
    );
}

#[test]
fn contradictions_are_malformed() {
    let malformed = Err(Skip::Unreadable(Unreadable::Malformed));
    let mut short_header = syn();
    short_header[20 + 12] = 4 << 4;
    let mut long_header = v4(6, &tcp(SYN, 1, 1, 0));
    long_header[20 + 12] = 15 << 4;
    let mut ip_header = syn();
    ip_header[0] = 0x44;
    let mut version = syn();
    version[0] = 0x95;
    for bytes in [short_header, long_header, ip_header, version] {
        assert_eq!(of(101, &bytes), malformed);
    }
    // Deeper than anybody goes.
    let mut deep = syn();
    for _ in 0..10 {
        deep = v4(4, &deep);
    }
    assert_eq!(of(101, &deep), malformed);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_decoded(
        bytes in prop::collection::vec(any::<u8>(), 0..120),
        link in prop::sample::select(vec![0, 1, 9, 50, 101, 108, 113, 228, 229, 276_u16]),
        wire in 0..2000_usize,
        place in 0..80_usize,
    ) {
        let _ = of_cut(link, &bytes, wire.max(bytes.len()));
        let mut good = ethernet(0x0800, &v4(17, &behind(&[1, 1, 18, 181, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0], &ethernet(0x86dd, &v6(0, &behind(&[6, 0, 1, 4, 0, 0, 0, 0], &tcp(SYN, 1, 1, 9)))))));
        for (to, from) in good[place..].iter_mut().zip(&bytes) {
            *to = *from;
        }
        let _ = of_cut(1, &good, wire.max(good.len()));
    }
}

/// The checksum of these bytes, of which its own are 0.
fn checksum_of(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| low.into()))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}

/// A segment over IP with right checksums; its TCP header begins at the second value.
fn right(is_v4: bool, len: usize) -> (Vec<u8>, usize) {
    let segment = tcp(SYN, 77, 88, len);
    let (mut packet, at) = if is_v4 {
        (v4(6, &segment), 20)
    } else {
        (v6(6, &segment), 40)
    };
    let (addresses, length) = if is_v4 {
        (packet[12..20].to_vec(), segment.len())
    } else {
        (packet[8..40].to_vec(), segment.len())
    };
    let pseudo = [
        addresses,
        vec![0, 6],
        u16::try_from(length).unwrap().to_be_bytes().to_vec(),
        segment,
    ];
    let checksum = checksum_of(&pseudo.concat());
    packet[at + 16..at + 18].copy_from_slice(&checksum);
    if is_v4 {
        let checksum = checksum_of(&packet[..20]);
        packet[10..12].copy_from_slice(&checksum);
    }
    (packet, at)
}

fn verified(bytes: &[u8], wire: usize) -> Result<Decoded, Skip> {
    decode_verified(&Packet {
        number: 1,
        time_ns: 1,
        link: 101,
        wire_len: u32::try_from(wire).unwrap(),
        bytes,
    })
}

#[test]
fn wrong_checksums_are_found_where_they_are_verified() {
    for (is_v4, len) in [(true, 0), (true, 5), (false, 0), (false, 6)] {
        let (packet, at) = right(is_v4, len);
        assert!(verified(&packet, packet.len()).is_ok(), "{is_v4} {len}");
        for wrong_at in [at + 4, packet.len() - 1] {
            let mut wrong = packet.clone();
            wrong[wrong_at] ^= 1;
            let skip = Skip::Unreadable(Unreadable::TcpChecksum);
            assert_eq!(verified(&wrong, wrong.len()), Err(skip), "{is_v4} {len}");
            // The usual way does not mind.
            assert!(of(101, &wrong).is_ok());
        }
    }
    let (mut packet, _) = right(true, 5);
    packet[8] = 63;
    let skip = Skip::Unreadable(Unreadable::IpChecksum);
    assert_eq!(verified(&packet, packet.len()), Err(skip));
}

#[test]
fn checksums_that_cannot_be_verified_are_not_wrong() {
    let (packet, _) = right(true, 50);
    assert!(verified(&packet[..50], packet.len()).is_ok(), "cut");
    // The first fragment, with the rest of the payload elsewhere.
    let mut fragment = packet.clone();
    fragment[6] = 0x20;
    fragment[10..12].fill(0);
    let checksum = checksum_of(&fragment[..20]);
    fragment[10..12].copy_from_slice(&checksum);
    fragment[25] ^= 1;
    assert!(verified(&fragment, fragment.len()).is_ok());
}

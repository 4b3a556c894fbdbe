use proptest::prelude::*;

use super::super::testing::{answer, framed};
use super::*;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(4 + value.len())
        .unwrap()
        .to_ne_bytes()
        .to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn with(edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = answer();
    edit(&mut bytes);
    bytes
}

#[test]
fn a_request_has_the_kernels_layout() {
    let info = Extensions {
        info: true,
        memory: false,
    };
    let bytes = request(AF_INET6, 0x2345, info, None, 7);
    let (header, _) = message(&bytes).unwrap();
    assert_eq!(header.sequence, 7);
    assert_eq!(u32_at(bytes.first_chunk::<4>().unwrap(), 0), 72);
    assert_eq!(u16::from_ne_bytes([bytes[4], bytes[5]]), 20);
    assert_eq!(u16::from_ne_bytes([bytes[6], bytes[7]]), 0x301);
    assert_eq!(bytes[16..20], [AF_INET6, 6, 2, 0]);
    assert_eq!(bytes[20..24], 0x2345u32.to_ne_bytes());
    assert!(bytes[24..].iter().all(|&byte| byte == 0));
    assert_eq!(request(AF_INET, 1, Extensions::default(), None, 1)[18], 0);
    let memory = Extensions {
        info: false,
        memory: true,
    };
    assert_eq!(request(AF_INET, 1, memory, None, 1)[18], 1 << 6);
    let with_program = request(AF_INET6, 0x2345, info, Some(&[1, 4, 8, 0]), 7);
    assert_eq!(with_program[..4], 80u32.to_ne_bytes());
    assert_eq!(with_program[4..72], bytes[4..]);
    assert_eq!(with_program[72..74], 8u16.to_ne_bytes());
    assert_eq!(with_program[74..76], 1u16.to_ne_bytes());
    assert_eq!(with_program[76..], [1, 4, 8, 0]);
}

#[test]
fn a_request_of_both_families_has_the_kernels_older_layout() {
    let all = Extensions {
        info: true,
        memory: true,
    };
    let bytes = request_of_both_families(0x2345, all, Some(&[1, 4, 8, 0]), 7);
    assert_eq!(message(&bytes).unwrap().0.sequence, 7);
    assert_eq!(bytes[..4], 84u32.to_ne_bytes());
    assert_eq!(u16::from_ne_bytes([bytes[4], bytes[5]]), 18);
    assert_eq!(u16::from_ne_bytes([bytes[6], bytes[7]]), 0x301);
    assert_eq!(bytes[16..20], [0, 0, 0, 1 << 1 | 1 << 6]);
    assert_eq!(bytes[68..72], 0x2345u32.to_ne_bytes());
    assert!(
        bytes[20..68]
            .iter()
            .chain(&bytes[72..76])
            .all(|&byte| byte == 0)
    );
    assert_eq!(bytes[76..78], 8u16.to_ne_bytes());
    assert_eq!(bytes[78..80], 1u16.to_ne_bytes());
    assert_eq!(bytes[80..], [1, 4, 8, 0]);
    let plain = request_of_both_families(0x2345, Extensions::default(), None, 7);
    assert_eq!((plain.len(), plain[19]), (76, 0));
}

#[test]
fn a_minisocket_keeps_its_timer_and_has_no_user() {
    let socket = socket(&answer(), 42).unwrap();
    assert_eq!(
        socket,
        Socket {
            netns: 42,
            cookie: 0x0123_4567_89ab_cdef,
            family: AF_INET,
            state: State::TIME_WAIT,
            laddr: Ipv4Addr::new(192, 0, 2, 1).into(),
            lport: 80,
            raddr: Ipv4Addr::new(198, 51, 100, 2).into(),
            rport: 40_000,
            interface: None,
            timer: Some(Timer {
                kind: TimerKind::TimeWait,
                expires_ms: 59_996,
                retransmits: 0
            }),
            rqueue: 0,
            wqueue: 0,
            uid: None,
            inode: None,
            cgroup: None,
            shutdown: None,
            v6only: None,
            drops: None,
            info: None,
        }
    );
    assert!(socket.is_ipv4());
}

#[test]
fn a_socket_that_is_held_has_a_user_even_if_it_is_root() {
    let held = with(|bytes| {
        bytes[1] = 10;
        bytes[2] = 0;
        bytes[56..60].copy_from_slice(&3u32.to_ne_bytes());
        bytes[60..64].copy_from_slice(&128u32.to_ne_bytes());
        bytes[68..72].copy_from_slice(&4711u32.to_ne_bytes());
    });
    let held = socket(&held, 1).unwrap();
    assert_eq!(
        (held.uid, held.inode, held.timer),
        (Some(0), Some(4711), None)
    );
    assert_eq!((held.rqueue, held.wqueue), (3, 128));
    let orphan = with(|bytes| bytes[64..68].copy_from_slice(&33u32.to_ne_bytes()));
    assert_eq!(socket(&orphan, 1).unwrap().uid, Some(33));
}

#[test]
fn ipv6_and_mapped_addresses_are_told_apart() {
    let mapped = with(|bytes| {
        bytes[0] = AF_INET6;
        bytes[8..24].copy_from_slice(&Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets());
        bytes[24..40].copy_from_slice(&Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets());
    });
    let mapped = socket(&mapped, 1).unwrap();
    assert_eq!(mapped.laddr, IpAddr::from(Ipv4Addr::LOCALHOST));
    assert!(mapped.is_ipv4() && mapped.family == AF_INET6);
    let any = with(|bytes| {
        bytes[0] = AF_INET6;
        bytes[8..40].fill(0);
    });
    let any = socket(&any, 1).unwrap();
    assert_eq!(any.laddr, IpAddr::from(Ipv6Addr::UNSPECIFIED));
    assert!(!any.is_ipv4());
}

#[test]
fn a_request_socket_is_in_syn_recv_and_unknown_numbers_stay() {
    let state = |number| socket(&with(|bytes| bytes[1] = number), 1).unwrap().state;
    assert_eq!(state(12), State::SYN_RECV);
    assert_eq!(state(200), State(200));
    let timer = |kind| socket(&with(|bytes| bytes[2] = kind), 1).unwrap().timer;
    assert_eq!(timer(9).unwrap().kind, TimerKind::Other(9));
    assert_eq!(timer(0), None);
}

#[test]
fn attributes_are_read_where_they_are_and_skipped_where_unknown() {
    let mut info = vec![0; 232];
    info[4] = 2;
    info[8..12].copy_from_slice(&800_000u32.to_ne_bytes());
    info[68..72].copy_from_slice(&28u32.to_ne_bytes());
    info[100..104].copy_from_slice(&2u32.to_ne_bytes());
    info[128..136].copy_from_slice(&5_000u64.to_ne_bytes());
    info[200..208].copy_from_slice(&7_000u64.to_ne_bytes());
    let memory = [0, 131_072, 0, 16_384, 0, 0, 0, 0, 7].map(u32::to_ne_bytes);
    let bytes = with(|bytes| {
        bytes.extend(attribute(7, &memory.concat()));
        bytes.extend(attribute(8, &[3]));
        bytes.extend(attribute(99, b"whatever"));
        bytes.extend(attribute(11, &[1]));
        bytes.extend(attribute(21, &77u64.to_ne_bytes()));
        bytes.extend(attribute(22, &[0, 0]));
        bytes.extend(attribute(2, &info));
    });
    let whole = socket(&bytes, 1).unwrap();
    assert_eq!(whole.shutdown, Some(3));
    assert_eq!(whole.v6only, Some(true));
    assert_eq!(whole.cgroup, Some(77));
    assert_eq!(whole.drops, Some(7));
    let shorter = with(|bytes| bytes.extend(attribute(7, &memory[..8].concat())));
    assert_eq!(socket(&shorter, 1).unwrap().drops, None);
    assert_eq!(
        whole.info,
        Some(TcpInfo {
            srtt_us: Some(28),
            retransmits: Some(2),
            bytes_received: Some(5_000),
            bytes_sent: Some(7_000),
            last_sent_ms: Some(0),
            last_received_ms: Some(0),
            last_ack_received_ms: Some(0),
            timeout_us: Some(800_000),
            backoffs: Some(2),
        })
    );
    // The kernel counts the peer's FIN.
    let closed = with(|bytes| {
        bytes[1] = State::CLOSE_WAIT.0;
        bytes.extend(attribute(2, &info));
    });
    let info_of_closed = socket(&closed, 1).unwrap().info.unwrap();
    assert_eq!(info_of_closed.bytes_received, Some(4_999));
    // An older kernel's: what is not there is not 0.
    let older = with(|bytes| bytes.extend(attribute(2, &info[..104])));
    let older = socket(&older, 1).unwrap().info.unwrap();
    assert_eq!((older.retransmits, older.bytes_sent), (Some(2), None));
}

#[test]
fn malformed_sockets_are_refused_with_the_reason() {
    use MalformedError::{Attribute, Family, Short};
    let mut table = vec![
        (vec![], Short(0)),
        (vec![AF_INET], Short(1)),
        (answer()[..ANSWER - 1].to_vec(), Short(ANSWER - 1)),
        (with(|bytes| bytes[0] = 0), Family(0)),
        (with(|bytes| bytes[0] = 1), Family(1)),
        // Attributes: a header cut off, a length below the header's own, one beyond the end.
        (with(|bytes| bytes.extend([5, 0, 8])), Attribute(0)),
        (with(|bytes| bytes.extend([0, 0, 8, 0])), Attribute(8)),
        (with(|bytes| bytes.extend([3, 0, 8, 0])), Attribute(8)),
        (with(|bytes| bytes.extend([9, 0, 2, 0, 1, 2])), Attribute(2)),
        (
            with(|bytes| bytes.extend([0xff, 0xff, 99, 0])),
            Attribute(99),
        ),
        // Values that are too short.
        (with(|bytes| bytes.extend(attribute(8, &[]))), Attribute(8)),
        (
            with(|bytes| bytes.extend(attribute(11, &[]))),
            Attribute(11),
        ),
        (
            with(|bytes| bytes.extend(attribute(21, &[1; 7]))),
            Attribute(21),
        ),
    ];
    if cfg!(target_endian = "big") {
        table.truncate(5);
    }
    for (bytes, error) in table {
        assert_eq!(socket(&bytes, 1), Err(error), "{bytes:?}");
    }
}

#[test]
fn messages_are_taken_one_by_one() {
    let bytes = [
        framed(SOCK_DIAG_BY_FAMILY, 2, 5, b"abc"),
        framed(1, 0, 5, b""),
        framed(SOCK_DIAG_BY_FAMILY, 2 | NLM_F_DUMP_INTR, 5, b""),
        framed(NLMSG_ERROR, 0, 5, &(-2i32).to_ne_bytes()),
        framed(NLMSG_OVERRUN, 0, 5, b""),
        framed(NLMSG_DONE, 0, 6, &0i32.to_ne_bytes()),
        framed(NLMSG_DONE, 0, 6, &(-105i32).to_ne_bytes()),
        framed(NLMSG_DONE, 0, 6, b""),
    ]
    .concat();
    let contents: Vec<_> = messages(&bytes)
        .map(|message| message.unwrap())
        .map(|message| (message.sequence, message.interrupted, message.content))
        .collect();
    assert_eq!(
        contents,
        [
            (5, false, Content::Socket(b"abc")),
            (5, false, Content::Other),
            (5, true, Content::Socket(b"")),
            (5, false, Content::Error(2)),
            (5, false, Content::Overrun),
            (6, false, Content::Done(None)),
            (6, false, Content::Done(Some(105))),
            (6, false, Content::Done(None)),
        ]
    );
}

/// A datagram of Linux 6.18: a dual-stack listener, a connection that it accepted and that has got 1234
/// bytes, and another whose end waits in `TIME_WAIT`.
#[test]
#[cfg(target_endian = "little")]
fn a_recorded_answer_of_a_kernel_is_understood() {
    let bytes = include_bytes!("../../../../fuzz/seeds/sock_diag/datagram");
    let contents: Vec<_> = messages(bytes)
        .map(|message| message.unwrap().content)
        .collect();
    let (last, sockets) = contents.split_last().unwrap();
    assert_eq!(*last, Content::Done(None));
    let sockets: Vec<_> = sockets
        .iter()
        .map(|content| match content {
            Content::Socket(bytes) => socket(bytes, 1).unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sockets.len(), 3);
    let of = |state| sockets.iter().find(|socket| socket.state == state).unwrap();
    let listener = of(State::LISTEN);
    assert_eq!((listener.lport, listener.v6only), (8080, Some(false)));
    assert!(listener.laddr.is_unspecified() && listener.laddr.is_ipv6());
    let accepted = of(State::ESTABLISHED);
    assert_eq!(accepted.laddr, IpAddr::from(Ipv4Addr::LOCALHOST));
    assert_eq!((accepted.family, accepted.lport), (AF_INET6, 8080));
    assert_eq!((accepted.rqueue, accepted.shutdown), (1234, Some(0)));
    assert_eq!(accepted.info.unwrap().bytes_received, Some(1234));
    assert!(accepted.cgroup.is_some() && accepted.inode.is_some());
    assert_eq!(accepted.uid, Some(0));
    let waiting = of(State::TIME_WAIT);
    let timer = waiting.timer.unwrap();
    assert_eq!(timer.kind, TimerKind::TimeWait);
    assert!((59_000..=60_000).contains(&timer.expires_ms), "{timer:?}");
    assert_eq!(
        (waiting.uid, waiting.inode, waiting.info),
        (None, None, None)
    );
    assert!(sockets.iter().all(|socket| socket.cookie != 0));
}

#[test]
fn a_malformed_message_ends_the_datagram() {
    use MalformedError::{Header, MessageLength, NoErrno};
    let good = framed(SOCK_DIAG_BY_FAMILY, 2, 5, b"");
    let mut says_less = good.clone();
    says_less[..4].copy_from_slice(&15u32.to_ne_bytes());
    let mut says_more = good.clone();
    says_more[..4].copy_from_slice(&17u32.to_ne_bytes());
    let mut says_nothing = good.clone();
    says_nothing[..4].copy_from_slice(&0u32.to_ne_bytes());
    let length = |length, left| MessageLength { length, left };
    for (bytes, error) in [
        (vec![1], Header(1)),
        (good[..15].to_vec(), Header(15)),
        ([&says_less[..], &good].concat(), length(15, 32)),
        (says_more, length(17, 16)),
        ([&says_nothing[..], &good].concat(), length(0, 32)),
        (framed(NLMSG_ERROR, 0, 1, b""), NoErrno),
        (framed(NLMSG_ERROR, 0, 1, &[1, 2, 3]), NoErrno),
        (framed(NLMSG_DONE, 0, 1, &[1]), NoErrno),
    ] {
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all, [Err(error)], "{bytes:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_messages_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for message in messages(&bytes).flatten() {
            if let Content::Socket(bytes) = message.content {
                let _ = socket(bytes, 1);
            }
        }
    }

    #[test]
    fn any_change_of_an_answer_is_a_socket_or_an_error(
        places in prop::collection::vec((0usize..120, any::<u8>()), 1..6),
        length in 0usize..120,
    ) {
        let mut bytes = answer();
        bytes.extend(attribute(8, &[3]));
        bytes.extend(attribute(21, &77u64.to_ne_bytes()));
        bytes.extend(attribute(2, &[7; 20]));
        for (at, value) in places {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(length);
        let _ = socket(&bytes, 1);
    }
}

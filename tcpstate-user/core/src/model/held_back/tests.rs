use std::net::IpAddr;

use proptest::{collection::vec, option, prelude::*};
use tcpstate_common::{State, record};

use super::*;
use crate::{
    cause::{Cause, ResetReason},
    event::{Process, SocketId},
    model::connection::{Connection, Stay, Traffic},
    owner::{Comm, Holder, How, Owner},
    service::Role,
};

prop_compose! {
    fn stays()(
        state in prop_oneof![0..14_u8, any::<u8>()],
        dwell_ns in option::of(any::<u64>()),
        at_least_ns in option::of(0..1_u64 << 40),
        sampled: bool,
        interval_ns in option::of(any::<u64>()),
    ) -> Stay {
        Stay { state: State(state), dwell_ns, at_least_ns, sampled, interval_ns }
    }
}

prop_compose! {
    fn owners()(
        pid in option::of(0..3_u32),
        comm in option::of(any::<[u8; 16]>()),
        how in prop_oneof![Just(How::Unknown), Just(How::Exact), Just(How::Listener), Just(How::Seeded)],
    ) -> Owner {
        Owner { pid, comm: comm.map(Comm), how }
    }
}

prop_compose! {
    fn connections()(
        (family, laddr, raddr) in (
            prop_oneof![Just(record::AF_INET), Just(record::AF_INET6)],
            option::of(any::<IpAddr>()),
            option::of(any::<IpAddr>()),
        ),
        (lport, rport) in (option::of(1..=u16::MAX), option::of(1..=u16::MAX)),
        role in prop_oneof![Just(Role::Unknown), Just(Role::Client), Just(Role::Server)],
        (owner, workers) in (owners(), option::of(1..4_u32)),
        (netns, uid, cgroup) in (option::of(0..3_u32), option::of(0..3_u32), option::of(any::<u64>())),
        (states, truncated) in (vec(stays(), 0..38), any::<bool>()),
        (first_ns, opened) in (any::<u64>(), any::<bool>()),
        (last_ns, there_ns, handshake_ns) in
            (option::of(any::<u64>()), option::of(any::<u64>()), option::of(any::<u64>())),
    ) -> Connection {
        let workers = workers.map(|workers| {
            let workers: Vec<Process> = (0..workers).map(|pid| Process { pid, comm: [1; 16] }).collect();
            Holder::list(None, &workers)
        });
        Connection {
            id: SocketId::Cookie(0),
            netns,
            family,
            laddr,
            lport,
            raddr,
            rport,
            role,
            service_port: role.service_port(lport.unwrap_or(0), rport.unwrap_or(0)),
            owner,
            processes: workers,
            uid,
            cgroup,
            states,
            truncated,
            first_ns,
            opened,
            last_ns,
            there_ns,
            handshake_ns,
        }
    }
}

prop_compose! {
    fn any_ended()(
        connection in connections(),
        // None of its own: that from the first transition to the last.
        lifetime_ns in option::of(option::of(any::<u64>())),
        cause in 0..200_u32,
        reason in 0..30_u8,
        goes_on in option::of(0..14_u8),
        traffic in option::of((any::<u64>(), 0..1_u64 << 20, any::<u32>(), option::of(any::<u32>()))),
    ) -> Ended {
        let span_ns = connection.last_ns.and_then(|ns| ns.checked_sub(connection.first_ns));
        Ended {
            lifetime_ns: lifetime_ns.unwrap_or(span_ns),
            connection,
            cause: Cause::of_number(cause),
            reset_reason: ResetReason::of_code(reason),
            goes_on: goes_on.map(State),
            traffic: traffic.map(|(bytes_sent, bytes_received, retransmits, srtt_us)| Traffic {
                bytes_sent,
                bytes_received,
                retransmits,
                srtt_us,
            }),
        }
    }
}

/// Puts these in, with their numbers as cookies.
fn put_all(held: &mut HeldBack, all: &[Ended]) -> Vec<Option<Handle>> {
    let numbered = all.iter().enumerate();
    numbered
        .map(|(number, ended)| held.put(number as u64, ended))
        .collect()
}

proptest! {
    #[test]
    fn what_is_held_back_comes_back_as_it_was(
        mut all in vec(any_ended(), 1..20),
        order in any::<prop::sample::Index>(),
    ) {
        for (number, ended) in all.iter_mut().enumerate() {
            ended.connection.id = SocketId::Cookie(number as u64);
        }
        let mut held = HeldBack::default();
        let mut handles = put_all(&mut held, &all);
        let by_end: Vec<u64> = {
            let mut ends: Vec<_> = all.iter().map(|one| (one.connection.last_ns, one.connection.id)).collect();
            ends.sort_unstable();
            let cookie = |id| match id {
                SocketId::Cookie(cookie) | SocketId::Address(cookie) => cookie,
            };
            ends.into_iter().map(|(_, id)| cookie(id)).collect()
        };
        prop_assert_eq!(held.by_end(), by_end);
        for left in (1..=all.len()).rev() {
            prop_assert_eq!(held.len(), left);
            let there: Vec<usize> = (0..all.len()).filter(|&at| handles[at].is_some()).collect();
            let at = there[order.index(left)];
            let handle = handles[at].take().unwrap();
            let taken = held.take(handle).unwrap();
            prop_assert_eq!(&taken.ended, &all[at]);
            if let Some(cookie) = taken.moved {
                handles[usize::try_from(cookie).unwrap()] = Some(handle);
            }
        }
        prop_assert_eq!(held.len(), 0);
    }
}

/// A connection as a busy host has many.
fn usual(number: u64, addr: IpAddr) -> Ended {
    let stay = |state, dwell_ns| Stay {
        state,
        dwell_ns: Some(dwell_ns),
        at_least_ns: None,
        sampled: false,
        interval_ns: None,
    };
    let first_ns = 10_000_000_000_000_000 + number * 50_000;
    let connection = Connection {
        id: SocketId::Cookie(number),
        netns: Some(4_026_531_840),
        family: record::AF_INET,
        laddr: Some(addr),
        lport: Some(40_000),
        raddr: Some(addr),
        rport: Some(443),
        role: Role::Client,
        service_port: Some(443),
        owner: Owner {
            pid: Some(1_000_000 + u32::try_from(number % 16).unwrap()),
            comm: Some(Comm(*b"a-name-of-15-ch\0")),
            how: How::Exact,
        },
        processes: None,
        uid: Some(1_000),
        cgroup: Some(123_456),
        states: vec![
            stay(State::SYN_SENT, 30_000_000),
            stay(State::ESTABLISHED, 3_000_000_000),
            stay(State::FIN_WAIT1, 30_000_000),
            stay(State::FIN_WAIT2, 30_000_000),
        ],
        truncated: false,
        first_ns,
        opened: true,
        last_ns: Some(first_ns + 3_090_000_000),
        there_ns: None,
        handshake_ns: Some(30_000_000),
    };
    Ended {
        connection,
        lifetime_ns: Some(3_090_000_000),
        cause: Cause::Fin,
        reset_reason: None,
        goes_on: Some(State::TIME_WAIT),
        traffic: Some(Traffic {
            bytes_sent: 10_000,
            bytes_received: 1_000_000,
            retransmits: 0,
            srtt_us: Some(30_000),
        }),
    }
}

#[test]
fn the_bytes_of_a_usual_connection_are_few_and_are_given_back() {
    const COUNT: u64 = 50_000;
    for (addr, most) in [("192.0.2.1", 80), ("2001:db8::1", 112)] {
        let mut held = HeldBack::default();
        let addr: IpAddr = addr.parse().unwrap();
        let all: Vec<Ended> = (0..COUNT).map(|number| usual(number, addr)).collect();
        let mut handles = put_all(&mut held, &all);
        let lists = held.lists.iter().enumerate();
        let used: usize = lists.map(|(at, list)| list.len * (at + 1) * STEP).sum();
        let each = used / all.len();
        assert!(each <= most, "{each} bytes for {addr}");
        assert!(held.shared.memory() < 8 * 1024);
        let full = held.memory();
        for at in 0..all.len() - 100 {
            let handle = handles[at].unwrap();
            let taken = held.take(handle).unwrap();
            let first_ns = taken.ended.connection.first_ns;
            assert_eq!(first_ns, all[at].connection.first_ns);
            let moved = taken.moved;
            if let Some(cookie) = moved {
                handles[usize::try_from(cookie).unwrap()] = Some(handle);
            }
        }
        assert!(held.memory() < full / 4, "{} of {full}", held.memory());
    }
}

//! Taking many segments at a time is for the caches of the processor only.

use super::*;

/// Handshakes and closes of so many connections, a packet of each after the other.
fn segments(connections: u32) -> Vec<Segment> {
    let side = |host: u32, port| Side {
        address: u128::from(host).to_be_bytes(),
        port,
    };
    let steps = [
        (true, SYN, 0, 0),
        (false, SYN | ACK, 0, 1),
        (true, ACK, 1, 1),
        (true, FIN | ACK, 1, 1),
        (false, ACK, 1, 2),
        (false, FIN | ACK, 1, 2),
        (true, ACK, 2, 2),
    ];
    let mut segments = Vec::new();
    for (is_client, flags, seq, ack) in steps {
        for host in 1..=connections {
            let (client, server) = (side(host, 40_000), side(0, 80));
            let (from, to) = if is_client {
                (client, server)
            } else {
                (server, client)
            };
            segments.push(Segment {
                number: 1,
                time_ns: 1,
                from,
                to,
                domain: 0,
                seq,
                ack,
                len: 0,
                window: 0,
                flags,
            });
        }
    }
    segments
}

#[test]
fn many_at_a_time_are_taken_as_one_after_the_other() {
    let segments = segments(3_000);
    // As many as the source takes, more, and one that is left over.
    let found = [None, Some(32), Some(100), Some(1)].map(|at_once| {
        let (mut machine, mut events) = (Machine::new(10_000), Vec::new());
        match at_once {
            None => {
                for segment in &segments {
                    machine.take(segment, &mut events);
                }
            }
            Some(at_once) => {
                for segments in segments.chunks(at_once) {
                    machine.take_all(segments, &mut events);
                }
            }
        }
        assert_eq!(machine.connections(), 3_000);
        events
    });
    let [expected, others @ ..] = found;
    assert_eq!(expected.len(), 10 * 3_000);
    for events in others {
        assert!(events == expected);
    }
}

/// Connections come and go while others of the same segments wait to be taken: there is room for fewer than there are.
#[test]
fn a_connection_that_goes_in_between_is_not_taken_for_another() {
    for most in [1, 2, 5, 20] {
        let segments: Vec<Segment> = (0..200_u32)
            .flat_map(|turn| {
                let mut some = segments(1 + turn % 7);
                let by = turn as usize % some.len();
                some.rotate_left(by);
                some
            })
            .collect();
        let (mut one, mut all) = (Machine::new(most), Machine::new(most));
        let (mut expected, mut events) = (Vec::new(), Vec::new());
        for segment in &segments {
            one.take(segment, &mut expected);
        }
        all.take_all(&segments, &mut events);
        assert!(one.evicted() > 0 || most == 20);
        assert_eq!((all.held(), all.evicted()), (one.held(), one.evicted()));
        assert!(events == expected, "{most}");
    }
}

//! No order of packets makes a transition that TCP does not have.

#[path = "../../../tests/support/of_tcp.rs"]
mod of_tcp;

use proptest::prelude::*;

use super::*;

/// Numbers near each other, so that they meet.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0..6_u32, 1 => any::<u32>()]
}

fn packet() -> impl Strategy<Value = (bool, u8, u32, u32, u32)> {
    let flags = prop_oneof![
        3 => Just(ACK),
        2 => Just(SYN),
        2 => Just(SYN | ACK),
        3 => Just(FIN | ACK),
        1 => Just(RST),
        1 => Just(RST | ACK),
        1 => any::<u8>(),
    ];
    (any::<bool>(), flags, number(), number(), 0..3_u32)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_packets_make_what_tcp_has_not(packets in prop::collection::vec(packet(), 0..40)) {
        let mut talk = Talk::new();
        for (is_client, flags, seq, ack, len) in packets {
            if is_client {
                talk.c(flags, seq, ack, len);
            } else {
                talk.s(flags, seq, ack, len);
            }
        }
        prop_assert_eq!(of_tcp::check(&talk.events), Ok(()));
    }

    /// A conversation with packets left out, repeated and exchanged.
    #[test]
    fn no_damage_to_a_conversation_makes_what_tcp_has_not(
        order in prop::collection::vec(0..14_usize, 0..40),
        is_sorted in any::<bool>(),
    ) {
        let whole = [
            (true, SYN, 0, 0, 0),
            (false, SYN | ACK, 0, 1, 0),
            (true, ACK, 1, 1, 0),
            (true, ACK, 1, 1, 3),
            (false, ACK, 1, 4, 0),
            (true, FIN | ACK, 4, 1, 0),
            (false, ACK, 1, 5, 0),
            (false, ACK, 1, 5, 2),
            (true, ACK, 5, 3, 0),
            (false, FIN | ACK, 3, 5, 0),
            (true, ACK, 5, 4, 0),
            (false, RST, 4, 0, 0),
            (true, SYN, 2000, 0, 0),
            (false, SYN | ACK, 70, 2001, 0),
        ];
        let mut order = order;
        if is_sorted {
            order.sort_unstable();
        }
        let mut talk = Talk::new();
        for at in order {
            let (is_client, flags, seq, ack, len) = whole[at];
            if is_client {
                talk.c(flags, seq, ack, len);
            } else {
                talk.s(flags, seq, ack, len);
            }
        }
        prop_assert_eq!(of_tcp::check(&talk.events), Ok(()));
    }
}

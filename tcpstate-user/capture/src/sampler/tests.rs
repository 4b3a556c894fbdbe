use tcpstate_core::inventory::Socket;

use super::{
    super::sockdiag::{testing::answer, wire},
    *,
};

fn socket(netns: u32, cookie: u32) -> Socket {
    let mut bytes = answer();
    // It has no timer.
    (bytes[1], bytes[2]) = (State::ESTABLISHED.0, 0);
    bytes[44..52].fill(0);
    bytes[44..48].copy_from_slice(&cookie.to_ne_bytes());
    wire::socket(&bytes, netns).unwrap()
}

#[test]
fn each_namespace_has_a_census_of_its_own() {
    let dumped = |netns| DumpedNetns {
        netns,
        name: String::new(),
        ts_ns: 1,
        wall_ns: 1,
        took_ns: 0,
        never_deferred: true,
        dump: tcpstate_core::inventory::DumpStats::default(),
    };
    let inventory = Inventory {
        // Two namespaces may have the same cookie.
        sockets: vec![socket(9, 1), socket(3, 2), socket(9, 2), socket(5, 7)],
        namespaces: vec![dumped(9), dumped(3), dumped(4)],
        ..Inventory::default()
    };
    let seen_before = [(9, 1), (3, 1), (3, 2), (9, 3), (4, 1), (5, 8)];
    let censuses = full_censuses(&inventory, &seen_before, Vec::new());
    for (netns, found, known) in [(3, &[2][..], &[1][..]), (4, &[], &[1]), (9, &[1, 2], &[3])] {
        let of = censuses.iter().filter(|census| census.netns == netns);
        let (mut all, mut before) = (Vec::new(), Vec::new());
        for census in of {
            all.extend(census.found.iter().map(|found| found.cookie));
            before.extend(census.known.iter().copied());
        }
        assert_eq!((&*all, &*before), (found, known), "{netns}");
    }
    assert!(censuses.iter().all(|census| census.netns != 5));
}

//! Any text in place of a kernel's text is parsed, or treated as absent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcpstate_capture::{
    host::{Lockdown, parse_version},
    procfs::ListenCounters,
};

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let counters = ListenCounters::parse(&text);
    assert!(counters == ListenCounters::default() || text.contains("TcpExt:"));
    assert!(Lockdown::parse(&text) == Lockdown::Unknown || text.contains('['));
    assert!(parse_version(&text).is_none() || text.contains('.'));
});

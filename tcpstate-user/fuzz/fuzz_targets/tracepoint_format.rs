//! Any text is a layout that the program can read, or is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcpstate_capture::layout::format;
use tcpstate_common::config::{TP_BASE, TP_BASE_LAZY};

fuzz_target!(|bytes: &[u8]| {
    match format::parse(&String::from_utf8_lossy(bytes)) {
        Ok(base) => assert!(base == TP_BASE || base == TP_BASE_LAZY),
        Err(error) => assert!(error.to_string().contains("--attach btf")),
    }
});

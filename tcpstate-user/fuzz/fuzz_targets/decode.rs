//! Any bytes give an event or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcpstate_common::Record;
use tcpstate_core::event::{DecodeError, Event};

fuzz_target!(|bytes: &[u8]| {
    match Event::decode(bytes) {
        Ok(event) => {
            assert_eq!(event.record().to_bytes(), bytes);
            let _ = (event.id(), event.laddr(), event.raddr(), event.is_ipv4());
            let _ = (
                event.uid(),
                event.error(),
                event.process(),
                event.netns(),
                event.cgroup(),
            );
            let _ = (
                event.oldstate().to_string(),
                event.newstate().folded().to_string(),
            );
        }
        Err(DecodeError::Length(length)) => {
            assert_eq!(length, bytes.len());
            assert_ne!(length, Record::SIZE);
        }
        Err(DecodeError::Family(family)) => assert_eq!(family, bytes[110]),
    }
});

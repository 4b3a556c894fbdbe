//! Any bytes are messages of the kernel, with sockets, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcpstate_capture::sockdiag::wire::{Content, messages, socket};

fuzz_target!(|bytes: &[u8]| {
    // Also parsed as the payload of a message, so that the mutator need not find a header first.
    parse_socket(bytes);
    let mut failed = false;
    for message in messages(bytes) {
        assert!(!failed, "nothing comes after an error");
        match message {
            Ok(message) => {
                if let Content::Socket(bytes) = message.content {
                    parse_socket(bytes);
                }
            }
            Err(error) => {
                let _ = error.to_string();
                failed = true;
            }
        }
    }
});

fn parse_socket(bytes: &[u8]) {
    match socket(bytes, 1) {
        Ok(socket) => {
            assert!(bytes.len() >= 72);
            assert_eq!(socket.family, bytes[0]);
            let _ = (socket.is_ipv4(), socket.state.to_string());
        }
        Err(error) => {
            let _ = error.to_string();
        }
    }
}

//! Any text in an argument is a value or an error, and any words are a command line or an error.
//!
//! The first byte selects the parser of the rest.
#![no_main]

use clap::Parser as _;
use libfuzzer_sys::fuzz_target;
use tcpstate_cli::{
    Cli,
    quantity::{parse_bytes, parse_duration},
};
use tcpstate_common::State;
use tcpstate_core::filter::{PortSet, StateSet};
use tcpstate_core::netns::NetnsSelector;

fuzz_target!(|input: &[u8]| {
    let Some((&which, rest)) = input.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(rest);
    match which % 6 {
        0 => match text.parse::<PortSet>() {
            Ok(ports) => {
                assert!(!ports.contains(0));
                // The header of a recording has this text, and its reader parses it.
                assert_eq!(ports.to_string().parse(), Ok(ports));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        },
        1 => match text.parse::<StateSet>() {
            Ok(states) => {
                assert_eq!(states.bits() & !StateSet::ALL.bits(), 0);
                assert!(!states.contains(State(0)));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        },
        2 => match parse_duration(&text) {
            Ok(duration) => assert!(!duration.is_zero()),
            Err(error) => assert!(!error.to_string().is_empty()),
        },
        3 => {
            if let Err(error) = parse_bytes(&text) {
                assert!(!error.to_string().is_empty());
            }
        }
        4 => {
            let _ = text.parse::<NetnsSelector>();
        }
        _ => {
            let words = ["tcpstate"].into_iter().chain(text.split('\n'));
            if let Err(error) = Cli::try_parse_from(words) {
                assert!(!error.to_string().is_empty());
            }
        }
    }
});
